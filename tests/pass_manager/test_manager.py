import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from codesign.errors import InputError, PassError
from codesign.ir.annotation import Annotation, annotate, annotations_of, find
from codesign.ir.annotations import WEIGHTED_OPERATORS, CostEstimate, QuantizationError, Work
from codesign.ir.program import Program
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, Pass, PassContext, TransformPass
from codesign.pass_manager.manager import PassManager
from codesign.testing.programs import GraphBuilder, small_program


class Colour(Annotation):
    key: ClassVar[str] = "colour"
    hue: float


class Shade(Annotation):
    key: ClassVar[str] = "shade"
    derived_from: ClassVar[tuple[type[Annotation], ...]] = (Colour,)
    depth: float


class Contrast(Annotation):
    key: ClassVar[str] = "contrast"
    derived_from: ClassVar[tuple[type[Annotation], ...]] = (Shade,)
    ratio: float


@dataclass(frozen=True)
class ColourPass(AnalysisPass):
    name: ClassVar[str] = "colour"
    provides: ClassVar[AnnotationSet] = frozenset({Colour})
    hue: float = 0.5
    skipped: str = ""

    def run(self, program: Program, context: PassContext) -> None:
        for node in program.graph.graph:
            if node.name != self.skipped:
                annotate(node, Colour(hue=self.hue))


@dataclass(frozen=True)
class ShadePass(AnalysisPass):
    name: ClassVar[str] = "shade"
    requires: ClassVar[AnnotationSet] = frozenset({Colour})
    provides: ClassVar[AnnotationSet] = frozenset((Shade, Contrast))

    def run(self, program: Program, context: PassContext) -> None:
        for node in program.graph.graph:
            annotate(node, Shade(depth=1.0))
            annotate(node, Contrast(ratio=2.0))


@dataclass(frozen=True)
class SneakyPass(AnalysisPass):
    """Writes a fact that it does not declare."""

    name: ClassVar[str] = "sneaky"

    def run(self, program: Program, context: PassContext) -> None:
        annotate(program.graph.graph[2], Colour(hue=1.0))


@dataclass(frozen=True)
class ScalePass(TransformPass):
    """Doubles the head's weight."""

    name: ClassVar[str] = "scale"
    factor: float = 2.0

    def run(self, program: Program, context: PassContext) -> None:
        weight = program.graph.graph.initializers["head.weight"]
        assert weight.const_value is not None
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(self.factor), name="head.weight")


@dataclass(frozen=True)
class ScalePreservingShadePass(ScalePass):
    name: ClassVar[str] = "scale-preserving-shade"
    preserves: ClassVar[AnnotationSet] = frozenset({Shade})


@dataclass(frozen=True)
class ScalePreservingAllPass(ScalePass):
    name: ClassVar[str] = "scale-preserving-all"
    preserves: ClassVar[AnnotationSet] = frozenset((Colour, Shade, Contrast))


def _keys(program: Program) -> set[str]:
    return {fact.key for node in program.graph.graph for fact in annotations_of(node)}


def _run(*passes: Pass) -> Program:
    program = small_program()
    PassManager(passes).run(program, PassContext())
    return program


def test_passes_run_in_order_and_leave_their_facts() -> None:
    program = _run(ColourPass(), ShadePass())
    assert _keys(program) == {"colour", "shade", "contrast"}


def test_a_requirement_that_nothing_provides_is_refused_before_anything_runs() -> None:
    program = small_program()
    with pytest.raises(PassError, match="shade requires 'colour', which no earlier pass provides"):
        PassManager([ScalePass(), ShadePass(), ColourPass()]).run(program, PassContext())
    assert _equal_weights(program, small_program())


def test_requirements_may_depend_on_options() -> None:
    @dataclass(frozen=True)
    class ChoosyPass(AnalysisPass):
        name: ClassVar[str] = "choosy"
        colourful: bool = False

        def required(self) -> AnnotationSet:
            return frozenset({Colour}) if self.colourful else frozenset()

        def run(self, program: Program, context: PassContext) -> None:
            pass

    _run(ChoosyPass())
    _run(ColourPass(), ChoosyPass(colourful=True))
    with pytest.raises(PassError, match=r"choosy\{colourful=true\} requires 'colour'"):
        _run(ChoosyPass(colourful=True))


