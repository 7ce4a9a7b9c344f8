import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.cost.array_grid import GridCost, Objective, price_grid
from codesign.cost.array_model import ArrayModel
from codesign.cost.layer_table import LayerTable
from codesign.errors import InputError
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import DATAFLOWS, ArrayKind, HardwareProfile
from codesign.plan.facts import ConvGeometry

PROFILE = load_profile("squeezelerator-16x16")
BITS = [(2, 8), (8, 8), (16, 16)]
LAYERS = (
    ConvGeometry(1, 3, 64, (7, 7), (2, 2), (111, 111), (227, 227), 1),
    ConvGeometry(1, 64, 16, (1, 1), (1, 1), (55, 55), (55, 55), 1),
    ConvGeometry(1, 256, 256, (3, 3), (1, 1), (13, 13), (13, 13), 2),
    ConvGeometry(1, 48, 48, (3, 3), (1, 1), (14, 14), (14, 14), 48),
    ConvGeometry(1, 512, 1000, (1, 1), (1, 1), (1, 1), (1, 1), 1),
    ConvGeometry(64, 4 * 32, 4 * 64, (1, 1), (1, 1), (1, 1), (1, 1), 4),
)


def _design(
    kind: ArrayKind = "skewed", rows: int = 16, columns: int = 16, buffer: int = 32768, **changes: object
) -> HardwareProfile:
    assert PROFILE.array is not None
    sizes = {"kind": kind, "rows": rows, "columns": columns, "dataflows": DATAFLOWS[kind]}
    sizes["filters_per_element"] = 1 if kind == "skewed" else 16
    array = PROFILE.array.model_copy(update=sizes | changes)
    compute = tuple(row.model_copy(update={"macs_per_s": array.macs_per_s}) for row in PROFILE.compute)
    return _with(PROFILE.model_copy(update={"array": array, "compute": compute}), 1, capacity_bytes=float(buffer))


def _with(profile: HardwareProfile, index: int, **changes: object) -> HardwareProfile:
    memories = list(profile.memories)
    memories[index] = memories[index].model_copy(update=changes)
    return profile.model_copy(update={"memories": tuple(memories)})


DESIGNS = (
    _design("skewed", 8, 16, 4096),
    _design("broadcast", 16, 16, 32768),
    _design("broadcast", 32, 8, 32768, latency_convention="load-compute-store"),
    _design("squeezelerator", 16, 16, 131072),
    _with(_design("skewed", 16, 16, 4096, folds="whole"), 1, bandwidth_bytes_per_s=1e9),
)
TABLE = LayerTable.of(LAYERS, 8.0)


@pytest.mark.parametrize("goal", ["latency", "energy"])
def test_every_point_is_what_pricing_it_alone_gives(goal: Objective) -> None:
    bandwidths = [1e8, 8e9]
    designs = [design.model_copy(update={"idle_power_w": 0.05}) for design in DESIGNS]
    grid = price_grid(TABLE, BITS, designs, bandwidths, objective=goal)
    assert grid.latency_s.shape == (len(LAYERS), 3, 3, len(DESIGNS), 2)
    best = grid.best_dataflow(goal)
    ways = itertools.product(enumerate(LAYERS), enumerate(BITS), enumerate(designs), enumerate(bandwidths))
    for (row, layer), (b, bits), (d, design), (w, bandwidth) in ways:
        model = ArrayModel(_with(design, 2, bandwidth_bytes_per_s=bandwidth), goal)
        mapping = model.best_mapping(layer, *bits)
        at = (row, b, best[row, b, d, w], d, w)
        assert grid.dataflows[at[2]] == mapping.dataflow
        assert grid.latency_s[at] == mapping.latency_s
        assert grid.energy_j[at] == mapping.energy_j
        assert grid.dram_bytes[at] == mapping.dram_bytes
        assert grid.buffer_bytes[at] == mapping.buffer_bytes
        assert grid.tables.register_bytes[at[:4]] == mapping.register_bytes
        assert ("compute", "global-buffer", "dram")[grid.bound[at]] == mapping.bound


