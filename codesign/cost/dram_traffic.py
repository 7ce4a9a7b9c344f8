"""DRAM traffic of each layer under its best tilings, which depends on the layer, the widths and the buffer only.

Fewer bytes of DRAM may need a reduction that is cut into more parts, whose sums an output-stationary array then puts
aside in the buffer. Neither the fastest nor the cheapest choice is known before the array is, so all tilings that no
other one beats in both are kept: usually one, in order of DRAM bytes.

Cost: about `sqrt(OH)` tilings a layer where one of them moves each operand once, else `sqrt(OH) sqrt(C)`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.cost.element_bytes import ElementBytes
from codesign.cost.layer_table import Array, LayerTable, ceil_div
from codesign.cost.tilings import (
    Index,
    Problems,
    Tilings,
    cut_reductions,
    tile_sizes,
    uncut_reductions,
)


@dataclass(frozen=True)
class DramTraffic:
    """Traffic of one group of each layer under every tiling worth choosing; arrays `[alternatives, layers, pairs]`.

    A layer with fewer alternatives than others repeats its first. All is infinite where not even one filter, row and
    channel at a time fit.

    Attributes:
        dram_bytes: Read from and written to DRAM, least first.
        fill_bytes: What passes the global buffer for it, except finished outputs.
        interrupted_bytes: Partial sums that leave elements and come back because the reduction is cut; 0 where sums lie
            in the buffer anyway.
        tile_weight_bytes: Weights of a tile.
        tile_input_bytes: Inputs of a tile.
        tile_output_bytes: Outputs of a tile.
        tile_rows: Output rows of a tile.
    """

    dram_bytes: Array
    fill_bytes: Array
    interrupted_bytes: Array
    tile_weight_bytes: Array
    tile_input_bytes: Array
    tile_output_bytes: Array
    tile_rows: Array


def dram_traffic(problems: Problems, shape: tuple[int, int]) -> DramTraffic:
    """Traffic of every layer at every pair of widths.

    Args:
        problems: What to tile, pairs of one layer side by side.
        shape: Layers and pairs.

    Returns:
        The traffic.
    """
    return _traffic(problems, best_tilings(problems), shape)


def tiling_problems(
    layers: LayerTable, dram: ElementBytes, buffer: ElementBytes, buffer_bytes: float, *, sums_in_buffer: bool
) -> Problems:
    """Every layer at every pair of widths.

    Args:
        layers: The layers.
        dram: Bytes of elements in DRAM, by pair of widths.
        buffer: Bytes of elements in the buffer, for the same pairs.
        buffer_bytes: Capacity of the buffer.
        sums_in_buffer: Whether output tiles always take the width of partial sums.

    Returns:
        The problems, pairs of one layer side by side.
    """
    pairs = len(dram.weight)
    each = np.repeat(np.arange(len(layers)), pairs)
    count = len(layers)
    return Problems(
        layers=layers.take(each),
        weight_bytes=np.tile(dram.weight, count),
        activation_bytes=np.tile(dram.activation, count),
        buffered_weight_bytes=np.tile(buffer.weight, count),
        buffered_activation_bytes=np.tile(buffer.activation, count),
        sum_bytes=buffer.partial_sum,
        buffer_bytes=buffer_bytes,
        sums_in_buffer=sums_in_buffer,
    )


def best_tilings(problems: Problems) -> list[Tilings]:
    """Tilings that no other one beats in both DRAM bytes and parts of the reduction.

    Args:
        problems: What to tile.

    Returns:
        First the tiling of each problem with the fewest bytes, then that with fewer parts, and so on until no problem
        has a further one; problems with fewer of them repeat their first. Equal tilings: the one with fewer tiles.
    """
    owner, row_tile, _ = _candidates(problems, _row_grid)
    candidates = uncut_reductions(problems.take(owner), row_tile)
    whole = candidates.take(_first_best(candidates, candidates.dram_bytes, owner))
    is_open = (whole.dram_bytes > problems.compulsory_bytes) & (problems.layers.channels > 1)
    unsettled = np.flatnonzero(is_open)
    if not len(unsettled):
        return [whole]
    open_problems = problems.take(unsettled)
    owner, row_tile, channel_tile = _candidates(open_problems, _row_and_channel_grid)
    cut = cut_reductions(open_problems.take(owner), row_tile, channel_tile)
    found = _front(cut, owner, whole.take(unsettled), only_least=problems.sums_in_buffer)
    return [whole.replaced(unsettled, tilings) for tilings in found]


Grid = tuple[Array, Array]


@functools.lru_cache(maxsize=16384)
def _row_grid(rows: int, channels: int) -> Grid:
    """Row tiles to try with all channels in one tile."""
    sizes = tile_sizes(rows)
    return sizes, np.full_like(sizes, channels)


@functools.lru_cache(maxsize=16384)
def _row_and_channel_grid(rows: int, channels: int) -> Grid:
    """Row and channel tiles to try, the channels cut; few parts of the reduction first."""
    row_tile, channel_tile = tile_sizes(rows), tile_sizes(channels)[1:]
    return np.tile(row_tile, len(channel_tile)), np.repeat(channel_tile, len(row_tile))


def _candidates(problems: Problems, grid: Callable[[int, int], Grid]) -> tuple[Index, Array, Array]:
    """Tiles to try for each problem, side by side, and which problem each belongs to."""
    layers = problems.layers
    sizes = zip(layers.rows.outputs.astype(int).tolist(), layers.channels.astype(int).tolist(), strict=True)
    grids = [grid(*size) for size in sizes]
    owner = np.repeat(np.arange(len(grids)), [len(rows) for rows, _ in grids])
    return owner, np.concatenate([rows for rows, _ in grids]), np.concatenate([channels for _, channels in grids])


def _first_best(tilings: Tilings, dram_bytes: Array, owner: Index) -> Index:
    """For each owner the tiling of fewest bytes, then fewest parts, filters' tiles, rows' tiles."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    is_best = np.ones(len(owner), np.bool_)
    for key in (dram_bytes, tilings.channel_tiles, tilings.filter_tiles, tilings.row_tiles):
        left = np.where(is_best, key, np.inf)
        is_best &= left == np.minimum.reduceat(left, starts)[owner]
    best = np.flatnonzero(is_best)
    return best[np.flatnonzero(np.diff(owner[best], prepend=-1))]


