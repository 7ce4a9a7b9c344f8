"""Fake-quantised weights are what the quantiser's integers stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.quantization.quantizer import quantize_weight
from codesign.quantization.scheme import WEIGHT_BITS
from codesign.quantization.straight_through import fake_quantize_weight, fake_quantize_weights


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(WEIGHT_BITS), st.sampled_from([(5, 7), (4, 3, 3, 1)]))
def test_values_are_those_of_the_quantiser(seed: int, bits: int, shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    weight[0] = 0
    expected = quantize_weight(weight, bits, axis=0).dequantized()
    got = fake_quantize_weight(torch.from_numpy(weight), bits).numpy()
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=3e-7)
    assert len(np.unique(got[1].round(5))) <= 2**bits - 1


def test_gradients_pass_straight_through() -> None:
    weight, gradient = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    fake_quantize_weight(weight, 2).backward(gradient)  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.equal(weight.grad, gradient)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(WEIGHT_BITS))
def test_a_factor_per_channel_may_be_folded_after_quantising(seed: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    factors = torch.rand(6, 1, generator=generator, dtype=torch.float64) - 0.5
    torch.testing.assert_close(
        fake_quantize_weight(weight * factors, bits), fake_quantize_weight(weight, bits) * factors
    )


def test_only_named_weights_change() -> None:
    weights = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    found = fake_quantize_weights(weights, {"a": 2})
    assert found["b"] is weights["b"]
    assert torch.equal(found["a"], fake_quantize_weight(weights["a"], 2))


@pytest.mark.parametrize(
    ("bits", "message"), [({"c": 4}, "no parameter 'c'"), ({"a": 7}, "weight bits of 'a': got 7, allowed are")]
)
def test_unknown_names_and_widths_are_refused(bits: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fake_quantize_weights({"a": torch.zeros(1, 1)}, bits)
