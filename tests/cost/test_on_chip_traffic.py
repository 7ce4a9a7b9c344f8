import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.element_bytes import ElementBytes
from codesign.cost.layer_table import LayerTable
from codesign.cost.on_chip_traffic import OnChipTraffic, on_chip_traffic
from codesign.hardware.profile import DATAFLOWS, ArrayKind, Dataflow, MemoryLevel, PeArray
from codesign.plan.facts import ConvGeometry

WORD = ElementBytes(np.ones(1), np.ones(1), 4.0)


def _array(kind: ArrayKind, rows: int, columns: int, filters: int = 1) -> PeArray:
    return PeArray(
        kind=kind,
        rows=rows,
        columns=columns,
        clock_hz=1e9,
        filters_per_element=filters,
        accumulator_bits=32,
        dataflows=DATAFLOWS[kind],
        source="a test",
    )


def _convolution(channels: int, filters: int, size: int, kernel: int, stride: int = 1) -> ConvGeometry:
    inputs = (size - 1) * stride + kernel
    return ConvGeometry(1, channels, filters, (kernel,) * 2, (stride,) * 2, (size,) * 2, (inputs,) * 2, 1)


def _traffic(geometry: ConvGeometry, array: PeArray, dataflow: Dataflow, element: ElementBytes = WORD) -> OnChipTraffic:
    return on_chip_traffic(LayerTable.of([geometry]), array, dataflow, element, element)


def _folds(size: int, part: int) -> list[int]:
    return [min(part, size - start) for start in range(0, size, part)]


@pytest.mark.parametrize(("channels", "filters", "size", "kernel"), [(5, 7, 6, 3), (9, 4, 5, 1), (3, 20, 7, 3)])
def test_a_skewed_array_reads_each_fold_s_edges(channels: int, filters: int, size: int, kernel: int) -> None:
    geometry, array = _convolution(channels, filters, size, kernel), _array("skewed", 4, 3)
    positions, products = size**2, channels * kernel**2
    outputs = positions * filters
    reads = sum((m + k) * products for m, k in itertools.product(_folds(positions, 4), _folds(filters, 3)))
    assert _traffic(geometry, array, "output-stationary").buffer_bytes == reads + 2 * outputs
    passes = len(_folds(products, 4))
    sums = outputs * (2 * 4 * passes + 1 if passes > 1 else 2)
    folds = itertools.product(_folds(products, 4), _folds(filters, 3))
    assert _traffic(geometry, array, "weight-stationary").buffer_bytes == sums + sum(
        t * k + t * positions for t, k in folds
    )
    folds = itertools.product(_folds(products, 4), _folds(positions, 3))
    assert _traffic(geometry, array, "input-stationary").buffer_bytes == sums + sum(
        t * m + t * filters for t, m in folds
    )


def test_a_broadcast_array_reads_each_stretch_of_a_line() -> None:
    geometry, array = _convolution(5, 10, 7, 3), _array("broadcast", 4, 3)
    folds, stretches, products, outputs = 3, 7 * 3, 45, 490
    output = _traffic(geometry, array, "output-stationary")
    assert output.buffer_bytes == 49 * products * folds + 10 * products * stretches + 2 * outputs
    weight = _traffic(geometry, array, "weight-stationary")
    assert weight.buffer_bytes == 49 * products * folds + 10 * products + outputs * (2 * 4 * 2 * 9 + 1)


@pytest.mark.parametrize(("filters", "inputs_read", "weights_read"), [(1, 3, 21), (2, 3, 10.5), (30, 3, 1)])
def test_several_sums_in_an_element_save_the_larger_of_two_reads(
    filters: int, inputs_read: float, weights_read: float
) -> None:
    """Inputs: 49 positions and 3 folds; weights: 10 filters and 21 stretches. Each product of the reduction."""
    traffic = _traffic(_convolution(5, 10, 7, 3), _array("broadcast", 4, 3, filters), "output-stationary")
    assert traffic.buffer_bytes == pytest.approx(45 * (49 * inputs_read + 10 * weights_read) + 2 * 490)


