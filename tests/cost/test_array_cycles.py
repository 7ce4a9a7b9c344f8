import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.array_cycles import array_cycles
from codesign.cost.layer_table import LayerTable
from codesign.errors import InputError
from codesign.hardware.profile import DATAFLOWS, ArrayKind, Dataflow, PeArray
from codesign.plan.facts import ConvGeometry

OUTPUT: Dataflow = "output-stationary"
WEIGHT: Dataflow = "weight-stationary"
INPUT: Dataflow = "input-stationary"


def _array(kind: ArrayKind, rows: int, columns: int | None = None, filters: int = 1, whole: bool = False) -> PeArray:
    return PeArray(
        kind=kind,
        rows=rows,
        columns=rows if columns is None else columns,
        clock_hz=1e9,
        filters_per_element=filters,
        accumulator_bits=32,
        dataflows=DATAFLOWS[kind],
        folds="whole" if whole else "fitted",
        source="a test",
    )


def _convolution(channels: int, filters: int, size: int, kernel: int, stride: int = 1, groups: int = 1) -> ConvGeometry:
    inputs = (size - 1) * stride + kernel  # no padding
    return ConvGeometry(
        1, channels, filters, (kernel, kernel), (stride, stride), (size, size), (inputs, inputs), groups
    )


def _cycles(geometry: ConvGeometry, array: PeArray, dataflow: Dataflow) -> float:
    return float(array_cycles(LayerTable.of([geometry]), array, dataflow)[0])


def _folds(size: int, part: int) -> list[int]:
    return [min(part, size - start) for start in range(0, size, part)]


def _last_cycle(rows: int, columns: int, products: int, shifts_in: int) -> int:
    """Cycle in which the last element of one fold finishes, element by element: each neighbour starts one later."""
    return max(shifts_in + row + column + products - 1 for row in range(rows) for column in range(columns)) + 1


@pytest.mark.parametrize("geometry", [_convolution(3, 5, 4, 3), _convolution(7, 9, 3, 1), _convolution(2, 20, 5, 2)])
@pytest.mark.parametrize("whole", [False, True])
def test_a_skewed_array_takes_as_long_as_its_last_element(geometry: ConvGeometry, whole: bool) -> None:
    positions = geometry.output_size[0] * geometry.output_size[1]
    products = geometry.input_channels * geometry.kernel[0] * geometry.kernel[1]
    filters = geometry.output_channels
    loops = {OUTPUT: (positions, filters, products), WEIGHT: (products, filters, positions)}
    loops[INPUT] = (products, positions, filters)
    for dataflow, (over_rows, over_columns, over_time) in loops.items():
        total = 0
        for rows, columns in itertools.product(_folds(over_rows, 4), _folds(over_columns, 3)):
            used = (4, 3) if whole else (rows, columns)
            total += _last_cycle(*used, over_time, 0 if dataflow == OUTPUT else used[0])
        assert _cycles(geometry, _array("skewed", 4, 3, whole=whole), dataflow) == total - whole


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (ConvGeometry(1, 5, 20, (3, 3), (1, 1), (7, 7), (9, 9), 1), (881, 899, 1379)),
        (ConvGeometry(1, 40, 12, (1, 1), (1, 1), (14, 14), (14, 14), 1), (1449, 1109, 3229)),
        (ConvGeometry(1, 7, 33, (3, 1), (2, 2), (5, 5), (11, 9), 1), (467, 458, 530)),
        (ConvGeometry(1, 64, 10, (1, 1), (1, 1), (1, 1), (1, 1), 1), (81, 215, 287)),
    ],
)
def test_cycles_that_scale_sim_gave_on_an_array_that_is_not_square(
    geometry: ConvGeometry, expected: tuple[int, int, int]
) -> None:
    """SCALE-Sim 3.0.0 on 8 x 12 elements: output-, weight- and input-stationary."""
    array = _array("skewed", 8, 12, whole=True)
    assert tuple(_cycles(geometry, array, dataflow) for dataflow in (OUTPUT, WEIGHT, INPUT)) == expected


def test_a_broadcast_array_covers_filters_and_one_line_or_channels() -> None:
    geometry = _convolution(10, 9, 7, 3)
    assert _cycles(geometry, _array("broadcast", 4, 3), OUTPUT) == 3 * 3 * 7 * 90
    assert _cycles(geometry, _array("broadcast", 4, 3), WEIGHT) == 3 * 4 * 9 * 49


def test_rows_of_a_matrix_fill_the_array_in_any_shape() -> None:
    tokens = ConvGeometry(64, 32, 16, (1, 1), (1, 1), (1, 1), (1, 1), 1)
    assert _cycles(tokens, _array("broadcast", 8), OUTPUT) == 2 * 8 * 32
    assert _cycles(tokens, _array("squeezelerator", 8, filters=16), OUTPUT) == 16 * 32 + 1 * 32 * 64 / 8


