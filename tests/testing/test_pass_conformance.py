from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from codesign.ir.annotation import Annotation, annotate, find, read
from codesign.ir.annotations import Work
from codesign.ir.program import Program
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, Pass, PassContext, TransformPass
from codesign.pass_manager.manager import PassManager
from codesign.passes.count_work import CountWorkPass
from codesign.testing.pass_conformance import check_pass, check_requirements
from codesign.testing.programs import small_program


class Density(Annotation):
    key: ClassVar[str] = "density"
    macs_per_element: float


@dataclass(frozen=True)
class DensityPass(AnalysisPass):
    name: ClassVar[str] = "density"
    requires: ClassVar[AnnotationSet] = frozenset({Work})
    provides: ClassVar[AnnotationSet] = frozenset({Density})
    scale: float = 1.0

    def run(self, program: Program, context: PassContext) -> None:
        for node in program.graph.graph:
            work = read(node, Work)
            annotate(node, Density(macs_per_element=self.scale * work.macs / work.output_elements))


@dataclass(frozen=True)
class CarefreeDensityPass(DensityPass):
    """Needs a fact that it does not require."""

    requires: ClassVar[AnnotationSet] = frozenset()

    def run(self, program: Program, context: PassContext) -> None:
        for node in program.graph.graph:
            work = find(node, Work)
            annotate(node, Density(macs_per_element=-1.0 if work is None else float(work.macs)))


@dataclass(frozen=True)
class AccumulatingPass(AnalysisPass):
    """Gives another result each time it runs."""

    name: ClassVar[str] = "accumulating"
    provides: ClassVar[AnnotationSet] = frozenset({Density})

    def run(self, program: Program, context: PassContext) -> None:
        for node in program.graph.graph:
            before = find(node, Density)
            annotate(node, Density(macs_per_element=1.0 if before is None else before.macs_per_element + 1))


@dataclass(frozen=True)
class RandomPass(AnalysisPass):
    name: ClassVar[str] = "random"
    provides: ClassVar[AnnotationSet] = frozenset({Density})
    generator: ClassVar[np.random.Generator] = np.random.default_rng()

    def run(self, program: Program, context: PassContext) -> None:
        for node in program.graph.graph:
            annotate(node, Density(macs_per_element=float(self.generator.random())))


@dataclass(frozen=True)
class CheatingPass(AnalysisPass):
    name: ClassVar[str] = "cheating"

    def run(self, program: Program, context: PassContext) -> None:
        program.graph.graph[1].op_type = "Sigmoid"


@dataclass(frozen=True)
class ForgetfulPass(DensityPass):
    def run(self, program: Program, context: PassContext) -> None:
        annotate(program.graph.graph[0], Density(macs_per_element=0.0))


@dataclass(frozen=True)
class NamelessPass(DensityPass):
    name: ClassVar[str] = "Density_Pass"


@dataclass(frozen=True)
class UnreadablePass(DensityPass):
    """Its text leaves out an option."""

    name: ClassVar[str] = "unreadable"
    hidden: int = field(default=0)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class NamePassingPass(TransformPass):
    """Gives a node's name to another operator."""

    name: ClassVar[str] = "name-passing"

    def run(self, program: Program, context: PassContext) -> None:
        program.graph.graph[1].op_type = "Sigmoid"


@dataclass(frozen=True)
class GrowingPass(TransformPass):
    """Adds one more node each time it runs."""

    name: ClassVar[str] = "growing"

    def run(self, program: Program, context: PassContext) -> None:
        graph = program.graph.graph
        output = graph.outputs[0]
        count = len(graph)
        result = ir.val(f"more_{count}_out", ir.DataType.FLOAT, [1, 5])
        graph.append(ir.Node("", "Relu", [output], outputs=[result], name=f"more_{count}"))
        graph.outputs[0] = result


def _counted() -> Program:
    program = small_program()
    PassManager([CountWorkPass()]).run(program, PassContext())
    return program


def test_good_passes_pass() -> None:
    check_pass(lambda: DensityPass(scale=0.1), _counted, PassContext())


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (CarefreeDensityPass, "depends on a fact that it does not require"),
        (AccumulatingPass, "a second run of accumulating changes the program"),
        (RandomPass, "the result of random depends on|two runs of random on equal programs differ"),
        (CheatingPass, "cheating breaks its declaration: .* is an AnalysisPass but changed"),
        (ForgetfulPass, "breaks its declaration: .* promised 'density' on 7 nodes but left out 'relu'"),
        (NamelessPass, "'Density_Pass' is not kebab-case"),
        (lambda: UnreadablePass(hidden=1), "'unreadable' reads back as"),
        (NamePassingPass, "node 'relu' was Relu and is now Sigmoid"),
        (GrowingPass, "a second run of growing changes the program"),
    ],
)
def test_each_check_catches_its_offender(factory: Callable[[], Pass], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_pass(factory, _counted, PassContext())


def test_a_program_without_the_required_facts_is_noticed() -> None:
    with pytest.raises(Exception, match="requires 'work'"):
        check_pass(DensityPass, small_program, PassContext())


def test_a_requirement_must_be_enforced() -> None:
    @dataclass(frozen=True)
    class ForgivenPass(DensityPass):
        """The manager is asked about a requirement that every graph fulfils."""

        requires: ClassVar[AnnotationSet] = frozenset({_Nowhere})

        def run(self, program: Program, context: PassContext) -> None:
            for node in program.graph.graph:
                annotate(node, Density(macs_per_element=1.0))

    with pytest.raises(AssertionError, match="requires 'nowhere' but was accepted without it"):
        check_requirements(ForgivenPass, small_program, PassContext())


class _Nowhere(Annotation):
    key: ClassVar[str] = "nowhere"

    @classmethod
    def applies_to(cls, node: ir.Node) -> bool:
        return False


def test_the_suite_needs_no_test_framework() -> None:
    import codesign.testing.pass_conformance as module

    assert "pytest" not in Path(str(module.__file__)).read_text()
