"""Maximum, average and global average pooling of images stored by pixel."""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.epilogue import clamped, to_uint8
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.schedule import padded_input, vectorize_copy
from codesign.backend.kernels.vectors import LINE_BYTES, each_vector
from codesign.backend.kernels.window_parts import Part, window_parts

Expression = Any
"""A TIR expression."""
Buffer = Any
"""A TIR buffer."""
MOST_TERMS = 600
"""Elements that a kernel names one by one; windows with more are summed in loops over a padded copy."""
MOST_SUMS = 8
"""Vectors summed side by side where windows are looped over, to hide the latency of an addition."""
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
    parts = _parts(shape)
    if parts is not None:
        largest_of = pairwise if dtype == "float32" else reduce  # integers are ready after one cycle
        return _by_parts(shape, parts, dtype, False, threads, lambda taps, _, __: largest_of(te.max, taps))
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
    parts = _parts(shape)
    if parts is not None:
        mean = _float_mean if dtype == "float32" else _integer_mean
        whole = shape.kernel[0] * shape.kernel[1] if count_padding else 0
        return _by_parts(shape, parts, dtype, dtype != "float32", threads, partial(mean, whole))
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


def _parts(shape: ConvolutionShape) -> tuple[list[Part], list[Part]] | None:
    """Parts of the rows and of the columns; None where they would be too many, or a window sees padding alone."""
    rows, columns = window_parts(shape, 0), window_parts(shape, 1)
    terms = sum(len(part.taps) for part in rows) * sum(len(part.taps) for part in columns)
    empty = any(not part.taps for part in (*rows, *columns))
    return None if empty or terms > MOST_TERMS else (rows, columns)


def _by_parts(
    shape: ConvolutionShape,
    parts: tuple[list[Part], list[Part]],
    dtype: str,
    quantized: bool,
    threads: int,
    value: Callable[[Sequence[Expression], Buffer, Buffer], Expression],
) -> tirx.PrimFunc:
    """A kernel that reads the image where it is, without a copy that holds the padding.

    It goes from the last row to the first: the rows that the layer before wrote last are still in the cache. Without
    horizontal strides, what a part of a row holds is finished as one run of elements, whatever the channels.
    """
    channels, widest = shape.in_channels, LINE_BYTES if dtype == "uint8" else LINE_BYTES // 4
    reads = shape.out_height * shape.out_width * channels * shape.kernel[0] * shape.kernel[1]
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        x = build.arg("x", build.buffer((1, shape.height, shape.width, channels), dtype))
        zeros = build.arg("zeros", build.buffer((2,), "int32")) if quantized else None
        factors = build.arg("factors", build.buffer((3,), "float32")) if quantized else None
        out = build.arg("out", build.buffer((1, shape.out_height, shape.out_width, channels), dtype))
        with build.sblock("root"):
            build.reads([])
            build.writes([])
            for rows in reversed(parts[0]):
                shared = threads > 1 and reads >= MINIMUM_PARALLEL_READS and rows.count >= threads
                loop = build.parallel if shared else build.serial
                with loop(0, rows.count) as row_number:
                    row = rows.first + rows.count - 1 - row_number
                    for columns in parts[1]:
                        _row_part(
                            shape, row, rows.taps, columns, widest, x, out, lambda taps: value(taps, zeros, factors)
                        )
    return builder.get()


def _row_part(
    shape: ConvolutionShape,
    row: Expression,
    row_taps: tuple[int, ...],
    columns: Part,
    widest: int,
    x: Buffer,
    out: Buffer,
    value: Callable[[Sequence[Expression]], Expression],
) -> None:
    """Finishes those outputs of a row whose windows see the same taps."""
    pixels, run = (1, columns.count) if shape.stride[1] == 1 else (columns.count, 1)
    with build.serial(0, pixels) as pixel:
        column = columns.first + pixel
        for element in each_vector(run * shape.in_channels, widest):  # counts on into the pixels that follow
            taps = _taps(x, shape, (row, column), (row_taps, columns.taps), element)
            build.buffer_store(out, value(taps), [0, row, column, element])


def _taps(
    x: Buffer,
    shape: ConvolutionShape,
    place: tuple[Expression, Expression],
    taps: tuple[tuple[int, ...], tuple[int, ...]],
    element: Expression,
) -> list[Expression]:
    """What a window sees of the image, at an element that counts from a pixel's first channel."""
    starts = [place[axis] * shape.stride[axis] - shape.pads[axis] for axis in (0, 1)]
    return [
        x[0, starts[0] + row * shape.dilation[0], starts[1] + column * shape.dilation[1], element]
        for row in taps[0]
        for column in taps[1]
    ]


def pairwise(combine: Callable[[Expression, Expression], Expression], values: Sequence[Expression]) -> Expression:
    """Combines values two by two, so that a processor need not wait for one result after the other.

    Args:
        combine: An associative operation.
        values: At least one.

    Returns:
        All of them combined.
    """
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        values = [*(combine(a, b) for a, b in pairs), *values[len(values) // 2 * 2 :]]
    return values[0]


def _float_mean(whole: int, taps: Sequence[Expression], _zeros: Buffer, _factors: Buffer) -> Expression:
    return pairwise(operator.add, taps) * tirx.const(1 / (whole or len(taps)), "float32")


def _integer_mean(whole: int, taps: Sequence[Expression], zeros: Buffer, factors: Buffer) -> Expression:
    kind = "int16" if len(taps) * 255 < 1 << 15 else "int32"
    total = reduce(operator.add, [tap.astype(kind) for tap in taps]).astype("int32")
    value = (total - zeros[0] * len(taps)).astype("float32")
    value *= factors[0] / tirx.const(float(whole or len(taps)), "float32")
    return to_uint8(clamped(value, factors[1], factors[2]), zeros[1])


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
    """Finishes a few vectors of channels after the other, each in a register."""
    s = Schedule(te.create_prim_func(arguments))
    out, total = s.get_sblock("out"), s.get_sblock("accumulated")
    widest = 64 if str(s.get(total).writes[0].source.dtype) == "uint8" else 16
    width = next(v for v in (64, 32, 16, 8, 4, 2, 1) if v <= widest and shape.in_channels % v == 0)
    if shape.is_padded:
        vectorize_copy(s, "padded")
    _, row, _, channel = s.get_loops(out)
    vectors = next(v for v in range(MOST_SUMS, 0, -1) if shape.in_channels // width % v == 0)
    block, channel = s.split(channel, [None, vectors * width])
    s.compute_at(total, block, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    *_, sum_channel, kh, kw = s.get_loops(total)
    sum_vector, sum_lane = s.split(sum_channel, [vectors, width])
    s.reorder(kh, kw, sum_vector, sum_lane)
    vector, lane = s.split(channel, [vectors, width])
    for loop in (sum_vector, vector):
        s.unroll(loop)
    for loop in (sum_lane, lane):
        s.vectorize(loop)
    reads = shape.out_height * shape.out_width * shape.in_channels * shape.kernel[0] * shape.kernel[1]
    if threads > 1 and reads >= MINIMUM_PARALLEL_READS and not shape.is_padded:  # one thread copies the padding
        s.parallel(row)
    s.decompose_reduction(total, kh)
    return s.mod["main"]
