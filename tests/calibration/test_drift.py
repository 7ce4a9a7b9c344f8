"""How fast the reference kernel was over made-up sessions."""

import itertools

import numpy as np
import pytest

from codesign.backend.kernel_timing import KernelTiming
from codesign.calibration.drift import clock_range


def _series(references: "list[float]") -> list[KernelTiming]:
    pairs = itertools.pairwise(references)
    return [KernelTiming(f"k{i}", ((1e-6,),), pair) for i, pair in enumerate(pairs)]


def test_a_steady_machine() -> None:
    random = np.random.default_rng(0)
    found = clock_range(_series([20e-6 * float(factor) for factor in random.uniform(0.98, 1.02, 200)]))
    assert found.usual_s == pytest.approx(20e-6, rel=0.01)
    assert found.fastest_s == pytest.approx(19.6e-6, rel=0.005)
    assert found.slowest_s == pytest.approx(20.4e-6, rel=0.005)
    assert abs(found.drift) < 0.01


def test_a_lower_frequency_shows_as_drift() -> None:
    timings = _series([20e-6] * 40 + [25e-6] * 40)
    assert clock_range(timings).drift == pytest.approx(0.25)
    assert clock_range(timings[:5]).drift == 0.0
    assert (clock_range(timings).fastest_s, clock_range(timings).slowest_s) == (20e-6, 25e-6)