def test_a_requirement_that_an_earlier_transform_destroys_is_refused() -> None:
    with pytest.raises(PassError, match="'colour', which scale makes stale"):
        _run(ColourPass(), ScalePass(), ShadePass())
    _run(ColourPass(), ScalePreservingAllPass(), ShadePass())


def test_a_requirement_that_the_graph_carries_on_every_node_is_accepted() -> None:
    program = _run(ColourPass())
    PassManager([ShadePass()]).run(program, PassContext())
    program.graph.graph[3].meta.invalidate("colour")
    with pytest.raises(PassError, match="does not carry on every node"):
        PassManager([ShadePass()]).run(program, PassContext())


def test_a_requirement_that_came_with_the_file_is_restored() -> None:
    program = small_program()
    for node in program.graph.graph:
        node.metadata_props["codesign.colour"] = json.dumps({"hue": 0.25})
    PassManager([ShadePass()]).run(program, PassContext())
    assert find(program.graph.graph[0], Colour) == Colour(hue=0.25)


def test_a_corrupted_fact_that_came_with_the_file_is_refused() -> None:
    program = small_program()
    program.graph.graph[0].metadata_props["codesign.colour"] = '{"hue": "blue"}'
    with pytest.raises(InputError, match=r"node 'stem': stored fact codesign\.colour is corrupted \(hue:"):
        PassManager([ShadePass()]).run(program, PassContext())


def test_a_transform_makes_stale_what_it_does_not_preserve_and_what_is_derived_from_that() -> None:
    assert _keys(_run(ColourPass(), ShadePass(), ScalePass())) == set()
    assert _keys(_run(ColourPass(), ShadePass(), ScalePreservingShadePass())) == set()
    assert _keys(_run(ColourPass(), ShadePass(), ScalePreservingAllPass())) == {"colour", "shade", "contrast"}


def test_a_transform_that_changes_nothing_makes_nothing_stale() -> None:
    assert _keys(_run(ColourPass(), ShadePass(), ScalePass(factor=1.0))) == {"colour", "shade", "contrast"}


def test_recomputing_a_fact_makes_what_is_derived_from_it_stale() -> None:
    program = _run(ColourPass(), ShadePass(), ColourPass(hue=0.7))
    assert _keys(program) == {"colour"}
    with pytest.raises(PassError, match="shade' is stale"):
        _read_shade(program)


def test_facts_of_unknown_kinds_survive_analyses_but_not_a_changed_graph() -> None:
    for last, survives in ((ColourPass(), True), (ScalePass(), False)):
        program = small_program()
        node = program.graph.graph[0]
        node.metadata_props.update({"codesign.flavour": '{"sweet":1}', "codesign.weight-bits": "3", "other": "{}"})
        PassManager([last]).run(program, PassContext())
        assert ("codesign.flavour" in node.metadata_props) == survives
        assert node.metadata_props["codesign.weight-bits"] == "3"
        assert node.metadata_props["other"] == "{}"


def test_work_and_costs_are_tied() -> None:
    assert CostEstimate.derived_from == (Work,)


def test_a_promise_must_be_kept_on_every_node() -> None:
    with pytest.raises(PassError, match=r"promised 'colour' on 7 nodes but left out 'relu' \(Relu\)"):
        _run(ColourPass(skipped="relu"))


def test_a_fact_with_nan_is_refused() -> None:
    with pytest.raises(PassError, match="wrote NaN into 'colour' of 'stem'"):
        _run(ColourPass(hue=float("nan")))


def test_an_undeclared_fact_is_refused() -> None:
    with pytest.raises(PassError, match="sneaky wrote 'colour' on node 'branch' undeclared"):
        _run(SneakyPass())


def test_facts_that_only_some_nodes_carry_are_expected_only_there() -> None:
    @dataclass(frozen=True)
    class OnWeightsPass(AnalysisPass):
        name: ClassVar[str] = "on-weights"
        provides: ClassVar[AnnotationSet] = frozenset({QuantizationError})

        def run(self, program: Program, context: PassContext) -> None:
            for node in program.weighted_nodes:
                annotate(node, QuantizationError(by_bits=()))

    program = _run(OnWeightsPass())
    assert {n.op_type for n in program.graph.graph if find(n, QuantizationError)} <= WEIGHTED_OPERATORS


