from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.layer_table import Axis, LayerTable, ceil_div
from codesign.plan.facts import ConvGeometry


def _axis(outputs: int, inputs: int, kernel: int, stride: int, dilation: int) -> Axis:
    return Axis(*(np.asarray([float(value)]) for value in (outputs, inputs, kernel, stride, dilation)))


def _touched(stride: int, dilation: int, kernel: int, start: int, stop: int) -> set[int]:
    return {o * stride + t * dilation for o in range(start, stop) for t in range(kernel)}


def _tiles(size: int, tile: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + tile, size)) for start in range(0, size, tile))


@given(
    outputs=st.integers(1, 30),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    tile=st.integers(1, 30),
)
def test_spans_count_touched_positions(outputs: int, kernel: int, stride: int, dilation: int, tile: int) -> None:
    axis = _axis(outputs, 10**6, kernel, stride, dilation)
    exact = len(_touched(stride, dilation, kernel, 0, outputs))
    assert exact <= axis.span(float(outputs))[0]
    if dilation == 1:
        assert exact == axis.span(float(outputs))[0]
        tiled = sum(len(_touched(stride, 1, kernel, *part)) for part in _tiles(outputs, tile))
        assert axis.tiled_span(float(tile))[0] == tiled


def test_a_span_ends_with_the_input_and_starts_with_the_first_output() -> None:
    axis = _axis(5, 5, 3, 1, 1)  # padded: windows reach beyond both ends
    assert axis.span(np.asarray([0.0, 1.0, 5.0])).tolist() == [0, 3, 5]


@given(size=st.integers(1, 2**52), part=st.integers(1, 2**26))
def test_division_rounds_up_exactly(size: int, part: int) -> None:
    assert ceil_div(float(size), float(part)) == -(-size // part)


def test_a_group_of_each_layer_in_order() -> None:
    convolution = ConvGeometry(2, 32, 64, (3, 5), (1, 2), (14, 7), (14, 16), 4)
    product = ConvGeometry(64, 128, 256, (1, 1), (1, 1), (1, 1), (1, 1), 1)
    table = LayerTable.of([convolution, product], [8.0, 0.0])
    assert len(table) == 2
    assert table.filters.tolist() == [16, 256]
    assert table.channels.tolist() == [8, 128]
    assert table.positions.tolist() == [2 * 14 * 7, 64]
    assert table.reduction.tolist() == [3 * 5 * 8, 128]
    assert table.macs.tolist() == [2 * 14 * 7 * 16 * 120, 64 * 256 * 128]
    assert table.is_matrix_product.tolist() == [False, True]
    assert table.touched_inputs.tolist() == [8 * 28 * 16, 64 * 128]
    swapped = table.take(np.asarray([1, 0]))
    assert swapped.macs.tolist() == table.macs.tolist()[::-1]
    assert swapped.filter_overhead_bytes.tolist() == [0, 8]


def test_an_empty_table() -> None:
    assert len(LayerTable.of([])) == 0


def test_overheads_must_be_as_many_as_layers() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        LayerTable.of([ConvGeometry(1, 1, 1, (1, 1), (1, 1), (1, 1), (1, 1), 1)], [1.0, 2.0])
