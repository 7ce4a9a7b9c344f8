"""DRAM traffic against a step by step walk through every tiling of small layers."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.cost.dram_traffic import best_tilings, dram_traffic, tiling_problems
from codesign.cost.element_bytes import ElementBytes
from codesign.cost.layer_table import LayerTable
from codesign.cost.tilings import Problems, smallest_tile_bytes, tile_sizes
from codesign.plan.facts import ConvGeometry

OVERHEAD = 8.0
SUM_BYTES = 4.0


@dataclass(frozen=True)
class _Layer:
    """A layer without padding, square kernel; one weight and one activation take a byte."""

    filters: int
    channels: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    width: int = 4

    @property
    def geometry(self) -> ConvGeometry:
        size = (self.outputs, self.width)
        inputs = ((size[0] - 1) * self.stride + self.kernel, (size[1] - 1) * self.stride + self.kernel)
        strides = (self.stride, self.stride)
        return ConvGeometry(1, self.channels, self.filters, (self.kernel, self.kernel), strides, size, inputs, 1)

    def touched(self, start: int, stop: int) -> set[int]:
        return {o * self.stride + t for o in range(start, stop) for t in range(self.kernel)}


def _bytes(bits: Sequence[float]) -> ElementBytes:
    return ElementBytes(np.asarray(bits) / 8, np.ones(len(bits)), SUM_BYTES)


def _problems(layers: Sequence[_Layer], buffer_bytes: float, sums: bool, bits: Sequence[float] = (8,)) -> Problems:
    table = LayerTable.of([layer.geometry for layer in layers], OVERHEAD)
    return tiling_problems(table, _bytes(bits), _bytes(bits), buffer_bytes, sums_in_buffer=sums)


def _tiles(size: int, tile: int) -> list[tuple[int, int]]:
    return [(start, min(start + tile, size)) for start in range(0, size, tile)]


def _walk(layer: _Layer, tile: tuple[int, int, int], order: tuple[int, ...]) -> float:
    """Bytes moved when tiles are visited one by one and the buffer holds the last tile of each operand."""
    loops = [_tiles(size, t) for size, t in zip((layer.filters, layer.outputs, layer.channels), tile, strict=True)]
    width = len(layer.touched(0, layer.width))
    held_weights: object = None
    held_rows: tuple[object, set[int]] = (None, set())
    held_outputs: tuple[tuple[int, int], tuple[int, int]] | None = None
    visits: dict[object, int] = {}
    moved = 0.0

    def put_away() -> float:
        if held_outputs is None:
            return 0.0
        size = (held_outputs[0][1] - held_outputs[0][0]) * (held_outputs[1][1] - held_outputs[1][0]) * layer.width
        return size * (1.0 if visits[held_outputs] == len(loops[2]) else SUM_BYTES)

    for step in itertools.product(*(range(len(loops[loop])) for loop in order)):
        at = dict(zip(order, step, strict=True))
        k, y, c = (loops[loop][at[loop]] for loop in range(3))
        if held_weights != (k, c):
            held_weights = (k, c)
            share = (c[1] - c[0]) / layer.channels
            moved += (k[1] - k[0]) * ((c[1] - c[0]) * layer.kernel**2 + share * OVERHEAD)
        rows = layer.touched(*y)
        rolls_on = held_rows[0] == c and min(rows) >= min(held_rows[1])
        moved += len(rows - held_rows[1] if rolls_on else rows) * width * (c[1] - c[0])
        held_rows = (c, rows)
        if held_outputs != (k, y):
            moved += put_away()
            held_outputs = (k, y)
            if (k, y) in visits:
                moved += (k[1] - k[0]) * (y[1] - y[0]) * layer.width * SUM_BYTES
        visits[k, y] = visits.get((k, y), 0) + 1
    return moved + put_away()


def _footprint(layer: _Layer, tile: tuple[int, int, int], sums: bool) -> float:
    k, y, c = tile
    rows = max(len(layer.touched(*part)) for part in _tiles(layer.outputs, y))
    output = SUM_BYTES if sums or c < layer.channels else 1.0
    weights = k * (c * layer.kernel**2 + OVERHEAD)
    return weights + rows * len(layer.touched(0, layer.width)) * c + k * y * layer.width * output


def _all_tilings(layer: _Layer) -> Iterator[tuple[int, int, int]]:
    yield from itertools.product(range(1, layer.filters + 1), range(1, layer.outputs + 1), range(1, layer.channels + 1))


def _walked(layer: _Layer, sums: bool) -> list[tuple[float, int, float]]:
    """Footprint, parts of the reduction, and fewest bytes over loop orders, of every tiling."""
    return [
        (
            _footprint(layer, tile, sums),
            -(-layer.channels // tile[2]),
            min(_walk(layer, tile, order) for order in itertools.permutations(range(3))),
        )
        for tile in _all_tilings(layer)
    ]


def _front(costs: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Pairs that no other one beats in both, fewest bytes first."""
    kept: list[tuple[float, int]] = []
    for moved, parts in sorted(set(costs)):
        if not kept or parts < kept[-1][1]:
            kept.append((moved, parts))
    return kept


