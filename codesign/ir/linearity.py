"""Which weights have a Hessian block that is exactly their Gauss-Newton block.

The Hessian of a loss `L(z(w))` in a weight `w` is `J^T L'' J + sum_c L'_c d^2 z_c / dw^2`. If the logits are piecewise
linear in `w`, with the other weights fixed, the second term vanishes almost everywhere. That holds if `w` is used once
and each operation between its node and the logits is piecewise linear in what depends on `w`: a product of which only
one factor depends on it is allowed, a product of two that do is not.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx_ir as ir

Dependent = frozenset[int]
"""Positions of the operands that depend on the weight in question; at least one."""

Rule = Callable[[ir.Node, Dependent], bool]
"""Whether a node is piecewise linear in the dependent operands, jointly."""


def gauss_newton_obstacle(node: ir.Node) -> str | None:
    """Why the Hessian's block in a node's weight differs from its Gauss-Newton block.

    Args:
        node: A node with a constant weight as second operand, in a graph whose nodes stand in the order in which they
            run.

    Returns:
        The first reason in the order of the graph, or None where the two blocks are equal.
    """
    weight = node.inputs[1]
    assert weight is not None and node.graph is not None
    if len(weight.uses()) != 1 or weight.is_graph_output():
        return f"its weight {weight.name!r} is used {len(weight.uses())} times"
    dependent = set(node.outputs)
    reached = False
    for later in node.graph:
        if not reached:
            reached = later is node
            continue
        operands = frozenset(i for i, value in enumerate(later.inputs) if value in dependent)
        if any(isinstance(a, ir.Attr) and a.type in _SUBGRAPHS for a in later.attributes.values()):
            return f"{later.op_type} {later.name!r} holds a graph of its own"
        if not operands or later.op_type in _VALUES_DO_NOT_MATTER:
            continue
        if later.domain not in {"", "ai.onnx"} or not RULES.get(later.op_type, _never)(later, operands):
            return f"{later.op_type} {later.name!r} after it is not piecewise linear in it"
        dependent.update(later.outputs)
    return None


_SUBGRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
_VALUES_DO_NOT_MATTER = frozenset({"Shape", "Size"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


def _never(_: ir.Node, __: Dependent) -> bool:
    return False


def _in_all(_: ir.Node, __: Dependent) -> bool:
    return True


def _in_first(_: ir.Node, operands: Dependent) -> bool:
    return operands == {0}


def _first_result_in_first(node: ir.Node, operands: Dependent) -> bool:
    return operands == {0} and not any(result.uses() or result.is_graph_output() for result in node.outputs[1:])


def _in_one_factor(_: ir.Node, operands: Dependent) -> bool:
    return not operands >= {0, 1}  # a third operand, the bias, is added


def _in_branches(_: ir.Node, operands: Dependent) -> bool:
    return 0 not in operands


def _cast(node: ir.Node, operands: Dependent) -> bool:
    return operands == {0} and ir.DataType(node.attributes["to"].as_int()) in _FLOATS


def _batch_normalization(node: ir.Node, operands: Dependent) -> bool:
    training = node.attributes.get("training_mode")
    return operands == {0} and (training is None or not training.as_int())


def _einsum(_: ir.Node, operands: Dependent) -> bool:
    return len(operands) == 1


RULES: Mapping[str, Rule] = MappingProxyType({
    **dict.fromkeys(("Add", "Concat", "Max", "Mean", "Min", "Sub", "Sum"), _in_all),
    **dict.fromkeys(("Abs", "Clip", "HardSigmoid", "Identity", "LeakyRelu", "Neg", "PRelu", "Relu"), _in_first),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _in_first),
    **dict.fromkeys(("ReduceL1", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _in_first),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"), _in_first),
    **dict.fromkeys(("DepthToSpace", "Expand", "Gather", "Pad", "Slice", "SpaceToDepth", "Split"), _in_first),
    **dict.fromkeys(("CumSum", "Tile", "Trilu", "Div"), _in_first),
    **dict.fromkeys(("Dropout", "MaxPool"), _first_result_in_first),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "Mul"), _in_one_factor),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Einsum": _einsum,
    "Where": _in_branches,
})
"""ONNX operator to its rule; all other operators are taken to be curved."""
