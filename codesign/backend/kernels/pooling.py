"""Maximum, average and global average pooling of images stored by pixel."""

from collections.abc import Callable

from tvm import te, tirx
from tvm.s_tir import Schedule

from codesign.backend.kernels.epilogue import clamped, to_uint8
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.schedule import padded_input, vectorize_copy

MINIMUM_PARALLEL_READS = 300_000
"""Elements read below which a kernel is serial."""


def max_pool(shape: ConvolutionShape, dtype: str, threads: int) -> tirx.PrimFunc:
    """Kernel `(x [1, H, W, C], out)`.

    Args:
        shape: Loop bounds; channels in and out are the same.
        dtype: `uint8` or `float32`.
        threads: Threads to schedule for.

    Returns:
        The scheduled function.
    """
    x = te.placeholder((1, shape.height, shape.width, shape.in_channels), dtype, "x")
    lowest = tirx.const(0, dtype) if dtype == "uint8" else te.min_value(dtype)
    source = padded_input(x, shape, lowest)
    largest = _window(source, shape, te.max, "accumulated")
    out = te.compute(largest.shape, lambda *place: largest[place], "out")
    return _schedule([x, out], shape, threads)


def average_pool(shape: ConvolutionShape, count_padding: bool, dtype: str, threads: int) -> tirx.PrimFunc:
    """Kernel `(x, out)` in float32, `(x, zeros [z_x, z_y], factors [s_x / s_y, low, high], out)` in uint8.

    The mean is sum / count. In uint8 the factor is multiplied by 1 / count first, as onnxruntime's
    QLinearGlobalAveragePool does.

    Args:
        shape: Loop bounds; channels in and out are the same.
        count_padding: Whether padding counts as elements.
        dtype: `uint8` or `float32`.
        threads: Threads to schedule for.

    Returns:
        The scheduled function.
    """
    x = te.placeholder((1, shape.height, shape.width, shape.in_channels), dtype, "x")
    if dtype == "float32":
        total = _window(padded_input(x, shape, tirx.const(0.0, dtype)), shape, te.sum, "accumulated")
        out = te.compute(total.shape, lambda n, h, w, c: total[n, h, w, c] / _count(shape, count_padding, h, w), "out")
        return _schedule([x, out], shape, threads)
    zeros, factors = te.placeholder((2,), "int32", "zeros"), te.placeholder((3,), "float32", "factors")
    source = padded_input(x, shape, zeros[0].astype("uint8"))
    total = _window(source, shape, te.sum, "accumulated", "int32")
    elements = shape.kernel[0] * shape.kernel[1]

    def finish(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        value = (total[n, h, w, c] - zeros[0] * elements).astype("float32")
        value *= factors[0] / _count(shape, count_padding, h, w)
        return to_uint8(clamped(value, factors[1], factors[2]), zeros[1])

    return _schedule([x, zeros, factors, te.compute(total.shape, finish, "out")], shape, threads)


def _window(
    source: te.Tensor, shape: ConvolutionShape, reduce: Callable[..., tirx.Expr], name: str, dtype: str = ""
) -> te.Tensor:
    kh, kw = te.reduce_axis((0, shape.kernel[0]), "kh"), te.reduce_axis((0, shape.kernel[1]), "kw")

    def value(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        row = h * shape.stride[0] + kh * shape.dilation[0]
        element = source[n, row, w * shape.stride[1] + kw * shape.dilation[1], c]
        return reduce(element.astype(dtype) if dtype else element, axis=[kh, kw])

    return te.compute((1, shape.out_height, shape.out_width, shape.in_channels), value, name)


def _count(shape: ConvolutionShape, count_padding: bool, row: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
    """Elements that a window averages, as float32."""
    if count_padding or not shape.is_padded:
        return tirx.const(float(shape.kernel[0] * shape.kernel[1]), "float32")
    sides = []
    for position, axis, size in ((row, 0, shape.height), (column, 1, shape.width)):
        first = position * shape.stride[axis] - shape.pads[axis]
        sides.append(te.min(first + shape.kernel[axis], size) - te.max(first, 0))
    return (sides[0] * sides[1]).astype("float32")


def _schedule(arguments: list[te.Tensor], shape: ConvolutionShape, threads: int) -> tirx.PrimFunc:
    """Finishes one vector of channels after the other, each in a register."""
    s = Schedule(te.create_prim_func(arguments))
    out, total = s.get_sblock("out"), s.get_sblock("accumulated")
    widest = 64 if str(s.get(total).writes[0].source.dtype) == "uint8" else 16
    width = next(v for v in (64, 32, 16, 8, 4, 2, 1) if v <= widest and shape.in_channels % v == 0)
    if shape.is_padded:
        vectorize_copy(s, "padded")
    _, row, _, channel = s.get_loops(out)
    block, lane = s.split(channel, [None, width])
    s.compute_at(total, block, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    *_, sum_lane, kh, kw = s.get_loops(total)
    s.reorder(kh, kw, sum_lane)
    s.vectorize(sum_lane)
    s.vectorize(lane)
    reads = shape.out_height * shape.out_width * shape.in_channels * shape.kernel[0] * shape.kernel[1]
    if threads > 1 and reads >= MINIMUM_PARALLEL_READS and not shape.is_padded:  # one thread copies the padding
        s.parallel(row)
    s.decompose_reduction(total, kh)
    return s.mod["main"]
