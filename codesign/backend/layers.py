"""Kernels and constants of convolutions and dense layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from codesign.backend.kernels.amx_convolution import (
    amx_convolution,
    amx_tiling,
    bfloat16_convolution,
    bfloat16_tiling,
)
from codesign.backend.kernels.amx_tiles import amx_applies, amx_weights, bfloat16_applies, bfloat16_weights, sum_blocks
from codesign.backend.kernels.depthwise import (
    depthwise_applies,
    depthwise_tiling,
    depthwise_weights,
    float_depthwise,
)
from codesign.backend.kernels.epilogue import FloatEpilogue, IntegerEpilogue
from codesign.backend.kernels.float_convolution import float_convolution
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.integer_convolution import inner_channels, integer_convolution
from codesign.backend.kernels.layer_kernel import FLOAT_BITS, LayerKernel
from codesign.backend.kernels.matrix_vector import float_matrix_vector, integer_matrix_vector, matrix_vector_tiling
from codesign.backend.kernels.packed_matrix_vector import (
    packed_matrix_vector,
    packed_matrix_vector_tiling,
    shared_steps,
)
from codesign.backend.kernels.packing import INNER, LANES, block_weights, pack_planes, packed_steps
from codesign.backend.kernels.parameters import (
    AmxTiling,
    DepthwiseTiling,
    KernelParameters,
    MatrixVectorTiling,
    PackedMatrixVectorTiling,
    VectorTiling,
    vector_tiling,
)
from codesign.backend.operations import Convolution, Quantization

BYTE_BITS = 8
"""Weights of fewer bits are expanded in the kernel."""


@dataclass(frozen=True, eq=False)
class LayerConstants:
    """Constant arguments of a layer's kernel.

    Attributes:
        arguments: In the kernel's order, after the input.
        stored: Those that are the layer's weights: packed weights, bias, scales.
    """

    arguments: tuple[NDArray[np.generic], ...]
    stored: tuple[NDArray[np.generic], ...]


def described(layer: Convolution, shape: ConvolutionShape) -> LayerKernel:
    """What the kernel of a layer computes.

    Args:
        layer: The layer.
        shape: Its loop bounds.

    Returns:
        The kernel.
    """
    if layer.weight.scale is not None:
        return LayerKernel(shape, layer.weight.bits, _integer_epilogue(layer))
    residual = layer.residual
    real = FloatEpilogue(layer.clamp) if residual is None else FloatEpilogue(layer.clamp, True, residual.clamp)
    return LayerKernel(shape, FLOAT_BITS, real)


def default_parameters(kernel: LayerKernel, isa: InstructionSet, threads: int) -> KernelParameters:
    """What the rules choose for a kernel, from its shape alone.

    Args:
        kernel: The kernel.
        isa: The processor.
        threads: Threads to schedule for.

    Returns:
        Its loops.
    """
    shape, integers = kernel.shape, kernel.bits != FLOAT_BITS
    if kernel.is_vector:
        size = (shape.in_channels, shape.out_channels)
        if integers and shared_steps(kernel.bits, isa):
            return packed_matrix_vector_tiling(*size, kernel.bits, threads)
        return matrix_vector_tiling(*size, integers, isa, threads)
    if integers and isa.amx and amx_applies(shape):
        return amx_tiling(shape, threads)
    if not integers and depthwise_applies(shape):
        return depthwise_tiling(shape, threads)
    if not integers and isa.bfloat16 and bfloat16_applies(shape):
        return bfloat16_tiling(shape, threads)
    return vector_tiling(shape, isa.registers, threads, integers and kernel.bits < BYTE_BITS)


def kernel_function(
    kernel: LayerKernel, parameters: KernelParameters, isa: InstructionSet, threads: int, asks_for_amx: bool = False
) -> tuple[tuple[object, ...], Callable[[], tirx.PrimFunc]]:
    """A kernel with given loops.

    Args:
        kernel: The kernel.
        parameters: Its loops, of `default_parameters` or `kernel_candidates.candidates`.
        isa: The processor.
        threads: Threads to schedule for.
        asks_for_amx: Whether this is the first kernel of a network on AMX, which asks for permission.

    Returns:
        What identifies it among the kernels of a network, each of which has its own loops, and how to write it.
    """
    shape, epilogue, bits = kernel.shape, kernel.epilogue, kernel.bits
    size = (shape.in_channels, shape.out_channels)
    if isinstance(epilogue, FloatEpilogue):
        return _float_function(kernel, epilogue, parameters, isa, asks_for_amx)
    match parameters:
        case PackedMatrixVectorTiling():
            name = (f"dense_i{bits}", *size, epilogue)
            return name, lambda: packed_matrix_vector(size, bits, epilogue, isa, threads, parameters)
        case MatrixVectorTiling():
            name = (f"dense_i{bits}", *size, epilogue)
            return name, lambda: integer_matrix_vector(*size, bits, epilogue, isa, parameters)
        case AmxTiling():
            on_tiles = (f"conv_amx_i{bits}", shape, epilogue, asks_for_amx)
            return on_tiles, lambda: amx_convolution(shape, bits, epilogue, parameters, asks_for_amx)
        case VectorTiling():
            in_vectors = (f"conv_i{bits}", shape, epilogue)
            return in_vectors, lambda: integer_convolution(shape, bits, epilogue, isa, parameters)
    raise ValueError(f"no kernel {kernel.words} has the loops {parameters}")


def _float_function(
    kernel: LayerKernel, epilogue: FloatEpilogue, parameters: KernelParameters, isa: InstructionSet, asks_for_amx: bool
) -> tuple[tuple[object, ...], Callable[[], tirx.PrimFunc]]:
    shape = kernel.shape
    size = (shape.in_channels, shape.out_channels)
    match parameters:
        case MatrixVectorTiling():
            return ("dense_f32", *size, epilogue), lambda: float_matrix_vector(*size, epilogue, parameters)
        case DepthwiseTiling():
            return ("depthwise_f32", shape, epilogue), lambda: float_depthwise(shape, epilogue, parameters)
        case AmxTiling() if isa.bfloat16:
            on_tiles = ("conv_amx_bf16", shape, epilogue, asks_for_amx)
            return on_tiles, lambda: bfloat16_convolution(shape, epilogue, parameters, asks_for_amx)
        case VectorTiling():
            return ("conv_f32", shape, epilogue), lambda: float_convolution(shape, epilogue, parameters)
    raise ValueError(f"no kernel {kernel.words} has the loops {parameters}")


def _integer_epilogue(layer: Convolution) -> IntegerEpilogue:
    place: Literal["first", "second"] | None = None
    if layer.residual is not None:
        place = "first" if layer.residual.first else "second"
    return IntegerEpilogue("float32" if layer.output.quantization is None else "uint8", place)


def layer_constants(
    layer: Convolution, shape: ConvolutionShape, isa: InstructionSet, parameters: KernelParameters | None = None
) -> LayerConstants:
    """Weights, bias and, for integers, scales and requantisation factors.

    Args:
        layer: The layer.
        shape: Its loop bounds.
        isa: The processor.
        parameters: Its kernel's loops, on which the order of weights depends; None for those of the rules.

    Returns:
        The constants.
    """
    loops = default_parameters(described(layer, shape), isa, 1) if parameters is None else parameters
    if layer.weight.scale is None:
        return _float_constants(layer, shape, loops)
    values = layer.weight.values
    channels = values.shape[0]
    x = layer.x.quantization
    assert x is not None
    weight = _stored_weights(layer, shape, isa, loops)
    bias = np.zeros(shape.out_channels, np.int32)
    bias[:channels] = -x.zero_point * values.astype(np.int64).sum(axis=(1, 2, 3))
    if layer.bias is not None:
        bias[:channels] += layer.bias.astype(np.int32)
    scale = np.zeros(shape.out_channels, np.float32)
    scale[:channels] = _channel_scale(layer, x)
    zeros, factors = _requantization(layer, x)
    return LayerConstants((weight, bias, scale, zeros, factors), (weight, bias, scale))


def _float_constants(layer: Convolution, shape: ConvolutionShape, loops: KernelParameters) -> LayerConstants:
    values = layer.weight.values
    whole = isinstance(loops, MatrixVectorTiling | AmxTiling)
    summed = _summed_weights(values, shape, shape.in_channels if whole else shape.reduction_channels)
    bias = np.zeros(shape.out_channels, np.float32)
    bias[: len(values)] = 0 if layer.bias is None else layer.bias
    weight: NDArray[np.generic]
    match loops:
        case DepthwiseTiling():
            weight = depthwise_weights(values)
        case AmxTiling():
            weight = bfloat16_weights(summed.astype(np.float32), shape)
        case _:
            weight = block_weights(summed, 1)[..., 0]
    return LayerConstants((weight, bias), (weight, bias))


def _stored_weights(
    layer: Convolution, shape: ConvolutionShape, isa: InstructionSet, loops: KernelParameters
) -> NDArray[np.generic]:
    """Quantised weights as their kernel reads them."""
    bits, on_amx = layer.weight.bits, isinstance(loops, AmxTiling)
    is_vector = isinstance(loops, MatrixVectorTiling | PackedMatrixVectorTiling)
    whole = is_vector or (on_amx and shape.groups == 1)
    summed = _summed_weights(layer.weight.values, shape, shape.in_channels if whole else shape.reduction_channels)
    weight = block_weights(summed, INNER if on_amx else inner_channels(shape, isa))
    lanes = (LANES, weight.shape[-1])
    if on_amx:
        weight = amx_weights(weight, sum_blocks(shape))
    if bits == 8:
        return weight if on_amx else weight.reshape(shape.blocks, -1, *lanes)
    rows = weight.reshape(shape.blocks, -1, lanes[0] * lanes[1])
    if isinstance(loops, PackedMatrixVectorTiling):
        together = shared_steps(bits, isa)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % together), (0, 0)))
    else:
        together = packed_steps(rows.shape[1], bits)
    return pack_planes(rows.reshape(shape.blocks, -1, together * rows.shape[2]), bits)


def _summed_weights(values: NDArray[np.generic], shape: ConvolutionShape, channels: int) -> NDArray[np.generic]:
    """Weights `[C_out, channels, KH, KW]` of all input channels that a kernel sums over, zero where there are none."""
    filters, group_in = values.shape[:2]
    result = np.zeros((filters, channels, *values.shape[2:]), values.dtype)
    for channel in range(filters):
        first = 0
        if shape.groups > 1 and not shape.is_depthwise:
            first = channel // shape.group_out * group_in - shape.first_channel(channel // LANES)
        result[channel, first : first + group_in] = values[channel]
    return result


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
