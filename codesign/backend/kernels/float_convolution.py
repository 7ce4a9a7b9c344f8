"""Convolution and dense layer in float32."""

import tvm_ffi
from tvm import te, tirx
from tvm.s_tir.stmt import SBlockRealize

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
    skips = skips_padding(shape)
    source = x if skips else padded_input(x, shape, tirx.const(0.0, "float32"))
    first_row = shape.pads[0] if skips else 0
    kh, kw = te.reduce_axis((0, kernel_h), "kh"), te.reduce_axis((0, kernel_w), "kw")
    ci = te.reduce_axis((0, shape.reduction_channels), "ci")

    def product(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        row = h * shape.stride[0] + kh * shape.dilation[0] - first_row
        column = w * shape.stride[1] + kw * shape.dilation[1]
        value = source[n, row, column, input_channel(shape, c, ci)]
        return te.sum(value * weight[c // LANES, kh, kw, ci, c % LANES], axis=[kh, kw, ci])

    total = te.compute(out_shape, product, "accumulated")

    def finish(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        return epilogue.apply(total[n, h, w, c], None if residual is None else residual[n, h, w, c])

    out = te.compute(out_shape, finish, "out")
    arguments = [x, weight, bias] + ([residual] if residual is not None else []) + [out]
    function = te.create_prim_func(arguments)
    if not skips:
        return schedule_convolution(function, shape, Stages(padded=shape.is_padded), tiling)
    return without_rows_outside(schedule_convolution(function, shape, Stages(padded=False), tiling), shape)


def skips_padding(shape: ConvolutionShape) -> bool:
    """Whether rows of padding are left out of sums, so that no copy of the input need hold them.

    Args:
        shape: Loop bounds.

    Returns:
        True where there is padding above and below only.
    """
    return shape.is_padded and not shape.pads[1] and not shape.pads[3]


def without_rows_outside(function: tirx.PrimFunc, shape: ConvolutionShape) -> tirx.PrimFunc:
    """Sums over those rows of a kernel alone that see the image.

    Args:
        function: A scheduled convolution, which reads rows outside the image.
        shape: Loop bounds.

    Returns:
        The function with a condition around the sum of each row of the kernel.
    """
    rows: list[tuple[tirx.Expr, tirx.Expr]] = []
    single: list[tirx.Var] = []

    def note_sum(realize: SBlockRealize) -> SBlockRealize:
        if realize.block.name_hint == "accumulated_update":
            rows.append((realize.iter_values[1], realize.iter_values[4]))
        return realize

    def note_loop(loop: tirx.For) -> tirx.For:
        if isinstance(loop.extent, tirx.IntImm) and int(loop.extent) == 1:
            single.append(loop.loop_var)
        return loop

    tvm_ffi.structural_map(function.body, [(SBlockRealize, note_sum), (tirx.For, note_loop)])
    (out_row, tap), *_ = rows
    zero = tirx.const(0, "int32")
    out_row = tvm_ffi.structural_map(
        out_row, (tirx.Var, lambda v: zero if any(v.same_as(one) for one in single) else v)
    )
    row = out_row * shape.stride[0] + tap * shape.dilation[0] - shape.pads[0]

    def guarded(loop: tirx.For) -> tirx.For:
        if not loop.loop_var.same_as(tap):
            return loop
        body = tirx.IfThenElse(te.all(row >= 0, row < shape.height), loop.body, None)
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, guarded)))