@pytest.mark.parametrize(
    ("n", "channels", "filters", "size", "kernel", "stride"),
    [(8, 16, 32, 16, 3, 1), (16, 64, 48, 32, 1, 1), (8, 32, 16, 8, 5, 2), (4, 8, 16, 12, 3, 2)],
)
def test_squeezelerator_cycles_are_the_published_forms_where_sizes_divide_the_array(
    n: int, channels: int, filters: int, size: int, kernel: int, stride: int
) -> None:
    geometry, array = _convolution(channels, filters, size, kernel, stride), _array("squeezelerator", n, filters=16)
    blocks, products, positions = (size // n) ** 2, channels * kernel**2, size**2
    block_inputs = ((n - 1) * stride + kernel) ** 2 if kernel >= stride else n**2 * kernel**2
    expected = blocks * (filters * products + filters / 16 * channels * block_inputs / n)
    assert _cycles(geometry, array, OUTPUT) == pytest.approx(expected)
    assert _cycles(geometry, array, WEIGHT) == filters // n * (channels // n) * kernel**2 * (positions + n)


@pytest.mark.parametrize(("channels", "filters", "size", "kernel"), [(5, 7, 6, 3), (9, 4, 5, 1), (3, 20, 7, 3)])
def test_squeezelerator_cycles_are_those_of_a_walk_through_the_loops(
    channels: int, filters: int, size: int, kernel: int
) -> None:
    geometry, array = _convolution(channels, filters, size, kernel), _array("squeezelerator", 4, 3, filters=2)
    loads = broadcasts = 0
    for rows, columns in itertools.product(_folds(size, 4), _folds(size, 3)):
        loads += -(-filters // 2) * channels * (rows + kernel - 1) * (columns + kernel - 1)
        broadcasts += filters * channels * kernel**2
    assert _cycles(geometry, array, OUTPUT) == pytest.approx(broadcasts + loads / 3)
    used = [size**2 + c for _ in _folds(filters, 3) for c in _folds(channels, 4) for _ in range(kernel**2)]
    assert _cycles(geometry, array, WEIGHT) == sum(used)


def test_groups_follow_one_another() -> None:
    for kind in DATAFLOWS:
        for dataflow in DATAFLOWS[kind]:
            one = _cycles(_convolution(8, 16, 14, 3), _array(kind, 8, whole=True), dataflow)
            assert _cycles(_convolution(32, 64, 14, 3, groups=4), _array(kind, 8, whole=True), dataflow) == 4 * one


def test_whole_folds_can_make_a_larger_array_slower() -> None:
    """The reason why searches use fitted folds."""
    small, large = (_cycles(_convolution(2, 2, 2, 1), _array("skewed", n, whole=True), OUTPUT) for n in (4, 32))
    assert large > small


@pytest.mark.parametrize("kind", ["broadcast", "squeezelerator"])
def test_a_dataflow_that_a_kind_cannot_run_is_refused(kind: ArrayKind) -> None:
    with pytest.raises(InputError, match=rf"a {kind} array cannot run input-stationary; choose one of output-st"):
        _cycles(_convolution(2, 2, 2, 1), _array(kind, 4), INPUT)


@pytest.mark.parametrize("kind", DATAFLOWS)
@pytest.mark.parametrize("whole", [False, True])
def test_an_array_larger_than_the_layer_is_mostly_idle(kind: ArrayKind, whole: bool) -> None:
    for dataflow in DATAFLOWS[kind]:
        cycles = _cycles(_convolution(2, 3, 2, 1), _array(kind, 512, whole=whole), dataflow)
        assert math.isfinite(cycles)
        assert cycles >= 2


geometries = st.builds(
    _convolution,
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    size=st.integers(1, 30),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
)


@given(geometry=geometries, rows=st.integers(1, 20), columns=st.integers(1, 20), filters=st.sampled_from([1, 4, 16]))
def test_more_rows_or_columns_never_add_cycles_and_no_element_works_twice_at_once(
    geometry: ConvGeometry, rows: int, columns: int, filters: int
) -> None:
    layers = LayerTable.of([geometry])
    for kind in DATAFLOWS:
        for dataflow in DATAFLOWS[kind]:
            count = 1 if kind == "skewed" else filters
            cycles = array_cycles(layers, _array(kind, rows, columns, count), dataflow)
            for larger in (_array(kind, rows + 1, columns, count), _array(kind, rows, columns + 1, count)):
                assert (array_cycles(layers, larger, dataflow) <= cycles + 1e-9).all()
            assert (cycles * rows * columns >= layers.macs - 1e-6).all()


@given(geometry=geometries, rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_fitted_folds_are_never_slower_than_whole_ones(geometry: ConvGeometry, rows: int, columns: int) -> None:
    layers = LayerTable.of([geometry])
    for dataflow in DATAFLOWS["skewed"]:
        fitted = array_cycles(layers, _array("skewed", rows, columns), dataflow)
        whole = array_cycles(layers, _array("skewed", rows, columns, whole=True), dataflow)
        assert (fitted <= whole + 1).all()  # whole folds name the last cycle, which is counted from 0


def test_many_layers_at_once_are_as_many_alone() -> None:
    several = [_convolution(3, 16, 9, 3, 2), _convolution(16, 8, 5, 1), _convolution(8, 8, 5, 3, groups=8)]
    for kind in DATAFLOWS:
        for dataflow in DATAFLOWS[kind]:
            together = array_cycles(LayerTable.of(several), _array(kind, 5, 7), dataflow)
            assert np.array_equal(together, [_cycles(one, _array(kind, 5, 7), dataflow) for one in several])
