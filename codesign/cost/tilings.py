"""Tiles of a layer's loops that fit an on-chip buffer, and how often each loop order fetches each operand.

A tile is t_k filters x t_y output rows x t_c input channels; kernel and columns are not cut. Tiles of weights, inputs
and outputs (partial sums while the reduction is not finished) lie in the buffer together, so

    t_k (t_c R S b_w + o) + span(t_y) columns t_c b_a + t_y OW t_k b_o <= buffer

More filters in a tile never add traffic, therefore only the largest t_k that fits is kept for each (t_y, t_c).

The three tile loops nest in any order. An operand is fetched again for each iteration of a loop that it does not depend
on and that lies outside of the innermost loop that it depends on and that runs more than once. Rows shared by
neighbouring row tiles stay in the buffer while it rolls downwards, unless a loop over channel tiles inside the row loop
overwrites them. Outputs whose reduction is interrupted leave as partial sums and come back: 2 (n_c - 1) times.
"""

import functools
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from codesign.cost.layer_table import Array, LayerTable, ceil_div

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Problems:
    """Layers at given widths and a buffer to tile them for; arrays of one length.

    Attributes:
        layers: One group of each layer.
        weight_bytes: One weight, packed for DRAM.
        activation_bytes: One input or output, packed for DRAM.
        buffered_weight_bytes: One weight as the buffer holds it.
        buffered_activation_bytes: One input or output as the buffer holds it.
        sum_bytes: One partial sum, in either.
        buffer_bytes: Capacity of the buffer.
        sums_in_buffer: Whether outputs lie in the buffer as partial sums even where the reduction is not cut.
    """

    layers: LayerTable
    weight_bytes: Array
    activation_bytes: Array
    buffered_weight_bytes: Array
    buffered_activation_bytes: Array
    sum_bytes: float
    buffer_bytes: float
    sums_in_buffer: bool

    def __len__(self) -> int:
        return len(self.layers)

    def take(self, index: Index) -> "Problems":
        """Some of the problems.

        Args:
            index: Which, repetitions allowed.

        Returns:
            These problems.
        """
        return Problems(
            self.layers.take(index),
            self.weight_bytes[index],
            self.activation_bytes[index],
            self.buffered_weight_bytes[index],
            self.buffered_activation_bytes[index],
            self.sum_bytes,
            self.buffer_bytes,
            self.sums_in_buffer,
        )

    @property
    def compulsory_bytes(self) -> Array:
        """Traffic that no tiling avoids: each operand once."""
        layers = self.layers
        weights = layers.filters * (layers.reduction * self.weight_bytes + layers.filter_overhead_bytes)
        return weights + (layers.touched_inputs + layers.outputs) * self.activation_bytes


@dataclass(frozen=True)
class Tilings:
    """Tilings of problems; arrays of one length.

    Attributes:
        dram_bytes: All traffic of DRAM; infinite where the tile does not fit.
        weight_fetches: How often the weights are read from DRAM.
        input_elements: Inputs read from DRAM, each as often as it is read.
        spilled_sums: Partial sums written to DRAM and read again, both counted.
        channel_tiles: Parts into which the reduction is cut.
        filter_tiles: Parts into which the filters are cut.
        row_tiles: Parts into which the output rows are cut.
        tile_weight_bytes: Weights of a tile, packed for DRAM.
        tile_input_bytes: Inputs of a tile, packed for DRAM.
        tile_output_bytes: Outputs of a tile, packed for DRAM.
    """

    dram_bytes: Array
    weight_fetches: Array
    input_elements: Array
    spilled_sums: Array
    channel_tiles: Array
    filter_tiles: Array
    row_tiles: Array
    tile_weight_bytes: Array
    tile_input_bytes: Array
    tile_output_bytes: Array

    def take(self, index: Index) -> "Tilings":
        """Some of the tilings.

        Args:
            index: Which, repetitions allowed.

        Returns:
            These tilings.
        """
        return Tilings(*(getattr(self, field.name)[index] for field in fields(self)))

    def replaced(self, index: Index, other: "Tilings") -> "Tilings":
        """These tilings with some of them replaced.

        Args:
            index: Which.
            other: By what, in the order of `index`.

        Returns:
            The mixture.
        """
        columns = []
        for field in fields(self):
            values = getattr(self, field.name).copy()
            values[index] = getattr(other, field.name)
            columns.append(values)
        return Tilings(*columns)

    def where(self, mask: NDArray[np.bool_], other: "Tilings") -> "Tilings":
        """These tilings where a mask holds, others elsewhere.

        Args:
            mask: Which to take from these.
            other: Tilings of the same length.

        Returns:
            The mixture.
        """
        names = (field.name for field in fields(self))
        return Tilings(*(np.where(mask, getattr(self, name), getattr(other, name)) for name in names))


