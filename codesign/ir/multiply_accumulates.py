"""Multiply-accumulates of every operator, as a table from operator to formula.

Convention: one MAC is one multiplication whose product is added into a sum, in convolutions and matrix products; biases
are not counted. Pooling, elementwise operators, normalisation and data movement have none: what they cost is traffic.
"""

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from codesign.errors import InputError, PassError
from codesign.ir.shapes import static_shape

MacRule = Callable[[ir.Node], int]
Shape = tuple[int, ...]


def shape_of(node: ir.Node, value: ir.Value | None) -> Shape:
    """The shape of an operand or result.

    Args:
        node: Who reads or writes it, for the message.
        value: The operand or result.

    Returns:
        Its sizes.

    Raises:
        PassError: A size is not known.
    """
    shape = None if value is None else static_shape(value)
    if shape is None:
        name = None if value is None else value.name
        raise PassError(
            f"node {node.name!r} ({node.op_type}): the shape of {name!r} is not known; run infer-shapes before"
        )
    return shape


def _convolution(node: ir.Node) -> int:
    """Output elements times [C_in / group, K...]."""
    weight = shape_of(node, node.inputs[1])
    return math.prod(shape_of(node, node.outputs[0])) * math.prod(weight[1:])


def _transposed_convolution(node: ir.Node) -> int:
    """Input elements times [C_out / group, K...]; border products that fall outside the output are counted."""
    weight = shape_of(node, node.inputs[1])
    return math.prod(shape_of(node, node.inputs[0])) * math.prod(weight[1:])


def _gemm(node: ir.Node) -> int:
    a = shape_of(node, node.inputs[0])
    transposed = node.attributes.get("transA")
    inner = a[0] if transposed is not None and transposed.as_int() else a[1]
    return math.prod(shape_of(node, node.outputs[0])) * inner


def _matmul(node: ir.Node) -> int:
    return math.prod(shape_of(node, node.outputs[0])) * shape_of(node, node.inputs[0])[-1]


def _einsum(node: ir.Node) -> int:
    """Product of the sizes of all labels if two operands are contracted; without a sum it is elementwise."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) < 2:
        return 0
    if len(terms) > 2 or "->" not in equation:
        raise InputError(
            f"node {node.name!r} (Einsum): the work of {equation!r} depends on the order of evaluation; "
            f"write it as products of two operands with '->'"
        )
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        for label, size in _labelled(term, shape_of(node, value)):
            sizes[label] = max(size, sizes.get(label, 1))
    summed = [label for label in sizes if label.isalpha() and label not in right]
    return math.prod(sizes.values()) if summed else 0


def _labelled(term: str, shape: Shape) -> list[tuple[str, int]]:
    head, _, tail = term.partition("...")
    hidden = len(shape) - len(head) - len(tail)
    labels = [*head, *(str(index - hidden) for index in range(hidden)), *tail]
    return list(zip(labels, shape, strict=True))


def _attention(node: ir.Node) -> int:
    """Q K^T and its product with V: batch x heads x queries x keys x (size of a query + size of a value)."""
    query, key, value = (shape_of(node, operand) for operand in node.inputs[:3])
    past = node.inputs[4] if len(node.inputs) > 4 else None
    if len(query) == 4:
        rows, depth, keys, value_depth = math.prod(query[:3]), query[3], key[2], value[3]
    else:
        heads, kv_heads = (node.attributes[name].as_int() for name in ("q_num_heads", "kv_num_heads"))
        rows, depth = query[0] * query[1] * heads, query[2] // heads
        keys, value_depth = key[1], value[2] // kv_heads
    keys += 0 if past is None else shape_of(node, past)[2]
    return rows * keys * (depth + value_depth)


def _none(_: ir.Node) -> int:
    return 0


_WITHOUT_MACS = (
    # elementwise
    *("Abs", "Add", "And", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu"),
    *("Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"),
    *("HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod"),
    *("Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"),
    *("Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
    # pooling, reduction and normalisation
    *("ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "CumSum", "GlobalAveragePool", "GlobalLpPool"),
    *("GlobalMaxPool", "GroupNormalization", "Hardmax", "InstanceNormalization", "LRN", "LayerNormalization"),
    *("LogSoftmax", "LpNormalization", "LpPool", "MaxPool", "MeanVarianceNormalization", "RMSNormalization"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare", "Softmax", "TopK"),
    # data movement and constants
    *("Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "EyeLike", "Flatten", "Gather"),
    *("GatherElements", "GatherND", "Identity", "OneHot", "Pad", "Range", "Reshape", "Resize", "ReverseSequence"),
    *("RotaryEmbedding", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze"),
    *("Tile", "Transpose", "Trilu", "Unsqueeze"),
    # number formats
    *("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
)

MAC_RULES: Mapping[str, MacRule] = {
    **dict.fromkeys(_WITHOUT_MACS, _none),
    "Attention": _attention,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
}
"""ONNX operator (of the default domain) to its multiply-accumulates for one run of the node."""