SMALL = [
    _Layer(4, 4, 4),
    _Layer(5, 3, 6, kernel=3, stride=2),
    _Layer(6, 5, 5, kernel=1),
    _Layer(3, 4, 6, kernel=1, stride=2),
    _Layer(7, 2, 3, kernel=5),
    _Layer(2, 7, 1, kernel=1, width=1),
]


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: f"{layer.filters}x{layer.channels}x{layer.outputs}")
@pytest.mark.parametrize("sums", [False, True])
def test_the_best_tilings_are_those_of_a_walk_through_every_one(layer: _Layer, sums: bool) -> None:
    walked = _walked(layer, sums)
    smallest, whole = min(w[0] for w in walked), max(w[0] for w in walked)
    assert smallest_tile_bytes(_problems([layer], 1, sums))[0] >= smallest
    for buffer_bytes in np.linspace(smallest, whole, 9):
        expected = _front([(moved, parts) for footprint, parts, moved in walked if footprint <= buffer_bytes])
        if sums:  # nothing is put aside, so only bytes count
            expected = expected[:1]
        found = best_tilings(_problems([layer], buffer_bytes, sums))
        pairs = list(dict.fromkeys((float(t.dram_bytes[0]), int(t.channel_tiles[0])) for t in found))
        assert [moved for moved, _ in pairs] == pytest.approx([moved for moved, _ in expected])
        assert [parts for _, parts in pairs] == [parts for _, parts in expected]


def test_many_problems_at_once_are_as_many_alone() -> None:
    bits = (2, 4, 8)
    for sums in (False, True):
        together = best_tilings(_problems(SMALL, 100, sums, bits))
        for index, (layer, width) in enumerate(itertools.product(SMALL, bits)):
            alone = best_tilings(_problems([layer], 100, sums, [width]))
            for tiling, alternative in itertools.zip_longest(together, alone):
                expected = (alternative or alone[0]).dram_bytes[0]
                assert tiling.dram_bytes[index] == expected


def test_a_small_buffer_makes_partial_sums_spill() -> None:
    """With one row of all channels too large, the reduction is cut; sums leave the chip or cross the buffer."""
    layer = _Layer(64, 64, 8, kernel=3, width=8)
    uncut = min(_footprint(layer, (k, y, layer.channels), False) for k in range(1, 65) for y in range(1, 9))
    problems = _problems([layer], uncut - 1, False)
    best = best_tilings(problems)[0]
    assert best.channel_tiles[0] > 1
    traffic = dram_traffic(problems, (1, 1))
    outputs = 64 * 8 * 8
    assert traffic.interrupted_bytes[0, 0, 0] == 2 * (best.channel_tiles[0] - 1) * outputs * SUM_BYTES
    assert traffic.dram_bytes[0, 0, 0] > problems.compulsory_bytes[0]
    spilled = [t for t in best_tilings(_problems([_Layer(4, 64, 8, width=32)], 600, False)) if t.spilled_sums[0]]
    for tiling in spilled:
        assert tiling.spilled_sums[0] == 2 * (tiling.channel_tiles[0] - 1) * 4 * 8 * 32
    assert spilled


