"""Loop bounds of a convolution kernel, and how they are tiled and shared among threads."""

from dataclasses import dataclass
from functools import cached_property

from codesign.backend.kernels.packing import INNER, LANES, round_up

MINIMUM_PARALLEL_MACS = 400_000
"""Below this a kernel is serial: waking threads costs more than they save."""
MAXIMUM_CHANNEL_TILE = 9
CACHED_WEIGHTS = 6_000
"""Weights of a block that stay in the first-level data cache next to everything else (24 kB of float32)."""


@dataclass(frozen=True)
class ConvolutionShape:
    """A convolution of one image, channels last.

    Attributes:
        height: Rows of the input.
        width: Columns of the input.
        in_channels: Channels of the input as stored.
        out_channels: Channels of the output as stored, a multiple of 16.
        kernel: Height and width.
        stride: Vertical and horizontal.
        dilation: Vertical and horizontal.
        pads: Top, left, bottom, right.
        groups: Number of groups.
        group_in: Input channels of a group.
        group_out: Output channels of a group.
    """

    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    group_in: int = 0
    group_out: int = 0

    @cached_property
    def out_height(self) -> int:
        """Rows of the output."""
        reach = self.dilation[0] * (self.kernel[0] - 1) + 1
        return (self.height + self.pads[0] + self.pads[2] - reach) // self.stride[0] + 1

    @cached_property
    def out_width(self) -> int:
        """Columns of the output."""
        reach = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (self.width + self.pads[1] + self.pads[3] - reach) // self.stride[1] + 1

    @cached_property
    def padded_height(self) -> int:
        """Rows of the input that the kernel reads, padding included."""
        return (self.out_height - 1) * self.stride[0] + self.dilation[0] * (self.kernel[0] - 1) + 1

    @cached_property
    def padded_width(self) -> int:
        """Columns of the input that the kernel reads, padding included."""
        return (self.out_width - 1) * self.stride[1] + self.dilation[1] * (self.kernel[1] - 1) + 1

    @property
    def is_padded(self) -> bool:
        """Whether any padding is read."""
        return any(self.pads)

    @property
    def blocks(self) -> int:
        """Blocks of 16 output channels."""
        return self.out_channels // LANES

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is a group by itself."""
        return self.groups > 1 and self.group_in == self.group_out == 1

    @cached_property
    def reduction_channels(self) -> int:
        """Input channels that a kernel sums over for each output, some of which may have weights of zero.

        Channels that are only stored are left out, up to a multiple of 4. With groups these are the channels of all
        groups that a block of 16 outputs belongs to, so that every lane of a vector reads the same ones.
        """
        if self.is_depthwise:
            return 1
        if self.groups == 1:
            return min(self.in_channels, round_up(self.group_in or self.in_channels, INNER))
        outputs, widest = self.groups * self.group_out, 1
        for first in range(0, outputs, LANES):
            last = min(first + LANES, outputs) - 1
            widest = max(widest, last // self.group_out - first // self.group_out + 1)
        return min(self.in_channels, round_up(widest * self.group_in, INNER))

    def first_channel(self, block: int) -> int:
        """First input channel that a block of 16 outputs sums over.

        Args:
            block: Number of the block.

        Returns:
            Index of a stored channel.
        """
        if self.groups == 1:
            return 0
        return min(block * LANES // self.group_out * self.group_in, self.in_channels - self.reduction_channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padded channels included."""
        spatial = self.out_height * self.out_width * self.kernel[0] * self.kernel[1]
        return spatial * self.out_channels * self.reduction_channels

    @cached_property
    def alike_blocks(self) -> int:
        """Neighbouring blocks of 16 outputs that sum over the same input channels."""
        if self.groups == 1 or self.in_channels == self.reduction_channels:
            return self.blocks
        return max(1, self.group_out // LANES) if self.group_out % LANES == 0 else 1

    def flattened(self) -> "ConvolutionShape":
        """The same work with all pixels in one row, where the kernel looks at one pixel at a time."""
        if self.kernel == self.stride == (1, 1) and not self.is_padded:
            return ConvolutionShape(
                1,
                self.height * self.width,
                self.in_channels,
                self.out_channels,
                groups=self.groups,
                group_in=self.group_in,
                group_out=self.group_out,
            )
        return self


@dataclass(frozen=True)
class Tile:
    """Outputs that stay in registers while a kernel sums.

    Attributes:
        columns: Neighbouring pixels of a row.
        blocks: Blocks of 16 channels.
    """

    columns: int
    blocks: int


def choose_tile(shape: ConvolutionShape, registers: int) -> Tile:
    """The tile with the fewest loads for each multiply-accumulate and enough independent sums to hide latency.

    A step loads `blocks` vectors of weights and `columns` values of the input for `columns * blocks` sums; weights
    that don't fit the first-level cache count again. Sums, the weights of a step and one input must fit registers.

    Args:
        shape: The convolution.
        registers: Vectors that registers hold.

    Returns:
        The tile; its sides divide the output.
    """
    steps = shape.kernel[0] * shape.kernel[1] * shape.reduction_channels
    streaming = 0.5 if steps * LANES > CACHED_WEIGHTS else 0.0
    best, best_cost = Tile(1, 1), float("inf")
    for blocks in _divisors(shape.alike_blocks):
        for columns in _divisors(shape.out_width):
            sums = blocks * columns
            if sums > 1 and (sums + blocks + 1 > registers or blocks > MAXIMUM_CHANNEL_TILE):
                continue
            latency = max(0, min(10, registers // 2) - sums) * 0.15
            cost = (columns + blocks) / sums + latency + streaming / columns
            if cost < best_cost:
                best, best_cost = Tile(columns, blocks), cost
    return best


def is_shared(shape: ConvolutionShape, threads: int) -> bool:
    """Whether several threads compute a kernel.

    Args:
        shape: The convolution.
        threads: Threads.

    Returns:
        False if it is too small.
    """
    return threads > 1 and shape.macs >= MINIMUM_PARALLEL_MACS


def row_chunks(shape: ConvolutionShape, tile: Tile, threads: int, unpacks: bool = False) -> int:
    """Into how many chunks the outputs' rows (columns, if there is one row) are split, one launch for all.

    Where a kernel of one row is padded, every row is a chunk, so that it is read while its copy is in the first-level
    cache, unless weights would be expanded again for every chunk.

    Args:
        shape: The convolution.
        tile: Its tile.
        threads: Threads.
        unpacks: Whether the kernel expands weights below 8 bits.

    Returns:
        1 if the kernel is too small or cannot be split evenly.
    """
    rows = shape.out_height if shape.out_height > 1 else shape.out_width // tile.columns
    if shape.is_padded and shape.kernel[0] == 1 and shape.out_height > 1 and not unpacks:
        return rows
    if not is_shared(shape, threads):
        return 1
    if rows % threads == 0:
        return threads
    return rows if rows >= 2 * threads else 1


def _divisors(size: int) -> list[int]:
    return [d for d in range(1, size + 1) if size % d == 0]
