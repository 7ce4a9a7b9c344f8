"""DRAM traffic against a step by step walk through every tiling of small layers."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.cost.layer import Axis, ElementBytes, Layer
from codesign.cost.tiling import fitting_tilings, tile_sizes
from codesign.errors import InputError

WORD = ElementBytes(weight=1.0, activation=1.0, partial_sum=4.0, filter_overhead=8.0)


def _layer(filters: int, channels: int, outputs: int, kernel: int = 3, stride: int = 1, width: int = 4) -> Layer:
    """A layer without padding."""
    rows = Axis(outputs, (outputs - 1) * stride + kernel, kernel, stride, 1)
    columns = Axis(width, (width - 1) * stride + kernel, kernel, stride, 1)
    return Layer(1, filters, channels, rows, columns)


def _touched(axis: Axis, start: int, stop: int) -> set[int]:
    return {o * axis.stride + t * axis.dilation for o in range(start, stop) for t in range(axis.kernel)}


def _tiles(size: int, tile: int) -> list[tuple[int, int]]:
    return [(start, min(start + tile, size)) for start in range(0, size, tile)]


def _walk(layer: Layer, element: ElementBytes, tile: tuple[int, int, int], order: tuple[int, ...]) -> float:
    """Bytes moved when tiles are visited one by one and the buffer holds the last tile of each operand."""
    loops = [_tiles(size, t) for size, t in zip((layer.filters, layer.rows.outputs, layer.channels), tile, strict=True)]
    width = len(_touched(layer.columns, 0, layer.columns.outputs))
    held_weights: object = None
    held_rows: tuple[object, set[int]] = (None, set())
    held_outputs: object = None
    finished: dict[object, int] = {}
    moved = 0.0
    for step in itertools.product(*(range(len(loops[loop])) for loop in order)):
        at = dict(zip(order, step, strict=True))
        k, y, c = (loops[loop][at[loop]] for loop in range(3))
        if held_weights != (k, c):
            held_weights = (k, c)
            share = (c[1] - c[0]) / layer.channels
            weights = (c[1] - c[0]) * layer.taps * element.weight + share * element.filter_overhead
            moved += (k[1] - k[0]) * weights
        rows = _touched(layer.rows, *y)
        rolls_on = held_rows[0] == c and min(rows) >= min(held_rows[1])
        missing = rows - held_rows[1] if rolls_on else rows
        held_rows = (c, rows)
        moved += len(missing) * width * (c[1] - c[0]) * element.activation
        size = (k[1] - k[0]) * (y[1] - y[0]) * layer.columns.outputs
        if held_outputs != (k, y):
            moved += _put_away(held_outputs, finished, layer, loops, element)
            held_outputs = (k, y)
            if (k, y) in finished:
                moved += size * element.partial_sum
        finished[k, y] = finished.get((k, y), 0) + 1
    return moved + _put_away(held_outputs, finished, layer, loops, element)


def _put_away(
    tile: object, finished: dict[object, int], layer: Layer, loops: list[list[tuple[int, int]]], element: ElementBytes
) -> float:
    if tile is None:
        return 0.0
    assert isinstance(tile, tuple)
    k, y = tile
    size = (k[1] - k[0]) * (y[1] - y[0]) * layer.columns.outputs
    is_done = finished[tile] == len(loops[2])
    return float(size * (element.activation if is_done else element.partial_sum))


def _footprint(layer: Layer, element: ElementBytes, tile: tuple[int, int, int], sums: bool) -> float:
    k, y, c = tile
    rows = max(len(_touched(layer.rows, *part)) for part in _tiles(layer.rows.outputs, y))
    width = len(_touched(layer.columns, 0, layer.columns.outputs))
    output = element.partial_sum if sums or c < layer.channels else element.activation
    weights = k * (c * layer.taps * element.weight + element.filter_overhead)
    return weights + rows * width * c * element.activation + k * y * layer.columns.outputs * output


def _all_tilings(layer: Layer) -> Iterator[tuple[int, int, int]]:
    yield from itertools.product(
        range(1, layer.filters + 1), range(1, layer.rows.outputs + 1), range(1, layer.channels + 1)
    )


def _brute_force(layer: Layer, element: ElementBytes, buffer_bytes: float, sums: bool) -> float | None:
    costs = [
        _walk(layer, element, tile, order)
        for tile in _all_tilings(layer)
        if _footprint(layer, element, tile, sums) <= buffer_bytes
        for order in itertools.permutations(range(3))
    ]
    return min(costs, default=None)


SMALL = [
    _layer(4, 4, 4),
    _layer(5, 3, 6, kernel=3, stride=2),
    _layer(6, 5, 5, kernel=1),
    _layer(3, 4, 6, kernel=1, stride=2),
    _layer(7, 2, 3, kernel=5),
    _layer(2, 7, 1, kernel=1, width=1),
]


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: f"{layer.filters}x{layer.channels}x{layer.rows.outputs}")
@pytest.mark.parametrize("sums", [False, True])
def test_the_best_traffic_is_that_of_a_walk_through_every_tiling(layer: Layer, sums: bool) -> None:
    smallest = _footprint(layer, WORD, (1, 1, 1), sums)
    whole = _footprint(layer, WORD, (layer.filters, layer.rows.outputs, layer.channels), sums)
    smallest = min(smallest, *(_footprint(layer, WORD, tile, sums) for tile in _all_tilings(layer)))
    for buffer_bytes in np.linspace(smallest, whole, 9):
        found = fitting_tilings(layer, WORD, buffer_bytes, sums).total_bytes.min()
        assert found == pytest.approx(_brute_force(layer, WORD, buffer_bytes, sums))


def test_a_small_buffer_makes_partial_sums_spill() -> None:
    """With one row of 8 channels too large, the reduction is cut and sums leave the chip."""
    layer = _layer(64, 64, 8, kernel=3, width=8)
    uncut = min(_footprint(layer, WORD, (k, y, layer.channels), False) for k in range(1, 65) for y in range(1, 9))
    tilings = fitting_tilings(layer, WORD, uncut - 1, sums_in_buffer=False)
    assert (tilings.channel_tiles > 1).all()
    compulsory_outputs = layer.positions * layer.filters * WORD.activation
    spilled = tilings.output_bytes > compulsory_outputs
    assert spilled.any()
    twice = tilings.output_bytes[spilled & (tilings.channel_tiles == tilings.channel_tiles.min())]
    passes = tilings.channel_tiles.min()
    sums = 2 * (passes - 1) * layer.positions * layer.filters * WORD.partial_sum
    assert twice == pytest.approx(compulsory_outputs + sums)


def test_nothing_fits_is_refused_with_both_sizes() -> None:
    with pytest.raises(InputError, match=r"take \d+ bytes on chip, the buffer holds 16; use a profile with a larger"):
        fitting_tilings(_layer(8, 8, 8), WORD, 16, sums_in_buffer=False)


def test_everything_that_fits_moves_once() -> None:
    layer = _layer(8, 8, 8)
    tilings = fitting_tilings(layer, WORD, 1e9, sums_in_buffer=True)
    compulsory = 8 * (8 * 9 + 8) + 10 * 6 * 8 + 8 * 4 * 8
    assert tilings.total_bytes.min() == compulsory


def test_tile_sizes_reach_every_number_of_tiles() -> None:
    for size in range(1, 60):
        sizes = tile_sizes(size)
        assert [-(-size // tile) for tile in sizes] == sorted({-(-size // tile) for tile in range(1, size + 1)})
        for tile in sizes[:-1]:
            assert -(-size // (tile - 1)) > -(-size // tile)  # no smaller tile gives as few


layers = st.builds(
    _layer,
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 3),
    st.integers(1, 20),
)


@settings(max_examples=60, deadline=None)
@given(layer=layers, buffer_bytes=st.integers(3_000, 60_000), bits=st.sampled_from([2, 3, 4, 5, 6, 8]))
def test_traffic_is_at_least_compulsory_and_falls_with_buffer_and_bits(
    layer: Layer, buffer_bytes: int, bits: int
) -> None:
    element = ElementBytes(bits / 8, 1.0, 4.0, 8.0)
    best = fitting_tilings(layer, element, buffer_bytes, sums_in_buffer=False).total_bytes.min()
    rows, columns = layer.rows, layer.columns
    inputs = len(_touched(rows, 0, rows.outputs)) * len(_touched(columns, 0, columns.outputs)) * layer.channels
    weights = layer.filters * (layer.reduction * bits / 8 + 8)
    assert best >= weights + inputs + layer.positions * layer.filters - 1e-6
    larger = fitting_tilings(layer, element, 2 * buffer_bytes, sums_in_buffer=False).total_bytes.min()
    assert larger <= best
    wider = fitting_tilings(layer, WORD, buffer_bytes, sums_in_buffer=False).total_bytes.min()
    assert best <= wider + 1e-6


@given(
    outputs=st.integers(1, 30),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    tile=st.integers(1, 30),
)
def test_spans_count_touched_positions(outputs: int, kernel: int, stride: int, dilation: int, tile: int) -> None:
    axis = Axis(outputs, 10**6, kernel, stride, dilation)
    exact = len(_touched(axis, 0, outputs))
    assert exact <= axis.span(outputs)
    if dilation == 1:
        assert exact == axis.span(outputs)
        assert axis.tiled_span(tile) == sum(len(_touched(axis, *part)) for part in _tiles(outputs, tile))
