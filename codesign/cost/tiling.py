"""DRAM traffic of one layer under every tiling of its loops that fits an on-chip buffer.

A tile is t_k filters x t_y output rows x t_c input channels; kernel and columns are not cut. Tiles of weights, inputs
and outputs (partial sums while the reduction is not finished) lie in the buffer together, so

    t_k (t_c R S b_w + o) + span(t_y) cols t_c b_a + t_y OW t_k b_o <= buffer

The three tile loops nest in any order. An operand is fetched again for each iteration of a loop that it does not depend
on and that lies outside of the innermost loop that it depends on and that runs more than once. Rows shared by
neighbouring row tiles stay in the buffer while it rolls downwards, unless a loop over channel tiles inside the row loop
overwrites them. Outputs whose reduction is interrupted leave as partial sums and come back: 2 (n_c - 1) times.
"""

import itertools
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from codesign.cost.layer import ElementBytes, Layer
from codesign.errors import InputError

Array = NDArray[np.float64]
FILTERS, ROWS, CHANNELS = "filters", "rows", "channels"
_LOOPS = (FILTERS, ROWS, CHANNELS)


@dataclass(frozen=True)
class Tilings:
    """Traffic of every tiling and loop order that fits; arrays of one length.

    Attributes:
        weight_bytes: Read from DRAM.
        input_bytes: Read from DRAM.
        output_bytes: Written to DRAM, and partial sums written and read again.
        channel_tiles: Parts into which the reduction is cut.
    """

    weight_bytes: Array
    input_bytes: Array
    output_bytes: Array
    channel_tiles: Array

    @property
    def total_bytes(self) -> Array:
        """All traffic."""
        return self.weight_bytes + self.input_bytes + self.output_bytes


def tile_sizes(size: int) -> list[int]:
    """Sizes to try along one loop: for each reachable number of tiles, the smallest tile that gives it.

    Args:
        size: Iterations of the loop.

    Returns:
        Tile sizes, largest first.
    """
    counts = sorted({-(-size // tile) for tile in range(1, size + 1)})
    return [-(-size // count) for count in counts]


def fitting_tilings(layer: Layer, element: ElementBytes, buffer_bytes: float, sums_in_buffer: bool) -> Tilings:
    """DRAM traffic of every tiling that fits, in every loop order.

    Args:
        layer: One group of a convolution.
        element: Bytes of elements.
        buffer_bytes: Capacity of the buffer.
        sums_in_buffer: Whether the dataflow accumulates in the buffer, so that output tiles always take the width of
            partial sums there.

    Returns:
        The traffic of one group.

    Raises:
        InputError: Not even one filter, row and channel at a time fits.
    """
    grid = _Grid.of(layer)
    footprint = grid.footprint(layer, element, sums_in_buffer)
    fits = footprint <= buffer_bytes
    if not fits.any():
        raise InputError(
            f"one filter, row and channel at a time take {footprint.min():.0f} bytes on chip, the buffer holds "
            f"{buffer_bytes:.0f}; use a profile with a larger buffer"
        )
    chosen = grid.where(fits)
    orders = [_traffic(layer, element, chosen, order) for order in itertools.permutations(_LOOPS)]
    return Tilings(
        np.concatenate([traffic.weight_bytes for traffic in orders]),
        np.concatenate([traffic.input_bytes for traffic in orders]),
        np.concatenate([traffic.output_bytes for traffic in orders]),
        np.concatenate([traffic.channel_tiles for traffic in orders]),
    )


@dataclass(frozen=True)
class _Grid:
    """Tile sizes along each loop and how often each loop runs; arrays that broadcast with one another.

    Attributes:
        filter_tile: Filters of a tile.
        row_tile: Output rows of a tile.
        channel_tile: Input channels of a tile.
        filter_tiles: Iterations over filters.
        row_tiles: Iterations over rows.
        channel_tiles: Iterations over channels.
        input_rows: Input rows of one tile.
        all_input_rows: Input rows of all row tiles, overlaps counted in each.
    """

    filter_tile: Array
    row_tile: Array
    channel_tile: Array
    filter_tiles: Array
    row_tiles: Array
    channel_tiles: Array
    input_rows: Array
    all_input_rows: Array

    @classmethod
    def of(cls, layer: Layer) -> "_Grid":
        rows = layer.rows
        k = np.asarray(tile_sizes(layer.filters), np.float64).reshape(-1, 1, 1)
        sizes = tile_sizes(rows.outputs)
        y = np.asarray(sizes, np.float64).reshape(1, -1, 1)
        c = np.asarray(tile_sizes(layer.channels), np.float64).reshape(1, 1, -1)
        spans = np.asarray([rows.span(size) for size in sizes], np.float64).reshape(1, -1, 1)
        overlapping = np.asarray([rows.tiled_span(size) for size in sizes], np.float64).reshape(1, -1, 1)
        counts = (np.ceil(layer.filters / k), np.ceil(rows.outputs / y), np.ceil(layer.channels / c))
        return cls(k, y, c, *counts, spans, overlapping)

    def footprint(self, layer: Layer, element: ElementBytes, sums_in_buffer: bool) -> Array:
        """Bytes of one tile of weights, inputs and outputs."""
        columns = layer.columns
        weights = self.filter_tile * (self.channel_tile * layer.taps * element.weight + element.filter_overhead)
        inputs = self.input_rows * columns.span(columns.outputs) * self.channel_tile * element.activation
        keeps_sums = (self.channel_tiles > 1) | sums_in_buffer
        output_element = np.where(keeps_sums, element.partial_sum, element.activation)
        return np.asarray(weights + inputs + self.row_tile * columns.outputs * self.filter_tile * output_element)

    def where(self, mask: NDArray[np.bool_]) -> "_Grid":
        """The tilings that a mask selects, as flat arrays."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return _Grid(*(np.broadcast_to(array, mask.shape)[mask] for array in arrays))


def _traffic(layer: Layer, element: ElementBytes, grid: _Grid, order: tuple[str, ...]) -> Tilings:
    """Traffic of each tiling with the loops nested in one order, outermost first."""
    counts = {FILTERS: grid.filter_tiles, ROWS: grid.row_tiles, CHANNELS: grid.channel_tiles}

    def repetitions(unrelated: str) -> Array:
        """How often an operand is fetched that depends on every loop but one."""
        inside = order[order.index(unrelated) + 1 :]
        is_replaced = np.any([counts[loop] > 1 for loop in inside], axis=0) if inside else np.False_
        return np.where(is_replaced, counts[unrelated], 1.0)

    filter_bytes = layer.reduction * element.weight + element.filter_overhead
    rows_are_lost = (order.index(CHANNELS) > order.index(ROWS)) & (grid.channel_tiles > 1)
    input_rows = np.where(rows_are_lost, grid.all_input_rows, layer.rows.span(layer.rows.outputs))
    row_bytes = layer.columns.span(layer.columns.outputs) * layer.channels * element.activation
    outputs = layer.positions * layer.filters
    interruptions = repetitions(CHANNELS) - 1
    return Tilings(
        weight_bytes=layer.filters * filter_bytes * repetitions(ROWS),
        input_bytes=input_rows * row_bytes * repetitions(FILTERS),
        output_bytes=outputs * (element.activation + 2 * interruptions * element.partial_sum),
        channel_tiles=grid.channel_tiles,
    )