@pytest.mark.parametrize(("channels", "filters", "size", "kernel"), [(5, 7, 6, 3), (9, 4, 5, 1), (3, 20, 7, 3)])
def test_squeezelerator_bytes_are_those_of_a_walk_through_the_loops(
    channels: int, filters: int, size: int, kernel: int
) -> None:
    geometry, array = _convolution(channels, filters, size, kernel), _array("squeezelerator", 4, 3, filters=2)
    moved = 2 * size**2 * filters
    for rows, columns in itertools.product(_folds(size, 4), _folds(size, 3)):
        moved += -(-filters // 2) * channels * (rows + kernel - 1) * (columns + kernel - 1)
        moved += filters * channels * kernel**2
    assert _traffic(geometry, array, "output-stationary").buffer_bytes == moved
    inputs = sums = 0
    for k, c, _ in itertools.product(_folds(filters, 3), _folds(channels, 4), range(kernel**2)):
        inputs += size**2 * c
        sums += 2 * 4 * size**2 * k
    single = channels <= 4 and kernel == 1
    outputs = 2 * size**2 * filters if single else sums + size**2 * filters
    moved = inputs + filters * channels * kernel**2 + outputs
    assert _traffic(geometry, array, "weight-stationary").buffer_bytes == moved


def test_registers_hold_what_stays() -> None:
    geometry, array = _convolution(5, 7, 6, 3), _array("skewed", 4, 4)
    assert _traffic(geometry, array, "output-stationary").register_bytes == 2 * 36 * 7 * 45 * 4
    assert _traffic(geometry, array, "weight-stationary").register_bytes == 2 * 7 * 45
    assert _traffic(geometry, array, "input-stationary").register_bytes == 2 * 36 * 45


@pytest.mark.parametrize("kind", DATAFLOWS)
def test_a_single_pass_keeps_no_sums_in_the_buffer(kind: ArrayKind) -> None:
    array = _array(kind, 4, 4)
    assert not _traffic(_convolution(4, 8, 8, 1), array, "weight-stationary").sums_in_buffer[0]
    assert _traffic(_convolution(5, 8, 8, 1), array, "weight-stationary").sums_in_buffer[0]
    assert _traffic(_convolution(4, 8, 8, 3), array, "weight-stationary").sums_in_buffer[0]
    assert not _traffic(_convolution(64, 8, 8, 3), array, "output-stationary").sums_in_buffer[0]


def test_a_level_packs_values_or_gives_them_whole_bytes() -> None:
    level = MemoryLevel(
        name="dram", capacity_bytes=1.0, bandwidth_bytes_per_s=1.0, energy_j_per_byte=0.0, source="a test"
    )
    packed = ElementBytes.at(level, [(3, 8), (16, 12)], 20)
    assert (packed.weight.tolist(), packed.activation.tolist(), packed.partial_sum) == ([0.375, 2], [1, 1.5], 2.5)
    padded = ElementBytes.at(level.model_copy(update={"storage": "bytes"}), [(3, 8), (16, 12)], 20)
    assert (padded.weight.tolist(), padded.activation.tolist(), padded.partial_sum) == ([1, 2], [1, 2], 3)


@given(
    geometry=st.builds(
        _convolution,
        channels=st.integers(1, 40),
        filters=st.integers(1, 40),
        size=st.integers(1, 30),
        kernel=st.sampled_from([1, 3, 5]),
        stride=st.integers(1, 2),
    ),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    filters=st.sampled_from([1, 4, 16]),
)
def test_more_rows_or_columns_and_fewer_bits_never_add_traffic(
    geometry: ConvGeometry, rows: int, columns: int, filters: int
) -> None:
    element = ElementBytes(np.asarray([0.25, 0.5, 1.0]), np.ones(3), 4.0)
    for kind in DATAFLOWS:
        count = 1 if kind == "skewed" else filters
        for dataflow in DATAFLOWS[kind]:
            found = _traffic(geometry, _array(kind, rows, columns, count), dataflow, element).buffer_bytes
            assert (np.diff(found) >= 0).all()
            for larger in (_array(kind, rows + 1, columns, count), _array(kind, rows, columns + 1, count)):
                assert (_traffic(geometry, larger, dataflow, element).buffer_bytes <= found + 1e-9).all()
