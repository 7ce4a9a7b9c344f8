"""Loop bounds of a convolution kernel, and how they are tiled and shared among threads."""

from dataclasses import dataclass
from functools import cached_property

from codesign.backend.kernels.packing import LANES

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
    def reduction_channels(self) -> int:
        """Input channels that one output sums over, as stored."""
        return self.in_channels if self.groups == 1 else self.group_in

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padded channels included."""
        spatial = self.out_height * self.out_width * self.kernel[0] * self.kernel[1]
        return spatial * self.out_channels * self.reduction_channels

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
    same_group = shape.blocks
    if shape.groups > 1:
        same_group = max(1, shape.group_out // LANES) if shape.group_out % LANES == 0 else 1
    steps = shape.kernel[0] * shape.kernel[1] * shape.reduction_channels
    streaming = 0.5 if steps * LANES > CACHED_WEIGHTS else 0.0
    best, best_cost = Tile(1, 1), float("inf")
    for blocks in _divisors(same_group):
        for columns in _divisors(shape.out_width):
            sums = blocks * columns
            if sums > 1 and (sums + blocks + 1 > registers or blocks > MAXIMUM_CHANNEL_TILE):
                continue
            latency = max(0, min(10, registers // 2) - sums) * 0.15
            cost = (columns + blocks) / sums + latency + streaming / columns
            if cost < best_cost:
                best, best_cost = Tile(columns, blocks), cost
    return best


def row_chunks(shape: ConvolutionShape, tile: Tile, threads: int) -> int:
    """Into how many chunks the outputs' rows (columns, if there is one row) are split, one launch for all.

    Args:
        shape: The convolution.
        tile: Its tile.
        threads: Threads.

    Returns:
        1 if the kernel is too small or cannot be split evenly.
    """
    if threads == 1 or shape.macs < MINIMUM_PARALLEL_MACS:
        return 1
    rows = shape.out_height if shape.out_height > 1 else shape.out_width // tile.columns
    if rows % threads == 0:
        return threads
    return rows if rows >= 2 * threads else 1


def _divisors(size: int) -> list[int]:
    return [d for d in range(1, size + 1) if size % d == 0]
