"""How AMX kernels cut a convolution into tiles, computed from its loop bounds alone.

The same rules as `codesign.backend.kernels.amx_tiles` applies when it compiles (a test compares the two): outputs by 16
pixels x 16 channels, sums by up to 64 bytes of a kernel row, up to four tiles of sums side by side.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from codesign.plan.facts import ConvGeometry

TILE_ROWS, TILE_BYTES, ACCUMULATORS, INNER, LANES = 16, 64, 4, 4, 16
CACHED_WEIGHT_BYTES = 24_576
"""Weights up to which all channels of some pixels are computed before the next pixels."""
HELD_CHANNELS = 2
"""Tiles of weights that are loaded once for all tiles of pixels of a step."""
LEAST_DEPTH = 16
"""Bytes of a kernel row below which tiles are nearly empty."""
MINIMUM_MACS = 100_000
"""Multiply-accumulates, padded channels included, below which vectors are faster."""


@dataclass(frozen=True)
class StoredChannels:
    """Channels of a layer as its kernel sees them.

    Attributes:
        inputs: As stored.
        outputs: As stored, a multiple of 16.
        summed: Input channels that an output sums over, those of a block's groups together.
        alike_blocks: Neighbouring blocks of 16 outputs that sum over the same inputs.
        grouped: Whether there are several groups.
    """

    inputs: int
    outputs: int
    summed: int
    alike_blocks: int
    grouped: bool = False


@dataclass(frozen=True)
class AmxLoops:
    """Loops of one kernel.

    Attributes:
        groups: Groups of tiles that are summed one after the other.
        steps: Steps of the sum in each group.
        rows: Pixels of a tile.
        pixels: Tiles of pixels in a group.
        channels: Tiles of channels in a group.
        depth: Bytes that a step sums over.
        loads: Rows of operands that a step loads.
        split_loads: Of these, rows of inputs that lie across two cache lines, on average.
        passes: How often the whole input is read.
        weights: Weights as stored, rows of zeros included.
    """

    groups: int
    steps: int
    rows: int
    pixels: int
    channels: int
    depth: int
    loads: int
    split_loads: float
    passes: int
    weights: int

    @property
    def lanes(self) -> int:
        """Channels that are finished at once: the largest power of two that divides a group's."""
        width = self.channels * LANES
        return width & -width

    def repeated(self, count: int) -> "AmxLoops":
        """The loops of several equal parts of a kernel.

        Args:
            count: How many parts.

        Returns:
            Loops of all of them.
        """
        return replace(self, groups=self.groups * count)


def amx_applies(geometry: ConvGeometry, channels: StoredChannels) -> bool:
    """Whether the kernel of a layer in integers uses tiles where the processor has them.

    Args:
        geometry: Loop bounds.
        channels: Its channels.

    Returns:
        False for depthwise layers, horizontal dilation, sums of a few bytes, and little work.
    """
    run = channels.summed if channels.grouped else geometry.kernel[1] * channels.inputs
    pixels = geometry.batch * geometry.output_size[0] * geometry.output_size[1]
    macs = pixels * geometry.kernel[0] * geometry.kernel[1] * channels.summed * channels.outputs
    return channels.summed > 1 and geometry.dilation[1] == 1 and run >= LEAST_DEPTH and macs >= MINIMUM_MACS


@lru_cache(maxsize=4096)
def amx_loops(height: int, width: int, kernel: tuple[int, int], stride: int, channels: StoredChannels) -> AmxLoops:
    """Loops of the kernel.

    Args:
        height: Rows of the output; 1 where a 1x1 kernel treats all pixels as one row.
        width: Columns of the output.
        kernel: Height and width of the kernel.
        stride: Columns of the input between those of the output.
        channels: Channels of the layer; those of the input are a multiple of 4.

    Returns:
        The loops.
    """
    runs, run = (kernel[1], channels.summed) if channels.grouped else (1, kernel[1] * channels.inputs)
    blocks, count = channels.outputs // LANES, -(-run // TILE_BYTES)
    depth = run // count if run % (count * INNER) == 0 else TILE_BYTES
    in_row = -(-width // TILE_ROWS)
    rows, tiles = -(-width // in_row), height * in_row
    pixels, side_by_side = _side_by_side(rows, tiles, depth, channels)
    all_channels_first = channels.outputs * kernel[0] * runs * run <= CACHED_WEIGHT_BYTES
    return AmxLoops(
        groups=-(-tiles // pixels) * (blocks // side_by_side),
        steps=kernel[0] * runs * count,
        rows=rows,
        pixels=pixels,
        channels=side_by_side,
        depth=depth,
        loads=pixels * rows + side_by_side * depth // INNER * (pixels if side_by_side > HELD_CHANNELS else 1),
        split_loads=pixels * rows * _split_share(run, depth, count, stride * channels.inputs),
        passes=1 if all_channels_first else blocks // side_by_side,
        weights=channels.outputs * kernel[0] * runs * count * depth,
    )


def _side_by_side(rows: int, tiles: int, depth: int, channels: StoredChannels) -> tuple[int, int]:
    """Tiles of pixels and of channels that are summed together."""
    blocks = channels.outputs // LANES
    best, best_cost = (1, 1), float("inf")
    for pixels in range(1, min(ACCUMULATORS, tiles) + 1):
        for count in (c for c in range(1, ACCUMULATORS // pixels + 1) if blocks % c == channels.alike_blocks % c == 0):
            loads = (pixels * rows + count * depth // INNER) / 2
            cycles = max(pixels * count * rows, loads) + loads / 4
            cost = cycles * -(-tiles // pixels) * (blocks // count)
            if cost < best_cost:
                best, best_cost = (pixels, count), cost
    return best


def _split_share(run: int, depth: int, count: int, pixel_bytes: int) -> float:
    """Share of the rows of inputs, `depth` bytes each, that reach from one cache line into the next."""
    starts = [min(part * depth, run - depth) for part in range(count)]
    places = [(pixel * pixel_bytes + start) % TILE_BYTES for pixel in range(TILE_ROWS) for start in starts]
    return sum(place + depth > TILE_BYTES for place in places) / len(places)
