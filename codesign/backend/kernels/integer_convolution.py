"""Convolution and dense layer of uint8 activations with int8 or packed weights, summed in int32."""

from tvm import te, tirx

from codesign.backend.kernels.epilogue import FACTORS, ZEROS, IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.packing import INNER, LANES
from codesign.backend.kernels.parameters import VectorTiling
from codesign.backend.kernels.schedule import Stages, Unpacking, input_channel, padded_input, schedule_convolution
from codesign.backend.kernels.vnni import DOT_16X4, SCALE_16
from codesign.backend.kernels.weights import Reader, weight_stages


def inner_channels(shape: ConvolutionShape, isa: InstructionSet) -> int:
    """Input channels next to one another in the weights: 4 where VNNI sums them, 1 elsewhere.

    Args:
        shape: Loop bounds.
        isa: The processor.

    Returns:
        4 or 1.
    """
    return INNER if isa.vnni and shape.reduction_channels % INNER == 0 else 1


def integer_convolution(
    shape: ConvolutionShape, bits: int, epilogue: IntegerEpilogue, isa: InstructionSet, tiling: VectorTiling
) -> tirx.PrimFunc:
    """Kernel `(x, weight, bias, scale, zeros, factors, residual?, out)`.

    x is `[1, H, W, C]` uint8; weight `[C_out/16, KH KW C_in/inner, 16, inner]` int8, or for bits below 8 packed as
    `weight_stages` says; bias `[C_out]` int32 holds -z_x sum(w); scale `[C_out]` float32; zeros
    and factors as in epilogue.py.

    Args:
        shape: Loop bounds.
        bits: Width of the weights.
        epilogue: What follows the sum.
        isa: The processor.
        tiling: Which loops.

    Returns:
        The scheduled function.
    """
    inner = inner_channels(shape, isa)
    steps = shape.kernel[0] * shape.kernel[1] * shape.reduction_channels // inner
    x = te.placeholder((1, shape.height, shape.width, shape.in_channels), "uint8", "x")
    stored, weight = weight_stages(shape.blocks, steps, inner, bits)
    bias = te.placeholder((shape.out_channels,), "int32", "bias")
    scale = te.placeholder((shape.out_channels,), "float32", "scale")
    zeros, factors = te.placeholder((ZEROS,), "int32", "zeros"), te.placeholder((FACTORS,), "float32", "factors")
    out_shape = (1, shape.out_height, shape.out_width, shape.out_channels)
    residual = te.placeholder(out_shape, "uint8", "residual") if epilogue.residual else None
    source = padded_input(x, shape, zeros[0].astype("uint8"))
    depthwise = isa.vnni and shape.is_depthwise
    total = _accumulate(source, weight, shape, inner, "int32" if depthwise else "int16")

    def finish(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        added = None if residual is None else residual[n, h, w, c]
        return epilogue.apply(total[n, h, w, c], scale[c], zeros, factors, added)

    out = te.compute(out_shape, finish, "out")
    arguments = [x, stored, bias, scale, zeros, factors] + ([residual] if residual is not None else []) + [out]
    intrinsic = SCALE_16 if depthwise else DOT_16X4 if inner == INNER else ""
    unpacking = None if bits == 8 else Unpacking.of(steps, LANES * inner, bits)
    stages = Stages(shape.is_padded, unpacking, intrinsic, inner)
    return schedule_convolution(te.create_prim_func(arguments), shape, stages, tiling)


def _accumulate(source: te.Tensor, weight: Reader, shape: ConvolutionShape, inner: int, product_type: str) -> te.Tensor:
    kh, kw = te.reduce_axis((0, shape.kernel[0]), "kh"), te.reduce_axis((0, shape.kernel[1]), "kw")
    groups = shape.reduction_channels // inner
    ko = te.reduce_axis((0, groups), "ko")
    ki = te.reduce_axis((0, inner), "ki")

    def product(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        row = h * shape.stride[0] + kh * shape.dilation[0]
        column = w * shape.stride[1] + kw * shape.dilation[1]
        step = (kh * shape.kernel[1] + kw) * groups + ko
        if inner == INNER:
            value = source[n, row, column, input_channel(shape, c, ko * inner + ki)].astype("int32")
            factor = weight(c // LANES, step, c % LANES, ki).astype("int32")
            return te.sum(value * factor, axis=[kh, kw, ko, ki])
        # 255 * 128 fits int16, whose products are cheaper than those of int32 where VNNI does not compute them
        value = source[n, row, column, input_channel(shape, c, ko)].astype(product_type)
        factor = weight(c // LANES, step, c % LANES, 0).astype(product_type)
        return te.sum((value * factor).astype("int32"), axis=[kh, kw, ko])

    return te.compute((1, shape.out_height, shape.out_width, shape.out_channels), product, "accumulated")
