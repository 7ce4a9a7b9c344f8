"""How the TVM kernels tile a layer, computed from its loop bounds alone.

The same rules as `codesign.backend.kernels` applies when it compiles (a test compares the two): outputs of a tile stay
in registers while a kernel sums over taps and input channels. What a tile loads and how many sums it keeps in flight
decide how near a kernel comes to the peak, and the width of the image decides which tiles there are.
"""

from dataclasses import dataclass
from functools import lru_cache

from codesign.cost.amx_loops import AmxLoops, StoredChannels, amx_applies, amx_loops
from codesign.cost.bfloat16_loops import bfloat16_applies, bfloat16_loops, stored_for_bfloat16
from codesign.cost.window_taps import is_padded_beside, padded_elements
from codesign.hardware.calibration import VectorUnit
from codesign.plan.facts import ConvGeometry

MAXIMUM_BLOCKS = 9
ENOUGH_SUMS = 12
CHANNEL_MULTIPLE = 4
"""Input channels are summed in multiples of so many."""
CACHED_WEIGHTS = 6_000
"""Weights of a block above which the tile rule counts their loads again."""


@dataclass(frozen=True)
class TiledLoops:
    """Loops of one kernel.

    Attributes:
        tiles: Tiles that are computed one after the other.
        steps: Steps of the sum in each tile.
        columns: Outputs (parts of the sum in matrix-vector products) of a tile that share a vector of weights.
        blocks: Vectors of output channels of a tile.
        lanes: Output channels of a vector.
        inner: Input channels that one step consumes.
        passes: How often the whole input is read: blocks of channels over those of a tile.
        padded: Elements of the input with its padding, 0 where nothing is padded.
        copy_width: Elements that the padding copies at once.
        in_channels: Channels of the input as stored.
        outputs: Output elements as stored.
        is_vector: Whether it is a product of a matrix and one row.
        from_image: Whether the input is that of the network, with fewer channels than layers store.
        amx: Tiles of AMX that replace tiles, steps, columns and blocks; None for a kernel without them.
        rounded: Elements of the input that are rounded to bfloat16.
    """

    tiles: int
    steps: int
    columns: int
    blocks: int
    lanes: int
    inner: int
    passes: int
    padded: int
    copy_width: int
    in_channels: int
    outputs: int
    is_vector: bool = False
    from_image: bool = False
    amx: AmxLoops | None = None
    rounded: int = 0

    @property
    def sums(self) -> int:
        """Vectors of sums in flight."""
        return self.columns * self.blocks

    @property
    def tile_weights(self) -> int:
        """Weights that one tile reads."""
        parts = self.columns if self.is_vector else 1
        return self.steps * parts * self.inner * self.lanes * self.blocks


@dataclass(frozen=True)
class _Sizes:
    width: int
    alike_blocks: int
    reduction: int
    taps: int


