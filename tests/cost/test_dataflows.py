import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.dataflows import output_stationary, weight_stationary
from codesign.cost.layer import ElementBytes, Layer, layer_of
from codesign.hardware.profile import PeArray
from codesign.plan.facts import ConvGeometry

WORD = ElementBytes(weight=1.0, activation=1.0, partial_sum=4.0, filter_overhead=0.0)


def _array(rows: int, columns: int | None = None, filters: int = 16) -> PeArray:
    return PeArray(
        rows=rows,
        columns=rows if columns is None else columns,
        clock_hz=1e9,
        filters_per_element=filters,
        accumulator_bits=32,
        dataflows=("output-stationary", "weight-stationary"),
        source="a test",
    )


def _convolution(channels: int, filters: int, size: int, kernel: int, stride: int = 1, groups: int = 1) -> Layer:
    inputs = (size - 1) * stride + kernel  # no padding
    geometry = ConvGeometry(
        1, channels, filters, (kernel, kernel), (stride, stride), (size, size), (inputs, inputs), groups
    )
    return layer_of(geometry)


@pytest.mark.parametrize(
    ("n", "channels", "filters", "size", "kernel", "stride"),
    [(8, 16, 32, 16, 3, 1), (16, 64, 48, 32, 1, 1), (8, 32, 16, 8, 5, 2), (4, 8, 16, 12, 3, 2)],
)
def test_cycles_are_the_published_forms_where_sizes_divide_the_array(
    n: int, channels: int, filters: int, size: int, kernel: int, stride: int
) -> None:
    layer = _convolution(channels, filters, size, kernel, stride)
    blocks, products, positions = (size // n) ** 2, channels * kernel**2, size**2
    block_inputs = ((n - 1) * stride + kernel) ** 2 if kernel >= stride else n**2 * kernel**2
    expected = blocks * (filters * products + filters / 16 * channels * block_inputs / n)
    assert output_stationary(layer, WORD, _array(n)).cycles == pytest.approx(expected)
    expected = filters // n * (channels // n) * kernel**2 * (positions + n)
    assert weight_stationary(layer, WORD, _array(n)).cycles == pytest.approx(expected)


@pytest.mark.parametrize(("channels", "filters", "size", "kernel"), [(5, 7, 6, 3), (9, 4, 5, 1), (3, 20, 7, 3)])
def test_counts_are_those_of_a_walk_through_the_loops(channels: int, filters: int, size: int, kernel: int) -> None:
    layer, array = _convolution(channels, filters, size, kernel), _array(4, 3, filters=2)
    loads = broadcasts = 0
    for y, x in itertools.product(range(0, size, 4), range(0, size, 3)):
        rows = min(4, size - y) + kernel - 1
        columns = min(3, size - x) + kernel - 1
        for _ in range(0, filters, 2):
            loads += channels * rows * columns
        broadcasts += filters * channels * kernel**2
    found = output_stationary(layer, WORD, array)
    assert found.cycles == pytest.approx(broadcasts + loads / 3)
    assert found.buffer_bytes == loads + broadcasts + 2 * size**2 * filters
    cycles = inputs = sums = 0
    for k, c, _ in itertools.product(range(0, filters, 3), range(0, channels, 4), range(kernel**2)):
        used = min(4, channels - c)
        cycles += size**2 + used
        inputs += size**2 * used
        sums += 2 * 4 * size**2 * min(3, filters - k)
    found = weight_stationary(layer, WORD, array)
    assert found.cycles == cycles
    single = channels <= 4 and kernel == 1
    outputs = 2 * size**2 * filters if single else sums + size**2 * filters
    assert found.buffer_bytes == inputs + filters * channels * kernel**2 + outputs


def test_a_single_pass_keeps_no_sums_in_the_buffer() -> None:
    assert not weight_stationary(_convolution(4, 8, 8, 1), WORD, _array(4)).sums_in_buffer
    assert weight_stationary(_convolution(5, 8, 8, 1), WORD, _array(4)).sums_in_buffer
    assert weight_stationary(_convolution(4, 8, 8, 3), WORD, _array(4)).sums_in_buffer
    assert not output_stationary(_convolution(64, 8, 8, 3), WORD, _array(4)).sums_in_buffer


def test_rows_of_a_matrix_fill_the_array_in_any_shape() -> None:
    tokens = layer_of(ConvGeometry(64, 32, 16, (1, 1), (1, 1), (1, 1), (1, 1), 1))
    assert output_stationary(tokens, WORD, _array(8)).cycles == 16 * 32 + 1 * 32 * 64 / 8


@given(
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    size=st.integers(1, 30),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
)
def test_more_rows_or_columns_never_add_cycles_or_traffic(
    channels: int, filters: int, size: int, kernel: int, stride: int, rows: int, columns: int
) -> None:
    layer = _convolution(channels, filters, size, kernel, stride)
    for dataflow in (output_stationary, weight_stationary):
        found = dataflow(layer, WORD, _array(rows, columns))
        for larger in (_array(rows + 1, columns), _array(rows, columns + 1)):
            more = dataflow(layer, WORD, larger)
            assert more.cycles <= found.cycles + 1e-9
            assert more.buffer_bytes <= found.buffer_bytes + 1e-9
        assert found.cycles * rows * columns >= layer.macs - 1e-6