def _front(cut: Tilings, owner: Index, whole: Tilings, *, only_least: bool) -> list[Tilings]:
    """Alternatives of each owner from its tilings with a cut reduction and its best one without, least bytes first."""
    is_saving = cut.dram_bytes < whole.dram_bytes[owner]
    parts = np.full(len(whole.dram_bytes), np.inf)
    picked: list[tuple[NDArray[np.bool_], Tilings]] = []
    while not (only_least and picked):
        left = np.where(is_saving & (cut.channel_tiles < parts[owner]), cut.dram_bytes, np.inf)
        best = _first_best(cut, left, owner)
        is_found = np.isfinite(left[best])
        if not is_found.any():
            break
        picked.append((is_found, cut.take(best)))
        parts = np.where(is_found, cut.channel_tiles[best], parts)
    if not picked:
        return [whole]
    least = picked[0][1].where(picked[0][0], whole)
    if only_least:
        return [least]
    found = [least]
    was_found = picked[0][0]
    for is_found, tilings in [*picked[1:], (np.zeros_like(was_found), whole)]:
        ends_here = was_found & ~is_found & np.isfinite(whole.dram_bytes)
        found.append(tilings.where(is_found, whole.where(ends_here, least)))
        was_found = is_found
    return found


def _traffic(problems: Problems, alternatives: list[Tilings], shape: tuple[int, int]) -> DramTraffic:
    def table(values: list[Array]) -> Array:
        return np.asarray(values).reshape(len(alternatives), *shape)

    layers, sum_bytes = problems.layers, problems.sum_bytes
    weights = layers.filters * (layers.reduction * problems.buffered_weight_bytes + layers.filter_overhead_bytes)
    filled = [
        weights * a.weight_fetches + a.input_elements * problems.buffered_activation_bytes + a.spilled_sums * sum_bytes
        for a in alternatives
    ]
    kept = 0.0 if problems.sums_in_buffer else 2 * sum_bytes
    return DramTraffic(
        dram_bytes=table([a.dram_bytes for a in alternatives]),
        fill_bytes=table(filled),
        interrupted_bytes=table([kept * (a.channel_tiles - 1) * layers.outputs for a in alternatives]),
        tile_weight_bytes=table([a.tile_weight_bytes for a in alternatives]),
        tile_input_bytes=table([a.tile_input_bytes for a in alternatives]),
        tile_output_bytes=table([a.tile_output_bytes for a in alternatives]),
        tile_rows=table([ceil_div(layers.rows.outputs, a.row_tiles) for a in alternatives]),
    )