def tiled_loops(geometry: ConvGeometry, integers: bool, unit: VectorUnit) -> TiledLoops:
    """Loops of the kernel that computes a convolution or a dense layer.

    Args:
        geometry: Loop bounds.
        integers: Whether activations are 8 bits wide.
        unit: The processor's vectors.

    Returns:
        The loops.
    """
    lanes = unit.lanes
    stored = _channels_of(geometry, _stored_channels(geometry, integers, lanes), lanes)
    in_bfloat16 = unit.bfloat16 and not integers and bfloat16_applies(geometry, stored)
    if in_bfloat16:
        stored = _channels_of(geometry, stored_for_bfloat16(stored.inputs), lanes)
    stored_in, stored_out, reduction = stored.inputs, stored.outputs, stored.summed
    inner = unit.dot_channels if integers and reduction % unit.dot_channels == 0 else 1
    out_height, out_width = geometry.output_size
    taps = geometry.kernel[0] * geometry.kernel[1]
    rows = geometry.batch
    padded = padded_elements(geometry, stored_in)
    flat = taps == 1 and geometry.stride == (1, 1) and not padded
    pixels = rows * out_height * out_width
    if pixels == 1 and taps == 1 and geometry.groups == 1:
        return _matrix_vector(stored_in, stored_out, inner, unit)
    size = (1, pixels) if flat else (rows * out_height, out_width)
    amx, rounded = None, 0
    if unit.amx and integers and amx_applies(geometry, stored):
        amx = amx_loops(*size, geometry.kernel, geometry.stride[1], stored)
    elif in_bfloat16:
        found = bfloat16_loops(geometry, size, stored, padded > 0)
        amx, rounded = found.amx, found.copied
    out_blocks = stored_out // lanes
    columns, blocks = _tile(_Sizes(pixels if flat else out_width, stored.alike_blocks, reduction, taps), unit)
    return TiledLoops(
        tiles=pixels // columns * (out_blocks // blocks),
        steps=taps * -(-reduction // inner),
        columns=columns,
        blocks=blocks,
        lanes=lanes,
        inner=inner,
        passes=out_blocks // blocks,
        padded=padded if integers or in_bfloat16 or is_padded_beside(geometry) else 0,  # rows outside are left out
        copy_width=next(v for v in (64, 32, 16, 8, 4, 2, 1) if stored_in % v == 0),
        in_channels=stored_in,
        outputs=pixels * stored_out,
        from_image=stored_in % lanes != 0,
        amx=amx,
        rounded=rounded,
    )


def is_depthwise(geometry: ConvGeometry) -> bool:
    """Whether every channel is a group by itself.

    Args:
        geometry: Loop bounds.

    Returns:
        Whether there are several groups of one input and one output each.
    """
    return geometry.groups == geometry.input_channels == geometry.output_channels > 1


def _channels_of(geometry: ConvGeometry, stored_in: int, lanes: int) -> StoredChannels:
    reduction, alike_blocks = summed_channels(geometry, stored_in, lanes)
    stored_out = _round_up(geometry.output_channels, lanes)
    return StoredChannels(stored_in, stored_out, reduction, alike_blocks, geometry.groups > 1)


def summed_channels(geometry: ConvGeometry, stored_in: int, lanes: int) -> tuple[int, int]:
    """Input channels that a kernel sums over for each output, and how many neighbouring blocks sum over the same ones.

    Args:
        geometry: Loop bounds.
        stored_in: Input channels as stored.
        lanes: Output channels of a block.

    Returns:
        With groups, the channels of all groups that a block belongs to; without, those that are not only stored; both
        up to a multiple of 4.
    """
    out_blocks = -(-geometry.output_channels // lanes)
    group_in = geometry.input_channels // geometry.groups
    group_out = geometry.output_channels // geometry.groups
    if geometry.groups == 1:
        return min(stored_in, _round_up(group_in, CHANNEL_MULTIPLE)), out_blocks
    if is_depthwise(geometry):
        return 1, 1
    groups = max(
        (min(first + lanes, geometry.output_channels) - 1) // group_out - first // group_out + 1
        for first in range(0, geometry.output_channels, lanes)
    )
    reduction = min(stored_in, _round_up(groups * group_in, CHANNEL_MULTIPLE))
    if reduction == stored_in:
        return reduction, out_blocks
    return reduction, group_out // lanes if group_out % lanes == 0 else 1


def _stored_channels(geometry: ConvGeometry, integers: bool, lanes: int) -> int:
    """Activations are stored in multiples of a vector, but for the few channels of a network's input."""
    channels = geometry.input_channels
    if channels >= lanes or geometry.groups > 1 or geometry.input_size == (1, 1):
        return _round_up(channels, lanes)
    if channels > 4:  # what another layer made
        return _round_up(channels, lanes)
    return _round_up(channels, 4) if integers else channels


@lru_cache(maxsize=4096)
def _tile(sizes: _Sizes, unit: VectorUnit) -> tuple[int, int]:
    """Columns and blocks with the fewest loads a sum and enough sums to hide latency."""
    streaming = 0.5 if sizes.taps * sizes.reduction * unit.lanes > CACHED_WEIGHTS else 0.0
    best, best_cost = (1, 1), float("inf")
    for blocks in _divisors(sizes.alike_blocks):
        for columns in _divisors(sizes.width):
            sums = blocks * columns
            if sums > 1 and (sums + blocks + 1 > unit.registers or blocks > MAXIMUM_BLOCKS):
                continue
            latency = max(0, min(10, unit.registers // 2) - sums) * 0.15
            cost = (columns + blocks) / sums + latency + streaming / columns
            if cost < best_cost:
                best, best_cost = (columns, blocks), cost
    return best


@lru_cache(maxsize=4096)
def _matrix_vector(inputs: int, outputs: int, inner: int, unit: VectorUnit) -> TiledLoops:
    """One row: parts of the input are summed side by side."""
    steps, out_blocks = inputs // inner, outputs // unit.lanes
    best, best_cost = (1, 1), float("inf")
    for part in (p for p in range(1, ENOUGH_SUMS + 1) if steps % p == 0):
        for block in (b for b in range(1, ENOUGH_SUMS + 1) if out_blocks % b == 0):
            sums = part * block
            if sums > 1 and sums + block + 1 > unit.registers:
                continue
            cost = part / sums + max(0, ENOUGH_SUMS - sums) * 0.15 + 0.01 * sums
            if cost < best_cost:
                best, best_cost = (part, block), cost
    parts, blocks = best
    return TiledLoops(
        out_blocks // blocks,
        steps // parts,
        parts,
        blocks,
        unit.lanes,
        inner,
        out_blocks // blocks,
        0,
        1,
        inputs,
        outputs,
        True,
    )


def _divisors(size: int) -> list[int]:
    small = [d for d in range(1, int(size**0.5) + 1) if size % d == 0]
    return sorted({*small, *(size // d for d in small)})


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
