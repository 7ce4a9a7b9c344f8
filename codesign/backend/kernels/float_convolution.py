"""Convolution and dense layer in float32."""

from tvm import te, tirx

from codesign.backend.kernels.epilogue import FloatEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import LANES
from codesign.backend.kernels.parameters import VectorTiling
from codesign.backend.kernels.schedule import Stages, input_channel, padded_input, schedule_convolution


def float_convolution(shape: ConvolutionShape, epilogue: FloatEpilogue, tiling: VectorTiling) -> tirx.PrimFunc:
    """Kernel `(x [1, H, W, C], weight [C_out/16, KH, KW, C_in/groups, 16], bias [C_out], residual?, out)`.

    Args:
        shape: Loop bounds.
        epilogue: What follows the sum.
        tiling: Which loops.

    Returns:
        The scheduled function.
    """
    kernel_h, kernel_w = shape.kernel
    x = te.placeholder((1, shape.height, shape.width, shape.in_channels), "float32", "x")
    weight = te.placeholder((shape.blocks, kernel_h, kernel_w, shape.reduction_channels, LANES), "float32", "weight")
    bias = te.placeholder((shape.out_channels,), "float32", "bias")
    out_shape = (1, shape.out_height, shape.out_width, shape.out_channels)
    residual = te.placeholder(out_shape, "float32", "residual") if epilogue.residual else None
    source = padded_input(x, shape, tirx.const(0.0, "float32"))
    kh, kw = te.reduce_axis((0, kernel_h), "kh"), te.reduce_axis((0, kernel_w), "kw")
    ci = te.reduce_axis((0, shape.reduction_channels), "ci")

    def product(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        row = h * shape.stride[0] + kh * shape.dilation[0]
        column = w * shape.stride[1] + kw * shape.dilation[1]
        value = source[n, row, column, input_channel(shape, c, ci)]
        return te.sum(value * weight[c // LANES, kh, kw, ci, c % LANES], axis=[kh, kw, ci])

    total = te.compute(out_shape, product, "accumulated")

    def finish(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        return epilogue.apply(total[n, h, w, c], None if residual is None else residual[n, h, w, c])

    out = te.compute(out_shape, finish, "out")
    arguments = [x, weight, bias] + ([residual] if residual is not None else []) + [out]
    function = te.create_prim_func(arguments)
    return schedule_convolution(function, shape, Stages(padded=shape.is_padded), tiling)
