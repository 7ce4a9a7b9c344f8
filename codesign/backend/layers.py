"""Kernels and constants of convolutions and dense layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from codesign.backend.kernels.amx_convolution import amx_convolution, bfloat16_convolution
from codesign.backend.kernels.amx_tiles import (
    amx_applies,
    amx_weights,
    bfloat16_applies,
    bfloat16_weights,
    packed_rows,
    sum_blocks,
    worth_threads,
)
from codesign.backend.kernels.depthwise import depthwise_applies, depthwise_weights, float_depthwise
from codesign.backend.kernels.epilogue import FloatEpilogue, IntegerEpilogue
from codesign.backend.kernels.float_convolution import float_convolution
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.integer_convolution import inner_channels, integer_convolution
from codesign.backend.kernels.matrix_vector import float_matrix_vector, integer_matrix_vector
from codesign.backend.kernels.packed_matrix_vector import packed_matrix_vector, shared_steps
from codesign.backend.kernels.packing import INNER, LANES, block_weights, pack_planes
from codesign.backend.operations import Convolution, Quantization


@dataclass(frozen=True, eq=False)
class LayerConstants:
    """Constant arguments of a layer's kernel.

    Attributes:
        arguments: In the kernel's order, after the input.
        stored: Those that are the layer's weights: packed weights, bias, scales.
    """

    arguments: tuple[NDArray[np.generic], ...]
    stored: tuple[NDArray[np.generic], ...]


def runs_on_amx(layer: Convolution, shape: ConvolutionShape, isa: InstructionSet) -> bool:
    """Whether a layer's kernel uses AMX tiles.

    Args:
        layer: The layer.
        shape: Its loop bounds.
        isa: The processor.

    Returns:
        Whether it does.
    """
    if _is_vector(shape):
        return False
    if layer.weight.scale is None:
        return isa.bfloat16 and bfloat16_applies(shape)
    return isa.amx and amx_applies(shape)


def _is_vector(shape: ConvolutionShape) -> bool:
    """Whether a layer is a product of a matrix and one row."""
    return shape.out_height * shape.out_width == 1 and shape.kernel == (1, 1) and shape.groups == 1


def layer_kernel(
    layer: Convolution, shape: ConvolutionShape, isa: InstructionSet, threads: int, asks_for_amx: bool = False
) -> tuple[tuple[object, ...], Callable[[], tirx.PrimFunc]]:
    """The kernel of a layer.

    Args:
        layer: The layer.
        shape: Its loop bounds.
        isa: The processor.
        threads: Threads to schedule for.
        asks_for_amx: Whether this is the first kernel of a network on AMX, which asks for permission.

    Returns:
        What identifies the kernel among all, and how to write it.
    """
    if layer.weight.scale is None:
        return _float_kernel(layer, shape, isa, threads, asks_for_amx)
    vector = _is_vector(shape)
    size = (shape.in_channels, shape.out_channels)
    epilogue, bits = _integer_epilogue(layer), layer.weight.bits
    if vector:
        key = (f"dense_i{bits}", *size, epilogue)
        if shared_steps(shape.in_channels, bits, isa):
            return key, lambda: packed_matrix_vector(*size, bits, epilogue, isa, threads)
        return key, lambda: integer_matrix_vector(*size, bits, epilogue, isa, threads)
    if runs_on_amx(layer, shape, isa):
        name = (f"conv_amx_i{bits}", shape, epilogue, asks_for_amx)
        used = threads if worth_threads(shape) else 1
        return name, lambda: amx_convolution(shape, bits, epilogue, used, asks_for_amx)
    return (f"conv_i{bits}", shape, epilogue), lambda: integer_convolution(shape, bits, epilogue, isa, threads)


def _float_kernel(
    layer: Convolution, shape: ConvolutionShape, isa: InstructionSet, threads: int, asks_for_amx: bool
) -> tuple[tuple[object, ...], Callable[[], tirx.PrimFunc]]:
    residual, size = layer.residual, (shape.in_channels, shape.out_channels)
    real = FloatEpilogue(layer.clamp) if residual is None else FloatEpilogue(layer.clamp, True, residual.clamp)
    if _is_vector(shape):
        return ("dense_f32", *size, real), lambda: float_matrix_vector(*size, real, isa, threads)
    if depthwise_applies(shape):
        return ("depthwise_f32", shape, real), lambda: float_depthwise(shape, real, threads)
    if runs_on_amx(layer, shape, isa):
        used = threads if worth_threads(shape) else 1
        name = ("conv_amx_bf16", shape, real, asks_for_amx)
        return name, lambda: bfloat16_convolution(shape, real, used, asks_for_amx)
    return ("conv_f32", shape, real), lambda: float_convolution(shape, real, isa, threads)


def _integer_epilogue(layer: Convolution) -> IntegerEpilogue:
    place: Literal["first", "second"] | None = None
    if layer.residual is not None:
        place = "first" if layer.residual.first else "second"
    return IntegerEpilogue("float32" if layer.output.quantization is None else "uint8", place)


def layer_constants(layer: Convolution, shape: ConvolutionShape, isa: InstructionSet) -> LayerConstants:
    """Weights, bias and, for integers, scales and requantisation factors.

    Args:
        layer: The layer.
        shape: Its loop bounds.
        isa: The processor.

    Returns:
        The constants.
    """
    if layer.weight.scale is None:
        return _float_constants(layer, shape, isa)
    values = layer.weight.values
    channels = values.shape[0]
    x = layer.x.quantization
    assert x is not None
    inner = INNER if runs_on_amx(layer, shape, isa) else inner_channels(shape, isa)
    weight = block_weights(_with_input_channels(values, shape), inner)
    if runs_on_amx(layer, shape, isa):
        weight = amx_weights(weight, sum_blocks(shape))
    steps = shared_steps(shape.in_channels, layer.weight.bits, isa) if _is_vector(shape) else 0
    if steps:
        weight = weight.reshape(weight.shape[0], -1, steps * LANES * INNER)
        weight = pack_planes(weight, layer.weight.bits)
    elif layer.weight.bits < 8 and runs_on_amx(layer, shape, isa):
        together = packed_rows(shape, layer.weight.bits) * LANES * INNER
        weight = pack_planes(weight.reshape(shape.blocks, -1, together), layer.weight.bits)
    elif layer.weight.bits < 8:
        weight = pack_planes(weight.reshape(*weight.shape[:4], -1), layer.weight.bits)
    bias = np.zeros(shape.out_channels, np.int32)
    bias[:channels] = -x.zero_point * values.astype(np.int64).sum(axis=(1, 2, 3))
    if layer.bias is not None:
        bias[:channels] += layer.bias.astype(np.int32)
    scale = np.zeros(shape.out_channels, np.float32)
    scale[:channels] = _channel_scale(layer, x)
    zeros, factors = _requantization(layer, x)
    return LayerConstants((weight, bias, scale, zeros, factors), (weight, bias, scale))


def _float_constants(layer: Convolution, shape: ConvolutionShape, isa: InstructionSet) -> LayerConstants:
    values = _with_input_channels(layer.weight.values, shape).astype(np.float32)
    weight: NDArray[np.generic] = block_weights(values, 1)[..., 0]
    if depthwise_applies(shape):
        weight = depthwise_weights(layer.weight.values)
    elif runs_on_amx(layer, shape, isa):
        weight = bfloat16_weights(values, shape)
    bias = np.zeros(shape.out_channels, np.float32)
    bias[: layer.weight.values.shape[0]] = 0 if layer.bias is None else layer.bias
    return LayerConstants((weight, bias), (weight, bias))


def _with_input_channels(values: NDArray[np.generic], shape: ConvolutionShape) -> NDArray[np.generic]:
    """Weights padded with zeros for input channels that are only stored."""
    missing = shape.reduction_channels - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else values


def _channel_scale(layer: Convolution, x: Quantization) -> NDArray[np.float32]:
    """s_x s_w / s_y for each channel, in the order in which onnxruntime rounds it; s_x s_w for float32 results."""
    assert layer.weight.scale is not None
    scale = np.float32(x.scale) * layer.weight.scale.astype(np.float32)
    result = layer.output if layer.residual is None else layer.residual.middle
    if result.quantization is not None:
        scale /= np.float32(result.quantization.scale)
    return scale.astype(np.float32)


def _requantization(layer: Convolution, x: Quantization) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Zero points and factors as in kernels/epilogue.py."""
    y = layer.output.quantization
    if y is None:
        low = -np.inf if layer.clamp.low is None else layer.clamp.low
        high = np.inf if layer.clamp.high is None else layer.clamp.high
        return np.array([x.zero_point, 0, 0, 0], np.int32), np.array([low, high, 0, 0, 0, 0, 0], np.float32)
    if layer.residual is None:
        bounds = np.array([*y.bounds(layer.clamp), 0, 0, 0, 0, 0], np.float32)
        return np.array([x.zero_point, 0, y.zero_point, 0], np.int32), bounds
    middle, added = layer.residual.middle.quantization, layer.residual.tensor.quantization
    assert middle is not None
    assert added is not None
    first, second = (added, middle) if layer.residual.first else (middle, added)
    offset, factor_first, factor_second = addition_factors(first, second, y)
    of_middle, of_added = (factor_second, factor_first) if layer.residual.first else (factor_first, factor_second)
    low, high = (float(np.rint(bound + y.zero_point)) for bound in y.bounds(layer.residual.clamp))
    factors = (low, high, *middle.bounds(layer.clamp), of_middle, of_added, offset)
    zeros = np.array([x.zero_point, middle.zero_point, y.zero_point, 0], np.int32)
    return zeros, np.array(factors, np.float32)


def addition_factors(a: Quantization, b: Quantization, y: Quantization) -> tuple[float, float, float]:
    """Offset and factors of a quantised addition in float32, as in kernels/elementwise.py.

    The offset is z_y - fma(f_b, z_b, f_a z_a) with each step rounded to float32, as in MLAS.

    Args:
        a: First operand.
        b: Second operand.
        y: Result.

    Returns:
        offset, f_a, f_b.
    """
    factor_a = np.float32(a.scale) / np.float32(y.scale)
    factor_b = np.float32(b.scale) / np.float32(y.scale)
    first = np.float64(factor_a * np.float32(a.zero_point))
    shift = np.float32(np.float64(factor_b) * b.zero_point + first)
    return float(np.float32(y.zero_point) - shift), float(factor_a), float(factor_b)
