"""The pass `count-work`: what every node computes and moves."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from codesign.errors import PassError, UnsupportedOperatorError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import Work
from codesign.ir.multiply_accumulates import MAC_RULES, shape_of
from codesign.ir.program import Program
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext


@dataclass(frozen=True)
class CountWorkPass(AnalysisPass):
    """Counts multiply-accumulates, elements and bytes of every node, exactly, from shapes and types."""

    name: ClassVar[str] = "count-work"
    provides: ClassVar[AnnotationSet] = frozenset({Work})

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node.

        Args:
            program: The network, with static shapes.
            context: Not used.
        """
        nodes = list(program.graph.graph)
        refuse_unknown_operators(nodes)
        for node in nodes:
            annotate(node, work_of(node))


def refuse_unknown_operators(nodes: Iterable[ir.Node]) -> None:
    """Checks that the work of every node is known.

    Args:
        nodes: Nodes of a graph.

    Raises:
        UnsupportedOperatorError: Some operators have no entry in `MAC_RULES`; all are listed.
    """
    unknown: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.domain or node.op_type not in MAC_RULES:
            unknown[f"{node.domain}.{node.op_type}".lstrip(".")].append(repr(node.name))
    if unknown:
        listed = "".join(f"\n  {operator}: {', '.join(names)}" for operator, names in sorted(unknown.items()))
        raise UnsupportedOperatorError(
            f"count-work does not know the work of {len(unknown)} operators; "
            f"lower the network without them or add them to MAC_RULES:{listed}"
        )


def work_of(node: ir.Node) -> Work:
    """The work of one node; an operand that it reads twice is moved once.

    Args:
        node: A node whose operator is in `MAC_RULES`.

    Returns:
        The counts.
    """
    operands = [value for value in dict.fromkeys(node.inputs) if value is not None]
    constants = [value for value in operands if value.const_value is not None]
    variables = [value for value in operands if value.const_value is None]
    results = [value for value in node.outputs if value.name]
    shapes = {value: shape_of(node, value) for value in (*operands, *results)}
    return Work(
        macs=MAC_RULES[node.op_type](node),
        weight_elements=sum(math.prod(shapes[value]) for value in constants if len(shapes[value]) >= 2),
        input_elements=sum(math.prod(shapes[value]) for value in variables),
        output_elements=sum(math.prod(shapes[value]) for value in results),
        weight_bytes=sum(_bytes(node, value, shapes[value]) for value in constants),
        input_bytes=sum(_bytes(node, value, shapes[value]) for value in variables),
        output_bytes=sum(_bytes(node, value, shapes[value]) for value in results),
    )


def _bytes(node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> int:
    kind = value.dtype if value.const_value is None else value.const_value.dtype
    if kind is None:
        raise PassError(f"node {node.name!r} ({node.op_type}): {value.name!r} has no type; run infer-shapes before")
    return -(-math.prod(shape) * kind.bitwidth // 8)