def test_energy_adds_up_over_levels() -> None:
    designs = [design.model_copy(update={"idle_power_w": 0.05}) for design in DESIGNS]
    grid = price_grid(TABLE, BITS, designs)
    parts = grid.energy_by_level
    assert list(parts) == ["compute", "register", "buffer", "dram", "static"]
    possible = np.isfinite(grid.energy_j)
    total = sum(part[possible] for part in parts.values())
    assert total == pytest.approx(grid.energy_j[possible], rel=1e-12)
    assert (parts["static"][possible] == 0.05 * grid.latency_s[possible]).all()


def test_a_dataflow_that_a_design_does_not_offer_is_never_chosen() -> None:
    grid = price_grid(TABLE, BITS, DESIGNS)
    index = grid.dataflows.index("input-stationary")
    kinds = [design.array.kind for design in DESIGNS if design.array is not None]
    offered = np.isfinite(grid.latency_s[:, :, index]).all(axis=(0, 1, 3))
    assert offered.tolist() == [kind == "skewed" for kind in kinds]
    assert (np.isfinite(grid.energy_j) == np.isfinite(grid.latency_s)).all()
    assert (grid.utilisation[:, index, 1] == 0).all()
    assert not np.isnan(grid.energy_j).any()


def test_a_buffer_smaller_than_a_tile_is_infinite_in_a_grid() -> None:
    free = _with(_design(buffer=64), 2, energy_j_per_byte=0.0)
    grid = price_grid(TABLE, [(8, 8)], [free])
    assert not np.isfinite(grid.latency_s[0]).any()
    assert not np.isfinite(grid.energy_j[0]).any()
    with pytest.raises(InputError, match=r"take \d+ bytes on chip, the buffer holds 64"):
        ArrayModel(free).best_mapping(LAYERS[0], 8, 8)


def test_a_missing_rate_is_refused() -> None:
    with pytest.raises(InputError, match=r"compute has no rate for 7-bit weights with 8-bit activations"):
        price_grid(TABLE, [(8, 8), (7, 8)], [PROFILE])


@pytest.mark.parametrize("bandwidths", [[], [0.0], [-1.0], [1e9, math.nan], [math.inf]])
def test_a_bandwidth_that_is_none_is_refused(bandwidths: list[float]) -> None:
    with pytest.raises(InputError, match="DRAM bandwidths: got"):
        price_grid(TABLE, [(8, 8)], [PROFILE], bandwidths)


@pytest.mark.parametrize("empty", ["layers", "bits", "designs"])
def test_nothing_to_price_is_refused(empty: str) -> None:
    with pytest.raises(InputError, match="nothing to price"):
        price_grid(
            LayerTable.of([]) if empty == "layers" else TABLE,
            [] if empty == "bits" else [(8, 8)],
            [] if empty == "designs" else [PROFILE],
        )


def test_a_rate_below_the_native_one_stretches_the_cycles_and_nothing_else() -> None:
    """Bit-serial and spatially fused arrays state their rates; half the rate is twice the time."""
    slow = tuple(
        row.model_copy(update={"macs_per_s": row.macs_per_s / (2 if row.weight_bits == 16 else 1)})
        for row in PROFILE.compute
    )
    native, halved = (price_grid(TABLE, BITS, [p]) for p in (PROFILE, PROFILE.model_copy(update={"compute": slow})))
    assert (halved.tables.compute_s[:, 2] == 2 * native.tables.compute_s[:, 2]).all()
    assert (halved.tables.compute_s[:, :2] == native.tables.compute_s[:, :2]).all()
    assert (halved.tables.dram_bytes == native.tables.dram_bytes).all()


def test_padded_storage_moves_whole_bytes() -> None:
    padded = PROFILE
    for level in range(3):
        padded = _with(padded, level, storage="bytes")
    narrow, wide = (price_grid(TABLE, [bits], [padded]) for bits in ((2, 8), (8, 8)))
    assert (narrow.dram_bytes == wide.dram_bytes).all()
    assert (narrow.latency_s == wide.latency_s).all()


