"""Uniform quantisers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.quantization.quantizer import ActivationScale, activation_scale, quantize_activation, quantize_weight
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths

FINITE = st.floats(-1e3, 1e3, width=32)


@given(arrays(np.float32, (4, 3, 2), elements=FINITE), st.sampled_from(WEIGHT_BITS), st.integers(0, 2))
def test_weights_stay_on_their_grid_and_within_half_a_step(weight: NDArray[np.float32], bits: int, axis: int) -> None:
    quantized = quantize_weight(weight, bits, axis)
    largest = 2 ** (bits - 1) - 1
    assert quantized.scales.shape == (weight.shape[axis],)
    assert np.abs(quantized.values.astype(int)).max() <= largest
    shape = [1, 1, 1]
    shape[axis] = -1
    half_step = quantized.scales.reshape(shape) / 2
    assert (np.abs(quantized.dequantized() - weight) <= half_step * (1 + 1e-5)).all()


@given(arrays(np.float32, (3, 5), elements=FINITE), st.sampled_from(WEIGHT_BITS))
def test_quantising_twice_changes_nothing(weight: NDArray[np.float32], bits: int) -> None:
    once = quantize_weight(weight, bits, 0).dequantized()
    np.testing.assert_allclose(quantize_weight(once, bits, 0).dequantized(), once, rtol=1e-5, atol=1e-30)


def test_a_channel_of_zeros_keeps_a_usable_scale() -> None:
    quantized = quantize_weight(np.zeros((2, 3), np.float32), 4, 0)
    assert (quantized.scales == 1).all()
    assert (quantized.values == 0).all()


def test_scales_are_raised_to_the_smallest_allowed() -> None:
    weight = np.full((2, 2), 1e-6, np.float32)
    quantized = quantize_weight(weight, 8, 0, np.asarray([1e-3, 0], np.float32))
    assert quantized.scales[0] == np.float32(1e-3)
    assert quantized.scales[1] == np.float32(1e-6) / 127


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        quantize_weight(np.asarray([[1.0, bad]], np.float32), 8, 0)


@given(st.floats(-1e4, 1e4), st.floats(0, 1e4), arrays(np.float32, 20, elements=FINITE))
def test_activations_inside_the_range_move_at_most_half_a_step(
    low: float, width: float, values: NDArray[np.float32]
) -> None:
    to = activation_scale(low, low + width)
    assert 0 <= to.zero_point <= 255
    inside = values.clip(min(low, 0), max(low + width, 0))
    integers = quantize_activation(inside.astype(np.float32), to)
    back = (integers.astype(np.float64) - to.zero_point) * to.scale
    assert (np.abs(back - inside) <= to.scale * 1.001 + 1e-6).all()


def test_zero_is_exact_and_positive_ranges_have_zero_point_zero() -> None:
    assert activation_scale(0.5, 2.0).zero_point == 0
    to = activation_scale(-1.0, 3.0)
    assert quantize_activation(np.zeros(1, np.float32), to)[0] == to.zero_point


def test_rounding_is_half_to_even_and_saturates() -> None:
    to = ActivationScale(1.0, 10)
    values = np.asarray([0.5, 1.5, -0.5, 1e9, -1e9], np.float32)
    assert quantize_activation(values, to).tolist() == [10, 12, 10, 255, 0]


def test_an_empty_range_still_quantises() -> None:
    assert activation_scale(0.0, 0.0) == ActivationScale(1.0, 0)


@pytest.mark.parametrize("span", [(np.nan, 1.0), (0.0, np.inf), (2.0, 1.0)])
def test_ranges_that_are_no_interval_are_refused(span: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="not a finite interval"):
        activation_scale(*span)


@pytest.mark.parametrize(("weight", "activation"), [(7, 8), (1, 8), (4, 4)])
def test_widths_that_do_not_exist_are_refused(weight: int, activation: int) -> None:
    with pytest.raises(InputError, match="allowed are"):
        BitWidths(weight, activation)
