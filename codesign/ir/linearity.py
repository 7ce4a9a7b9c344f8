"""Where the Hessian of a loss, in a weight or in a value of the graph, is exactly its Gauss-Newton matrix.

The Hessian of a loss `L(z(w))` in a tensor `w` is `J^T L'' J + sum_c L'_c d^2 z_c / dw^2`. If the logits `z` are
piecewise linear in `w`, with all else fixed, the second term vanishes almost everywhere. That holds if `w` is read once
(a weight) and each operation on the way to the logits is piecewise linear in what depends on `w`: a product of which
only one factor depends on it is allowed, a product of two that do is not.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import onnx_ir as ir

from codesign.ir.shapes import static_shape

Dependent = frozenset[int]
"""Positions of the operands that depend on the tensor in question; at least one."""

Rule = Callable[[ir.Node, Dependent], bool]
"""Whether a node is piecewise linear in the dependent operands, jointly."""


def gauss_newton_obstacle(node: ir.Node, shift_invariant_loss: bool = False) -> str | None:
    """Why the Hessian's block in a node's weight differs from its Gauss-Newton block.

    Args:
        node: A node with a constant weight as second operand, in a graph whose nodes stand in the order in which they
            run.
        shift_invariant_loss: Whether adding a number to all logits of a row leaves the loss as it is, as with
            cross-entropy; then a final LogSoftmax, which does just that, adds no curvature of its own.

    Returns:
        The first reason in the order of the graph, or None where the two blocks are equal.
    """
    weight = node.inputs[1]
    assert weight is not None
    if weight_uses(node) != 1:
        return f"its weight {weight.name!r} is used {weight_uses(node)} times"
    return _first_curve(_nodes_after(node), node.outputs, shift_invariant_loss)


def gauss_newton_obstacle_of_value(value: ir.Value, shift_invariant_loss: bool = False) -> str | None:
    """Why the Hessian in a value of the graph, which all its readers see changed, differs from its Gauss-Newton matrix.

    Args:
        value: The graph's input or a node's result, in a graph whose nodes stand in the order in which they run.
        shift_invariant_loss: See `gauss_newton_obstacle`.

    Returns:
        The first reason in the order of the graph, or None where the two matrices are equal.
    """
    producer = value.producer()
    if producer is not None:
        return _first_curve(_nodes_after(producer), (value,), shift_invariant_loss)
    graph = value.graph
    assert graph is not None
    return _first_curve(graph, (value,), shift_invariant_loss)


def weight_uses(node: ir.Node) -> int:
    """How often the graph reads the weight of a node.

    Args:
        node: A node with a constant weight as second operand.

    Returns:
        The number of operands that it is, and one more if it is the graph's output.
    """
    weight = node.inputs[1]
    assert weight is not None
    return len(weight.uses()) + int(weight.is_graph_output())


def _nodes_after(node: ir.Node) -> Iterable[ir.Node]:
    assert node.graph is not None
    nodes = iter(node.graph)
    for earlier in nodes:
        if earlier is node:
            break
    return nodes


def _first_curve(nodes: Iterable[ir.Node], sources: Iterable[ir.Value], shift_invariant_loss: bool) -> str | None:
    """The first node that is not piecewise linear in the sources, in words."""
    dependent = set(sources)
    for node in nodes:
        operands = frozenset(i for i, value in enumerate(node.inputs) if value in dependent)
        if any(isinstance(a, ir.Attr) and a.type in _SUBGRAPHS for a in node.attributes.values()):
            return f"{node.op_type} {node.name!r} holds a graph of its own"
        if not operands or _is_locally_constant(node, operands) or (shift_invariant_loss and _only_shifts_logits(node)):
            continue
        if node.domain not in _STANDARD or not RULES.get(node.op_type, _never)(node, operands):
            return f"{node.op_type} {node.name!r} after it is not piecewise linear in it"
        dependent.update(node.outputs)
    return None


_SUBGRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
_STANDARD = frozenset({"", "ai.onnx"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
LOCALLY_CONSTANT = _COMPARISONS | {"Ceil", "Floor", "Round", "Shape", "Sign", "Size"}
"""Operators whose results do not change with small changes of their operands, almost everywhere."""


def _is_locally_constant(node: ir.Node, operands: Dependent) -> bool:
    if node.domain not in _STANDARD:
        return False
    to_integers = node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) not in _FLOATS
    like = node.op_type == "CastLike" and operands == {1}  # only the type of its second operand matters
    return node.op_type in LOCALLY_CONSTANT or to_integers or like


def _only_shifts_logits(node: ir.Node) -> bool:
    result = node.outputs[0]
    if node.op_type != "LogSoftmax" or node.domain not in _STANDARD or result.uses() or not result.is_graph_output():
        return False
    axis, shape = node.attributes.get("axis"), static_shape(result)
    index = -1 if axis is None else axis.as_int()
    return index == -1 or (shape is not None and index == len(shape) - 1)


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


def _in_values(_: ir.Node, operands: Dependent) -> bool:
    return operands == {2}  # the weights of the average come from queries, keys and mask


def _cast_like(node: ir.Node, operands: Dependent) -> bool:
    like = node.inputs[1]
    return 0 in operands and like is not None and like.dtype in _FLOATS


def _batch_normalization(node: ir.Node, operands: Dependent) -> bool:
    training = node.attributes.get("training_mode")
    return operands == {0} and (training is None or not training.as_int())


def _einsum(_: ir.Node, operands: Dependent) -> bool:
    return len(operands) == 1


RULES: Mapping[str, Rule] = MappingProxyType({
    **dict.fromkeys(("Add", "Clip", "Concat", "Max", "Mean", "Min", "Sub", "Sum"), _in_all),
    **dict.fromkeys(("Abs", "Cast", "HardSigmoid", "Identity", "LeakyRelu", "Neg", "Relu"), _in_first),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _in_first),
    **dict.fromkeys(("ReduceL1", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _in_first),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"), _in_first),
    **dict.fromkeys(("DepthToSpace", "Expand", "Pad", "Slice", "SpaceToDepth", "Split"), _in_first),
    **dict.fromkeys(("CumSum", "Div", "Gather", "GatherElements", "GatherND", "Tile", "Trilu"), _in_first),
    **dict.fromkeys(("Dropout", "MaxPool"), _first_result_in_first),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "PRelu"), _in_one_factor),
    "Attention": _in_values,
    "BatchNormalization": _batch_normalization,
    "CastLike": _cast_like,
    "Einsum": _einsum,
    "Where": _in_branches,
})
"""ONNX operator to its rule; all others, apart from those that are locally constant, are taken to be curved."""
