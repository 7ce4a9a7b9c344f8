"""ONNX's QuantizeLinear and DequantizeLinear, per tensor and per axis."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.attributes import EXACT_TYPES, Attributes

_RANGES: dict[ir.DataType, tuple[int, int]] = {
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}


def _along_axis(node: Attributes, parameter: Tensor, x: Tensor) -> Tensor:
    """Shapes a scale or zero point so that it broadcasts against `x` along the node's axis."""
    if parameter.dim() == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    axis = node.integer("axis", 1) % x.dim()
    if parameter.shape != x.shape[axis : axis + 1]:
        raise InputError(
            f"{node.where}: scales of shape {tuple(parameter.shape)} do not fit axis {axis} of {tuple(x.shape)}; "
            f"one scale, or one per element of the axis, is supported"
        )
    return parameter.reshape([-1 if i == axis else 1 for i in range(x.dim())])


def quantized_type(node: Attributes) -> ir.DataType:
    """ONNX type of the integers that a QuantizeLinear node writes.

    Args:
        node: A QuantizeLinear node.

    Returns:
        The zero point's type, else the attribute's, else UINT8.

    Raises:
        InputError: The type is not an integer of 2 to 32 bits.
    """
    named = node.integer("output_dtype", 0)
    kind = node.operand_type(2) or (ir.DataType(named) if named else ir.DataType.UINT8)
    if kind not in _RANGES:
        raise InputError(f"{node.where}: quantises to {kind.name}; allowed are {', '.join(k.name for k in _RANGES)}")
    return kind


def _quantize(node: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    kind = quantized_type(node)
    levels = torch.round(x / _along_axis(node, scale, x))
    if zero_point is not None:
        levels = levels + _along_axis(node, zero_point, x).to(levels.dtype)
    return levels.clamp(*_RANGES[kind]).to(EXACT_TYPES[kind])


def _dequantize(node: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    levels = x.to(torch.int32)
    if zero_point is not None:
        levels = levels - _along_axis(node, zero_point, x).to(torch.int32)
    return levels.to(scale.dtype) * _along_axis(node, scale, x)


QUANTIZATION: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
})
"""Operators between floats and integers."""
