import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from codesign.backend.kernels.epilogue import Clamp
from codesign.backend.operations import Quantization

bounds = st.none() | st.integers(-5, 5).map(float)
clamps = st.builds(Clamp, bounds, bounds).filter(lambda c: c.low is None or c.high is None or c.low <= c.high)


def _clip(values: np.ndarray, clamp: Clamp) -> np.ndarray:
    low, high = -np.inf if clamp.low is None else clamp.low, np.inf if clamp.high is None else clamp.high
    return np.asarray(np.minimum(np.maximum(values, low), high))


@given(inner=clamps, outer=clamps)
def test_two_clamps_become_one(inner: Clamp, outer: Clamp) -> None:
    values = np.linspace(-7, 7, 57)
    assert np.array_equal(_clip(values, inner.then(outer)), _clip(_clip(values, inner), outer))


@given(clamp=clamps, zero=st.integers(0, 255), scale=st.floats(0.01, 1))
def test_bounds_of_an_activation_are_its_quantised_values(clamp: Clamp, zero: int, scale: float) -> None:
    real = np.linspace(-8, 8, 101)
    low, high = Quantization(scale, zero).bounds(clamp)
    assert -zero <= low <= high <= 255 - zero
    expected = np.clip(np.rint(_clip(real, clamp) / scale), -zero, 255 - zero)
    got = np.rint(np.clip(real / scale, low, high))
    assert np.abs(got - expected).max() <= 1e-9
