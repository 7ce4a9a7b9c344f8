"""Disturbances and drift are found in made-up series."""

import itertools

import numpy as np
import pytest

from codesign.backend.kernel_timing import KernelTiming
from codesign.calibration.drift import Baseline, drift


def _series(references: "list[float]") -> list[KernelTiming]:
    pairs = itertools.pairwise(references)
    return [KernelTiming(f"k{i}", ((1e-6,),), pair) for i, pair in enumerate(pairs)]


def test_a_steady_machine_is_not_disturbed() -> None:
    random = np.random.default_rng(0)
    timings = _series([20e-6 * float(factor) for factor in random.uniform(0.98, 1.02, 200)])
    baseline = Baseline.of(timings)
    assert baseline.seconds == pytest.approx(20e-6, rel=0.01)
    assert not any(baseline.is_disturbed(timing) for timing in timings)
    assert abs(drift(timings)) < 0.01


def test_a_burst_is_found_on_both_of_its_sides() -> None:
    references = [20e-6] * 50
    references[20:23] = [30e-6] * 3
    timings = _series(references)
    found = [i for i, timing in enumerate(timings) if Baseline.of(timings).is_disturbed(timing)]
    assert found == [19, 20, 21, 22]


def test_a_lower_frequency_shows_as_drift() -> None:
    timings = _series([20e-6] * 40 + [25e-6] * 40)
    assert drift(timings) == pytest.approx(0.25)
    assert drift(timings[:5]) == 0.0