def _rewire(program: Program) -> None:
    node = next(node for node in program.graph.graph if node.name == "join")
    node.replace_input_with(0, node.inputs[1])


def _poke_weight(program: Program) -> None:
    weight = program.graph.graph.initializers["stem.weight"].const_value
    assert weight is not None
    weight.numpy()[0, 0, 0, 0] += 1


def _set_attribute(program: Program) -> None:
    node = program.graph.graph[0]
    node.attributes["group"] = ir.AttrInt64("group", 1)


def _rename(program: Program) -> None:
    program.graph.graph[0].name = "renamed"


def _decide(program: Program) -> None:
    program.graph.graph[0].metadata_props["codesign.weight-bits"] = "4"


@pytest.mark.parametrize("change", [_rewire, _poke_weight, _set_attribute, _rename, _decide])
def test_an_analysis_that_changes_the_graph_is_refused(change: object) -> None:
    @dataclass(frozen=True)
    class CheatingPass(AnalysisPass):
        name: ClassVar[str] = "cheating"

        def run(self, program: Program, context: PassContext) -> None:
            assert callable(change)
            change(program)

    with pytest.raises(PassError, match="cheating is an AnalysisPass but changed"):
        _run(CheatingPass())


def test_an_unexpected_exception_names_pass_and_node() -> None:
    @dataclass(frozen=True)
    class CrashingPass(AnalysisPass):
        name: ClassVar[str] = "crashing"
        at: str = "pool"

        def run(self, program: Program, context: PassContext) -> None:
            for node in program.graph.graph:
                _crash(node, self.at)

    with pytest.raises(
        PassError, match=r"pass crashing failed at node 'pool' \(GlobalAveragePool\): ZeroDivisionError"
    ):
        _run(CrashingPass())


def _crash(node: ir.Node, at: str) -> float:
    return 1 / (node.name != at)


def test_errors_meant_for_the_user_pass_through() -> None:
    @dataclass(frozen=True)
    class RefusingPass(AnalysisPass):
        name: ClassVar[str] = "refusing"

        def run(self, program: Program, context: PassContext) -> None:
            raise InputError("no data; give some")

    with pytest.raises(InputError, match=r"^no data; give some$"):
        _run(RefusingPass())


def test_the_verifier_blames_the_pass_that_broke_the_graph() -> None:
    @dataclass(frozen=True)
    class SpoilPass(TransformPass):
        name: ClassVar[str] = "spoil"

        def run(self, program: Program, context: PassContext) -> None:
            _poke_nan(program)

    with pytest.raises(PassError, match="pass spoil left a graph that is not legal"):
        _run(ColourPass(), SpoilPass())
    program = small_program()
    PassManager([SpoilPass()], verify=False).run(program, PassContext())
    with pytest.raises(InputError, match="input of the pipeline: the graph is not legal"):
        PassManager([ColourPass()]).run(program, PassContext())


def test_shapes_that_were_known_must_stay_known() -> None:
    @dataclass(frozen=True)
    class ForgetPass(TransformPass):
        name: ClassVar[str] = "forget"

        def run(self, program: Program, context: PassContext) -> None:
            program.graph.graph[1].outputs[0].shape = None

    with pytest.raises(PassError, match=r"node 'relu' \(Relu\): result 'relu_out' has shape unknown"):
        _run(ForgetPass())
    build = GraphBuilder((1, 3))
    open_program = build.finish(build.add("Relu", "relu", [build.input]), shapes=False)
    PassManager([ColourPass()]).run(open_program, PassContext())


def _poke_nan(program: Program) -> None:
    weight = program.graph.graph.initializers["stem.weight"].const_value
    assert weight is not None
    weight.numpy()[0, 0, 0, 0] = np.nan


def _read_shade(program: Program) -> None:
    from codesign.ir.annotation import read

    read(program.graph.graph[0], Shade)


def _equal_weights(first: Program, second: Program) -> bool:
    weights = [p.graph.graph.initializers["head.weight"].const_value for p in (first, second)]
    assert weights[0] is not None and weights[1] is not None
    return bool((weights[0].numpy() == weights[1].numpy()).all())