def test_loading_first_and_storing_last_is_never_faster() -> None:
    hidden, shown = _design("broadcast"), _design("broadcast", latency_convention="load-compute-store")
    grid = price_grid(TABLE, BITS, [hidden, shown])
    possible = np.isfinite(grid.latency_s[..., 0, 0])
    assert (grid.latency_s[..., 1, 0] >= grid.latency_s[..., 0, 0]).all()
    assert (grid.latency_s[..., 1, 0] > grid.latency_s[..., 0, 0])[possible].any()


def test_load_compute_store_by_hand() -> None:
    """A 1x1 layer of 16 -> 16 channels on 16 x 16 positions that fits: everything is loaded, computed, stored."""
    layer = LayerTable.of([ConvGeometry(1, 16, 16, (1, 1), (1, 1), (16, 16), (16, 16), 1)])
    design = _design("broadcast", latency_convention="load-compute-store")
    grid = price_grid(layer, [(8, 8)], [design], [1.6e10])
    dispatch_s, cycle_s = design.dispatch_s, 1 / 5e8
    weight = 256 * cycle_s + (256 * 16 + 256 * 16) / 1.6e10
    assert grid.latency_s[0, 0, grid.dataflows.index("weight-stationary"), 0, 0] == pytest.approx(weight + dispatch_s)
    output = 256 * cycle_s + (256 * 16 + 16 * 16) / 1.6e10  # the last of 16 rows of outputs
    assert grid.latency_s[0, 0, grid.dataflows.index("output-stationary"), 0, 0] == pytest.approx(output + dispatch_s)


@st.composite
def _layers(draw: st.DrawFn) -> ConvGeometry:
    groups, kernel, stride = draw(st.sampled_from([1, 1, 4])), draw(st.sampled_from([1, 3])), draw(st.integers(1, 2))
    size = draw(st.integers(1, 24))
    channels, filters = groups * draw(st.integers(1, 40)), groups * draw(st.integers(1, 40))
    return ConvGeometry(
        1, channels, filters, (kernel,) * 2, (stride,) * 2, (size,) * 2, ((size - 1) * stride + kernel,) * 2, groups
    )


def _best(grid: GridCost) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(grid.latency_s.min(axis=2))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    layer=_layers(),
    kind=st.sampled_from(sorted(DATAFLOWS)),
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    buffer=st.integers(6000, 200000),
    bandwidth=st.floats(1e8, 1e11),
)
def test_more_of_anything_is_never_slower_and_nothing_beats_the_roofline(
    layer: ConvGeometry, kind: ArrayKind, rows: int, columns: int, buffer: int, bandwidth: float
) -> None:
    table, bits = LayerTable.of([layer]), [(2, 8), (4, 8), (8, 8)]
    design = _design(kind, rows, columns, buffer)
    assert design.array is not None
    richer = [
        _design(kind, 2 * rows, columns, buffer),
        _design(kind, rows, 2 * columns, buffer),
        _design(kind, rows, columns, 2 * buffer),
    ]
    grid = price_grid(table, bits, [design, *richer], [bandwidth, 2 * bandwidth])
    latency = _best(grid)[0]  # [pairs, designs, bandwidths]
    tolerance = 1 + 1e-12
    assert (latency[:, 1:] <= latency[:, :1] * tolerance).all()
    assert (latency[..., 1] <= latency[..., 0] * tolerance).all()
    assert (latency[:-1] <= latency[1:] * tolerance).all()
    cheapest = price_grid(table, bits, [design, *richer], [bandwidth], objective="energy").energy_j.min(axis=2)[0]
    assert (cheapest[:, 1:] <= cheapest[:, :1] * tolerance).all()
    assert (cheapest[:-1] <= cheapest[1:] * tolerance).all()
    widths = np.asarray(bits) / 8
    moved = table.filters * table.reduction * widths[:, 0] + (table.touched_inputs + table.outputs) * widths[:, 1]
    compulsory = float(table.groups[0]) * moved
    possible = np.isfinite(grid.latency_s)
    assert (grid.dram_bytes >= compulsory[:, None, None, None])[possible].all()
    work_s = float((table.groups * table.macs)[0]) / design.array.macs_per_s
    bound = np.maximum(work_s, compulsory[:, None] / np.asarray([bandwidth, 2 * bandwidth]))
    assert (latency[:, 0] * tolerance >= bound).all()
