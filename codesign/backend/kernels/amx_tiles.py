"""How a convolution is cut into AMX tiles: outputs by 16 pixels x 16 channels, sums by up to 64 bytes."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.backend.kernels.bfloat16 import ELEMENT_BYTES, HALF_VECTOR, to_bfloat16
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import INNER, LANES, block_weights, packed_steps

TILE_ROWS = 16
TILE_BYTES = 64
ACCUMULATORS = 4
"""Tiles that hold sums; the other four hold operands."""
CACHED_WEIGHT_BYTES = 24_576
"""Half of the first-level data cache of processors with AMX."""
PARALLEL_OUTPUTS, PARALLEL_MACS = 60_000, 3_000_000
"""Outputs count little, since dividing them also means that they are fetched from another core later."""
MINIMUM_AMX_MACS = 100_000
"""Below this VNNI is faster, since configuring the tiles takes 80 ns."""
MINIMUM_BFLOAT16_MACS = 30_000
"""The same for float32 on vectors against bfloat16."""
LEAST_CHANNELS = 3
"""Of an image, which is stored with 4 for bfloat16."""
LEAST_DEPTH = 16
"""Bytes of a kernel row below which tiles are nearly empty: 3x3 over the 3 channels of an image is no faster."""


def amx_possible(shape: ConvolutionShape) -> bool:
    """Whether tiles can compute a convolution, and are not nearly empty.

    Args:
        shape: The convolution.

    Returns:
        False for depthwise layers, horizontal dilation, and sums of a few bytes.
    """
    return not shape.is_depthwise and shape.dilation[1] == 1 and run_bytes(shape) >= LEAST_DEPTH


def amx_applies(shape: ConvolutionShape) -> bool:
    """Whether tiles compute a convolution faster than VNNI, as measured (docs/benchmarks.md).

    Args:
        shape: The convolution.

    Returns:
        False for depthwise layers, horizontal dilation, sums of a few bytes, and little work.
    """
    return amx_possible(shape) and shape.macs >= MINIMUM_AMX_MACS


def shape_in_bytes(shape: ConvolutionShape) -> ConvolutionShape:
    """A convolution of bfloat16 as the tiles see it.

    Args:
        shape: The convolution.

    Returns:
        The same with its input channels counted in bytes.
    """
    return replace(shape, in_channels=shape.in_channels * ELEMENT_BYTES)


def bfloat16_applies(shape: ConvolutionShape) -> bool:
    """Whether tiles compute a convolution in float32 faster than vectors, as measured (docs/benchmarks.md).

    Args:
        shape: The convolution.

    Returns:
        False for several groups, horizontal dilation, channels that are no multiple of 4, rows of few elements, and
        little work.
    """
    kept = shape.in_channels
    if shape.kernel != (1, 1) or shape.is_padded or shape.stride[1] == 1:
        kept *= min(shape.width, shape.padded_width - shape.pads[1])
    possible = shape.groups == 1 and shape.dilation[1] == 1 and shape.in_channels % 4 == 0 and kept >= HALF_VECTOR
    deep = run_bytes(shape_in_bytes(shape)) >= LEAST_DEPTH
    return possible and deep and worth_bfloat16(shape)


def worth_bfloat16(shape: ConvolutionShape) -> bool:
    """Whether a convolution in float32 is so much work that configuring tiles and rounding pays.

    Args:
        shape: The convolution; an image of few channels with as many as it has.

    Returns:
        False for few multiply-accumulates, and for images of one or two channels, whose other two would be zeros.
    """
    return shape.macs >= MINIMUM_BFLOAT16_MACS and shape.in_channels >= LEAST_CHANNELS


def worth_threads(shape: ConvolutionShape) -> bool:
    """Whether several threads compute a convolution faster than one, as measured (docs/benchmarks.md).

    Args:
        shape: The convolution.

    Returns:
        Whether it has enough outputs, multiply-accumulates, or both.
    """
    outputs = shape.out_height * shape.out_width * shape.out_channels
    return outputs / PARALLEL_OUTPUTS + shape.macs / PARALLEL_MACS >= 1


def has_more_weights_than_inputs(shape: ConvolutionShape) -> bool:
    """Whether threads had better share a kernel's channels than its pixels, so that each reads its part of the weights.

    Args:
        shape: The convolution.

    Returns:
        Whether the weights are more than the input's elements.
    """
    weights = shape.out_channels * shape.reduction_channels * shape.kernel[0] * shape.kernel[1]
    return weights > shape.height * shape.width * shape.in_channels


@dataclass(frozen=True)
class SumBlocks:
    """How the sum of one output is cut.

    It goes over kernel rows; in each, over the `KW C` bytes of neighbouring pixels, which lie one after the
    other (no im2col), in blocks of equal size. With groups, every column of the kernel has a run of bytes of its own. A
    block that would reach beyond the end of its run starts earlier instead, and its weights for bytes that another
    block holds are zero, so that nothing beyond an image is ever read.

    Attributes:
        depth: Bytes of a block, a multiple of 4, at most 64.
        starts: Where the blocks start in a run of bytes.
        runs: Runs of bytes in one kernel row.
    """

    depth: int
    starts: tuple[int, ...]
    runs: int = 1

    @property
    def steps(self) -> int:
        """Blocks of one kernel row."""
        return self.runs * len(self.starts)

    @property
    def weight_rows(self) -> int:
        """Rows of 16 x 4 weights for one kernel row."""
        return self.steps * self.depth // INNER


@dataclass(frozen=True)
class AmxTiles:
    """Tiles of the outputs of one kernel; the last tile of a row starts earlier and computes some pixels twice.

    Attributes:
        rows: Neighbouring output pixels of a tile, at most 16.
        in_row: Tiles of one row of the output.
        pixels: Tiles of pixels that are summed side by side.
        channels: Tiles of channels that are summed side by side.
        pixels_outside: Whether all channels of some pixels are computed before the next pixels, as is best while all
            weights stay in the first-level cache.
        sums: How each sum is cut.
    """

    rows: int
    in_row: int
    pixels: int
    channels: int
    pixels_outside: bool
    sums: SumBlocks


def amx_tiles(shape: ConvolutionShape, height: int, width: int) -> AmxTiles:
    """Cuts a convolution, or the part of it that one thread computes.

    Args:
        shape: The convolution; its input channels are a multiple of 4.
        height: Rows of the output.
        width: Columns of the output.

    Returns:
        The tiles.
    """
    in_row = -(-width // TILE_ROWS)
    rows = -(-width // in_row)
    sums = sum_blocks(shape)
    tiles = height * in_row
    best, best_cost = (1, 1), float("inf")
    for pixels in range(1, min(ACCUMULATORS, tiles) + 1):
        for channels in range(1, ACCUMULATORS // pixels + 1):
            if shape.blocks % channels or shape.alike_blocks % channels:
                continue
            loads = (pixels * rows + channels * sums.depth // INNER) / 2  # two cache lines a cycle
            cycles = max(pixels * channels * rows, loads) + loads / 4
            cost = cycles * -(-tiles // pixels) * (shape.blocks // channels)
            if cost < best_cost:
                best, best_cost = (pixels, channels), cost
    pixels_outside = shape.blocks * LANES * shape.kernel[0] * sums.runs * run_bytes(shape) <= CACHED_WEIGHT_BYTES
    return AmxTiles(rows, in_row, *best, pixels_outside, sums)


def run_bytes(shape: ConvolutionShape) -> int:
    """Neighbouring bytes that an output sums over.

    Args:
        shape: The convolution.

    Returns:
        Columns of the kernel times input channels; with groups, the channels of a block's groups in one column.
    """
    return shape.kernel[1] * shape.in_channels if shape.groups == 1 else shape.reduction_channels


def sum_blocks(shape: ConvolutionShape) -> SumBlocks:
    """Cuts each run of bytes into the fewest blocks.

    Args:
        shape: The convolution; its input channels are a multiple of 4.

    Returns:
        The blocks.
    """
    run = run_bytes(shape)
    runs, count = 1 if shape.groups == 1 else shape.kernel[1], -(-run // TILE_BYTES)
    if run % (count * INNER) == 0:
        depth = run // count
        return SumBlocks(depth, tuple(i * depth for i in range(count)), runs)
    return SumBlocks(TILE_BYTES, tuple(min(i * TILE_BYTES, run - TILE_BYTES) for i in range(count)), runs)


def packed_rows(shape: ConvolutionShape, bits: int) -> int:
    """Rows of weights that are packed together.

    Args:
        shape: The convolution.
        bits: Width of the weights, below 8.

    Returns:
        As `packed_steps`.
    """
    return packed_steps(shape.kernel[0] * sum_blocks(shape).weight_rows, bits)


def amx_weights(blocks: NDArray[np.int8], sums: SumBlocks) -> NDArray[np.int8]:
    """Weights in the order in which tiles load them.

    Args:
        blocks: `[C_out/16, KH, KW, C_in/4, 16, 4]`.
        sums: How each sum is cut.

    Returns:
        `[C_out/16, KH, weight_rows, 64]`; rows that an earlier block holds too are zero.
    """
    by_run = blocks.reshape(*blocks.shape[:2], sums.runs, -1, LANES * INNER)
    size, done = sums.depth // INNER, 0
    result = np.zeros((*by_run.shape[:3], len(sums.starts) * size, LANES * INNER), np.int8)
    for number, start in enumerate(sums.starts):
        first = start // INNER
        fresh = slice(max(first, done), first + size)
        offset = number * size - first
        result[..., fresh.start + offset : fresh.stop + offset, :] = by_run[..., fresh, :]
        done = first + size
    return result.reshape(*blocks.shape[:2], sums.weight_rows, LANES * INNER)


def bfloat16_weights(weight: NDArray[np.float32], shape: ConvolutionShape) -> NDArray[np.uint16]:
    """Rounds weights, in the order in which tiles load them.

    Args:
        weight: `[C_out, C_in, KH, KW]`, input channels as stored.
        shape: The convolution.

    Returns:
        `[C_out/16, KH, weight_rows, 32]`.
    """
    blocks = block_weights(to_bfloat16(weight), INNER // ELEMENT_BYTES)
    return amx_weights(blocks.view(np.int8), sum_blocks(shape_in_bytes(shape))).view(np.uint16)
