"""What must hold between an operator's attributes and the shapes of its operands; unknown shapes are not judged."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from codesign.ir.shapes import static_shape

OperatorRule = Callable[[ir.Node], Iterator[str]]
"""Yields one message for each way in which a node is not legal."""

Shape = tuple[int, ...]


def _operand(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _shape(node: ir.Node, index: int) -> Shape | None:
    value = _operand(node, index)
    return None if value is None else static_shape(value)


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _spatial_attributes(node: ir.Node, weight: Shape) -> Iterator[str]:
    rank = len(weight) - 2
    for name, length in (("kernel_shape", rank), ("strides", rank), ("dilations", rank), ("pads", 2 * rank)):
        attribute = node.attributes.get(name)
        if attribute is not None and len(attribute.as_ints()) != length:
            yield f"{name} has {len(attribute.as_ints())} entries, weight {list(weight)} needs {length}"
    kernel = node.attributes.get("kernel_shape")
    if kernel is not None and kernel.as_ints() != weight[2:]:
        yield f"kernel_shape is {list(kernel.as_ints())}, weight {list(weight)} says {list(weight[2:])}"


def _bias(node: ir.Node, index: int, channels: int) -> Iterator[str]:
    bias = _shape(node, index)
    if bias is not None and bias != (channels,):
        yield f"bias has shape {list(bias)}, allowed is [{channels}]"


def _convolution(node: ir.Node) -> Iterator[str]:
    x, weight, group = _shape(node, 0), _shape(node, 1), _int(node, "group", 1)
    if weight is None:
        return
    if len(weight) < 3 or (x is not None and len(x) != len(weight)):
        yield f"weight has {len(weight)} dimensions, input {'?' if x is None else len(x)}; both need 2 + spatial"
        return
    yield from _spatial_attributes(node, weight)
    if group < 1 or weight[0] % group:
        yield f"{weight[0]} output channels don't divide into {group} groups"
    if x is not None and x[1] != weight[1] * group:
        yield f"weight {list(weight)} with group {group} takes {weight[1] * group} channels, the input has {x[1]}"
    yield from _bias(node, 2, weight[0])


def _transposed_convolution(node: ir.Node) -> Iterator[str]:
    x, weight, group = _shape(node, 0), _shape(node, 1), _int(node, "group", 1)
    if weight is None:
        return
    if len(weight) < 3 or (x is not None and len(x) != len(weight)):
        yield f"weight has {len(weight)} dimensions, input {'?' if x is None else len(x)}; both need 2 + spatial"
        return
    yield from _spatial_attributes(node, weight)
    if x is not None and x[1] != weight[0]:
        yield f"weight {list(weight)} takes {weight[0]} channels, the input has {x[1]}"
    yield from _bias(node, 2, weight[1] * group)


def _gemm(node: ir.Node) -> Iterator[str]:
    a, b, c = _shape(node, 0), _shape(node, 1), _shape(node, 2)
    for name, shape in (("A", a), ("B", b)):
        if shape is not None and len(shape) != 2:
            yield f"{name} has shape {list(shape)}, allowed are matrices"
            return
    if a is not None and b is not None:
        inner_a, inner_b = a[0 if _int(node, "transA", 0) else 1], b[1 if _int(node, "transB", 0) else 0]
        if inner_a != inner_b:
            yield f"A {list(a)} and B {list(b)} have inner sizes {inner_a} and {inner_b}"
    if b is not None and c is not None and c:
        columns = b[0 if _int(node, "transB", 0) else 1]
        if c[-1] not in {1, columns}:
            yield f"C has shape {list(c)}, its last size must be {columns} or 1"


def _matmul(node: ir.Node) -> Iterator[str]:
    a, b = _shape(node, 0), _shape(node, 1)
    if not a or not b:
        return
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        yield f"operands {list(a)} and {list(b)} have inner sizes {a[-1]} and {inner}"


def _batch_normalization(node: ir.Node) -> Iterator[str]:
    x = _shape(node, 0)
    for index, name in enumerate(("scale", "bias", "mean", "variance"), start=1):
        parameter = _shape(node, index)
        channels = 1 if x is None or len(x) < 2 else x[1]
        if x is not None and parameter is not None and parameter != (channels,):
            yield f"{name} has shape {list(parameter)}, allowed is [{channels}]"


def _quantization(node: ir.Node) -> Iterator[str]:
    x, scale, zero_point = _shape(node, 0), _shape(node, 1), _shape(node, 2)
    if scale is not None and zero_point is not None and scale != zero_point:
        yield f"scale has shape {list(scale)} but zero point {list(zero_point)}"
    if x is not None and scale is not None and math.prod(scale) != 1 and not _int(node, "block_size", 0):
        axis = _int(node, "axis", 1)
        if not -len(x) <= axis < len(x):
            yield f"axis {axis} is outside an operand of shape {list(x)}"
        elif scale != (x[axis],):
            yield f"{math.prod(scale)} scales for axis {axis} of length {x[axis]}"
    yield from _scale_values(_operand(node, 1))


def _scale_values(scale: ir.Value | None) -> Iterator[str]:
    if scale is None or scale.const_value is None:
        return
    values = scale.const_value.numpy().astype(np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        yield "scales must be finite and above 0"


def _dequantization(node: ir.Node) -> Iterator[str]:
    yield from _quantization(node)
    x, zero_point = _operand(node, 0), _operand(node, 2)
    types = {value.dtype for value in (x, zero_point) if value is not None and value.dtype is not None}
    if len(types) > 1:
        yield f"operand and zero point differ in type ({', '.join(sorted(kind.name for kind in types))})"


OPERATOR_RULES: Mapping[str, OperatorRule] = {
    "BatchNormalization": _batch_normalization,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "DequantizeLinear": _dequantization,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "QuantizeLinear": _quantization,
}
"""ONNX operator to its rule; others have none."""
