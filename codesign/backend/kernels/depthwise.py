"""Depthwise convolution in float32: each vector of 16 channels is a sum over the taps of one window.

Pixels are read where they are, without a copy that holds the padding: columns whose windows reach into it are parts of
the output of their own (`window_parts`), rows of a window that lie outside are left out when the kernel runs.
Neighbouring pixels are computed side by side, so that the compiler loads what their windows share once. Integers gain
nothing from this: there, multiplying takes the time.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.epilogue import FloatEpilogue
from codesign.backend.kernels.geometry import MINIMUM_PARALLEL_MACS, ConvolutionShape
from codesign.backend.kernels.packing import LANES, block_weights
from codesign.backend.kernels.parameters import DepthwiseTiling
from codesign.backend.kernels.window_parts import window_parts

MOST_PRODUCTS = 750
"""Products that a kernel names one by one; with more, its code would be longer than it is worth."""
PIXELS, BLOCKS = 4, 2
"""Pixels and vectors of channels that are computed side by side."""
Expression = Any
"""A TIR expression, or a number."""
Buffer = Any
"""A TIR buffer: an argument or memory of the kernel."""


def depthwise_applies(shape: ConvolutionShape) -> bool:
    """Whether a convolution in float32 is computed by this kernel.

    Args:
        shape: Loop bounds.

    Returns:
        True for one filter a channel, unless windows are so large that most columns reach into the padding.
    """
    if not shape.is_depthwise or shape.in_channels != shape.out_channels:
        return False
    return products_named(shape, PIXELS, BLOCKS) <= MOST_PRODUCTS


def products_named(shape: ConvolutionShape, pixels: int, blocks: int) -> int:
    """Products that the code of a kernel names.

    Args:
        shape: Loop bounds.
        pixels: Pixels that are computed side by side.
        blocks: Vectors of channels that are computed side by side.

    Returns:
        Their number.
    """
    columns = sum(min(part.count, 2 * pixels - 1) for part in window_parts(shape, 1))
    return columns * shape.kernel[1] * blocks


def depthwise_tiling(shape: ConvolutionShape, threads: int) -> DepthwiseTiling:
    """What the rules choose.

    Args:
        shape: Loop bounds.
        threads: Threads to schedule for.

    Returns:
        The loops.
    """
    shared = threads > 1 and shape.out_height >= threads and shape.macs >= MINIMUM_PARALLEL_MACS
    return DepthwiseTiling(PIXELS, BLOCKS, threads if shared else 1)


def depthwise_weights(values: NDArray[Any]) -> NDArray[Any]:
    """Weights in the order of the kernel.

    Args:
        values: `[C, 1, KH, KW]`.

    Returns:
        `[C/16, KH KW, 16]`.
    """
    return block_weights(values, 1).reshape(-1, values.shape[2] * values.shape[3], LANES)


@dataclass(frozen=True)
class _Kernel:
    """What the parts of the kernel below share."""

    shape: ConvolutionShape
    tiling: DepthwiseTiling
    epilogue: FloatEpilogue
    x: Buffer
    weight: Buffer
    bias: Buffer
    residual: Buffer
    out: Buffer


@dataclass(frozen=True)
class _Group:
    """Neighbouring pixels of a row and vectors of channels that are computed side by side.

    Attributes:
        row: Row of the output.
        columns: Columns of the output.
        taps: Columns of the window that lie inside the image.
        block: First vector of channels.
        blocks: Number of vectors.
    """

    row: Expression
    columns: list[Expression]
    taps: tuple[int, ...]
    block: Expression
    blocks: int

    @property
    def sums(self) -> list[tuple[int, int]]:
        """Pixel and vector of each sum."""
        return [(pixel, block) for pixel in range(len(self.columns)) for block in range(self.blocks)]


def float_depthwise(shape: ConvolutionShape, epilogue: FloatEpilogue, tiling: DepthwiseTiling) -> tirx.PrimFunc:
    """Kernel `(x [1, H, W, C], weight [C/16, KH KW, 16], bias [C], residual?, out)` in float32.

    Args:
        shape: Loop bounds.
        epilogue: What follows the sum.
        tiling: Which loops.

    Returns:
        The function.
    """
    taps, out_shape = shape.kernel[0] * shape.kernel[1], (1, shape.out_height, shape.out_width, shape.out_channels)
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        x = build.arg("x", build.buffer((1, shape.height, shape.width, shape.in_channels), "float32"))
        weight = build.arg("weight", build.buffer((shape.blocks, taps, LANES), "float32"))
        bias = build.arg("bias", build.buffer((shape.out_channels,), "float32"))
        residual = build.arg("residual", build.buffer(out_shape, "float32")) if epilogue.residual else None
        out = build.arg("out", build.buffer(out_shape, "float32"))
        with build.sblock("root"):
            build.reads([])
            build.writes([])
            _all_rows(_Kernel(shape, tiling, epilogue, x, weight, bias, residual, out))
    return builder.get()


def _all_rows(kernel: _Kernel) -> None:
    shape, blocks = kernel.shape, kernel.tiling.blocks
    whole, rest = divmod(shape.blocks, blocks)
    with (build.parallel if kernel.tiling.threads > 1 else build.serial)(0, shape.out_height) as row:
        with build.serial(0, whole) as number:
            _one_row(kernel, row, number * blocks, blocks)
        if rest:
            _one_row(kernel, row, whole * blocks, rest)


def _one_row(kernel: _Kernel, row: Expression, block: Expression, blocks: int) -> None:
    pixels = kernel.tiling.pixels
    for part in window_parts(kernel.shape, 1):
        whole, rest = divmod(part.count, pixels)
        if whole:
            with build.serial(0, whole) as tile:
                columns = [part.first + tile * pixels + i for i in range(pixels)]
                _one_group(kernel, _Group(row, columns, part.taps, block, blocks))
        if rest:
            columns = [part.first + whole * pixels + i for i in range(rest)]
            _one_group(kernel, _Group(row, columns, part.taps, block, blocks))


def _one_group(kernel: _Kernel, group: _Group) -> None:
    """Sums and finishes a group; the memory of its sums lives as long."""
    with build.sblock("group"):
        build.reads([])
        build.writes([])
        sums = build.sblock_alloc_buffer((len(group.columns), group.blocks * LANES), "float32", scope="local")
        for pixel, block in group.sums:
            with build.vectorized(0, LANES) as lane:
                value = kernel.bias[(group.block + block) * LANES + lane]
                build.buffer_store(sums, value, [pixel, block * LANES + lane])
        _sum(kernel, group, sums)
        for pixel, block in group.sums:
            with build.vectorized(0, LANES) as lane:
                index = (0, group.row, group.columns[pixel], (group.block + block) * LANES + lane)
                added = None if kernel.residual is None else kernel.residual[index]
                build.buffer_store(kernel.out, kernel.epilogue.apply(sums[pixel, block * LANES + lane], added), index)


def _sum(kernel: _Kernel, group: _Group, sums: Buffer) -> None:
    """Adds up a group's windows, row by row of the filter."""
    shape = kernel.shape
    with build.serial(0, shape.kernel[0]) as tap:
        row = group.row * shape.stride[0] - shape.pads[0] + tap * shape.dilation[0]
        if all(len(part.taps) == shape.kernel[0] for part in window_parts(shape, 0)):
            _add_row(kernel, group, sums, tap, row)
            return
        with build.If(tirx.all(row >= 0, row < shape.height)), build.Then():
            _add_row(kernel, group, sums, tap, row)


def _add_row(kernel: _Kernel, group: _Group, sums: Buffer, tap: Expression, row: Expression) -> None:
    shape = kernel.shape
    for pixel, block in group.sums:
        start = group.columns[pixel] * shape.stride[1] - shape.pads[1]
        for column in group.taps:
            with build.vectorized(0, LANES) as lane:
                number = block * LANES + lane
                value = kernel.x[0, row, start + column * shape.dilation[1], group.block * LANES + number]
                factor = kernel.weight[group.block + block, tap * shape.kernel[1] + column, lane]
                build.buffer_store(sums, sums[pixel, number] + value * factor, [pixel, number])