def test_what_does_not_fit_is_infinite() -> None:
    problems = _problems([_Layer(8, 8, 8)], 16, False)
    assert dram_traffic(problems, (1, 1)).dram_bytes.tolist() == [[[np.inf]]]
    assert smallest_tile_bytes(problems)[0] > 16


def test_everything_that_fits_moves_once() -> None:
    traffic = dram_traffic(_problems([_Layer(8, 8, 8)], 1e9, True), (1, 1))
    weights, inputs, outputs = 8 * (8 * 9 + 8), 10 * 6 * 8, 8 * 4 * 8
    assert traffic.dram_bytes.tolist() == [[[weights + inputs + outputs]]]
    assert traffic.fill_bytes.tolist() == [[[weights + inputs]]]
    assert traffic.interrupted_bytes.tolist() == [[[0]]]
    assert traffic.tile_rows.tolist() == [[[8]]]
    assert traffic.tile_weight_bytes.tolist() == [[[8 * 8 * 9]]]


def test_a_buffer_that_pads_narrow_weights_holds_fewer_of_them() -> None:
    layer = _Layer(64, 32, 64)
    table = LayerTable.of([layer.geometry], OVERHEAD)
    packed, padded = _bytes([2]), ElementBytes(np.ones(1), np.ones(1), SUM_BYTES)
    in_packed, in_padded = (
        dram_traffic(tiling_problems(table, packed, buffer, 6000, sums_in_buffer=False), (1, 1))
        for buffer in (packed, padded)
    )
    assert in_packed.dram_bytes[0] < in_padded.dram_bytes[0]
    assert in_packed.fill_bytes[0] < in_padded.fill_bytes[0]


def test_tile_sizes_reach_every_number_of_tiles() -> None:
    for size in range(1, 60):
        sizes = tile_sizes(size).astype(int).tolist()
        assert [-(-size // tile) for tile in sizes] == sorted({-(-size // tile) for tile in range(1, size + 1)})
        for tile in sizes[:-1]:
            assert -(-size // (tile - 1)) > -(-size // tile)  # no smaller tile gives as few


layers = st.builds(
    _Layer,
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 3),
    st.integers(1, 20),
)


@settings(max_examples=60, deadline=None)
@given(layer=layers, buffer_bytes=st.integers(2_000, 60_000), sums=st.booleans())
def test_traffic_is_at_least_compulsory_and_falls_with_buffer_and_bits(
    layer: _Layer, buffer_bytes: int, sums: bool
) -> None:
    bits = (2, 3, 4, 5, 6, 8)
    best = best_tilings(_problems([layer], buffer_bytes, sums, bits))[0].dram_bytes
    inputs = len(layer.touched(0, layer.outputs)) * len(layer.touched(0, layer.width)) * layer.channels
    weights = layer.filters * (layer.channels * layer.kernel**2 * np.asarray(bits) / 8 + OVERHEAD)
    assert (best >= weights + inputs + layer.outputs * layer.width * layer.filters).all()
    assert (np.diff(best[np.isfinite(best)]) >= 0).all()
    assert (np.isfinite(best) >= np.isfinite(np.roll(best, -1)))[:-1].all()  # what fits wide fits narrow
    larger = best_tilings(_problems([layer], 2 * buffer_bytes, sums, bits))[0].dram_bytes
    assert (larger <= best).all()