@functools.lru_cache(maxsize=65536)
def tile_sizes(size: int) -> Array:
    """Sizes to try along one loop: for each reachable number of tiles, the smallest tile that gives it.

    Args:
        size: Iterations of the loop.

    Returns:
        Tile sizes, largest first.
    """
    counts = np.unique(-(-size // np.arange(1, size + 1)))
    return np.asarray(-(-size // counts), np.float64)


def uncut_reductions(problems: Problems, row_tile: Array) -> Tilings:
    """Tilings that finish every output at once; the better of both loop orders.

    Args:
        problems: What to tile.
        row_tile: t_y of each.

    Returns:
        The tilings.
    """
    tiles = _Tiles.largest(problems, row_tile, problems.layers.channels)
    once = np.ones_like(row_tile)
    inputs = problems.layers.touched_inputs
    inputs_again = np.where(tiles.row_tiles > 1, tiles.filter_tiles, once)
    weights_again = np.where(tiles.filter_tiles > 1, tiles.row_tiles, once)
    filters_outside = _tilings(problems, tiles, once, inputs * inputs_again, once)
    rows_outside = _tilings(problems, tiles, weights_again, inputs, once)
    return _better(filters_outside, rows_outside)


def cut_reductions(problems: Problems, row_tile: Array, channel_tile: Array) -> Tilings:
    """Tilings that interrupt the reduction; the best of all loop orders.

    Args:
        problems: What to tile.
        row_tile: t_y of each.
        channel_tile: t_c of each, below the channels.

    Returns:
        The tilings.
    """
    layers = problems.layers
    tiles = _Tiles.largest(problems, row_tile, channel_tile)
    once = np.ones_like(row_tile)
    n_k, n_y, n_c = tiles.filter_tiles, tiles.row_tiles, tiles.channel_tiles
    rolled = layers.touched_inputs
    lost = layers.rows.tiled_span(row_tile) * layers.columns.span(layers.columns.outputs) * layers.channels
    has_rows, has_filters = n_y > 1, n_k > 1
    spills = np.where(has_rows | has_filters, n_c, once)
    orders = (  # outermost loop first; filters and rows around channels may swap without a difference
        _tilings(problems, tiles, n_y, lost * n_k, once),  # filters, rows, channels
        _tilings(problems, tiles, once, rolled * n_k, np.where(has_rows, n_c, once)),  # filters, channels, rows
        _tilings(problems, tiles, once, rolled * np.where(has_rows, n_k, once), spills),  # channels, filters, rows
        _tilings(problems, tiles, n_y, lost, np.where(has_filters, n_c, once)),  # rows, channels, filters
        _tilings(problems, tiles, np.where(has_filters, n_y, once), rolled, spills),  # channels, rows, filters
    )
    return functools.reduce(_better, orders)


@dataclass(frozen=True)
class _Tiles:
    """The largest tiles that fit; arrays of one length.

    Attributes:
        filters: t_k, balanced over the tiles.
        rows: t_y.
        channels: t_c.
        filter_tiles: n_k.
        row_tiles: n_y.
        channel_tiles: n_c.
        fits: Whether a tile of one filter fits.
    """

    filters: Array
    rows: Array
    channels: Array
    filter_tiles: Array
    row_tiles: Array
    channel_tiles: Array
    fits: NDArray[np.bool_]

    @classmethod
    def largest(cls, problems: Problems, row_tile: Array, channel_tile: Array) -> "_Tiles":
        """Tiles with as many filters as fit beside the inputs."""
        layers = problems.layers
        channel_tiles = ceil_div(layers.channels, channel_tile)
        room = problems.buffer_bytes - _tile_inputs(problems, row_tile, channel_tile, buffered=True)
        per_filter = _bytes_of_a_filter(problems, row_tile, channel_tile, channel_tiles > 1)
        fitting = np.floor(room / per_filter)
        fits = fitting >= 1
        filter_tiles = ceil_div(layers.filters, np.clip(fitting, 1, layers.filters))
        filters = ceil_div(layers.filters, filter_tiles)
        row_tiles = ceil_div(layers.rows.outputs, row_tile)
        return cls(filters, row_tile, channel_tile, filter_tiles, row_tiles, channel_tiles, fits)


def smallest_tile_bytes(problems: Problems) -> Array:
    """What one filter, row and channel at a time take in the buffer.

    Args:
        problems: What to tile.

    Returns:
        Bytes.
    """
    one = np.ones(len(problems))
    filter_bytes = _bytes_of_a_filter(problems, one, one, problems.layers.channels > 1)
    return _tile_inputs(problems, one, one, buffered=True) + filter_bytes


def _tile_inputs(problems: Problems, row_tile: Array, channel_tile: Array, *, buffered: bool) -> Array:
    columns = problems.layers.columns
    element = problems.buffered_activation_bytes if buffered else problems.activation_bytes
    return problems.layers.rows.span(row_tile) * columns.span(columns.outputs) * channel_tile * element


def _bytes_of_a_filter(problems: Problems, row_tile: Array, channel_tile: Array, is_cut: NDArray[np.bool_]) -> Array:
    layers = problems.layers
    output_bytes = np.where(is_cut | problems.sums_in_buffer, problems.sum_bytes, problems.buffered_activation_bytes)
    weights = channel_tile * layers.taps * problems.buffered_weight_bytes + layers.filter_overhead_bytes
    return np.asarray(weights + row_tile * layers.columns.outputs * output_bytes)


def _tilings(problems: Problems, tiles: _Tiles, weight_fetches: Array, input_elements: Array, visits: Array) -> Tilings:
    """Traffic of a loop order that visits each output tile so many times."""
    layers = problems.layers
    spilled = 2 * (visits - 1) * layers.outputs
    weights = layers.filters * (layers.reduction * problems.weight_bytes + layers.filter_overhead_bytes)
    moved = weights * weight_fetches + (input_elements + layers.outputs) * problems.activation_bytes
    moved += spilled * problems.sum_bytes
    return Tilings(
        dram_bytes=np.where(tiles.fits, moved, np.inf),
        weight_fetches=weight_fetches,
        input_elements=input_elements,
        spilled_sums=spilled,
        channel_tiles=tiles.channel_tiles,
        filter_tiles=tiles.filter_tiles,
        row_tiles=tiles.row_tiles,
        tile_weight_bytes=tiles.filters * tiles.channels * layers.taps * problems.weight_bytes,
        tile_input_bytes=_tile_inputs(problems, tiles.rows, tiles.channels, buffered=False),
        tile_output_bytes=tiles.rows * layers.columns.outputs * tiles.filters * problems.activation_bytes,
    )


def _better(first: Tilings, second: Tilings) -> Tilings:
    return first.where(first.dram_bytes <= second.dram_bytes, second)
