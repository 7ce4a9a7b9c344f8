"""Gaussian processes: the gradient against differences, the likelihood against scipy, features that do not matter."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from codesign.calibration.gaussian_process import Array, fit_process, negative_log_likelihood


def _covariance(values: Array, place: Array) -> Array:
    points = values / np.exp(place[1:-1])
    distances = np.sqrt(3) * np.linalg.norm(points[:, None] - points[None], axis=2)
    return np.asarray(np.exp(place[0]) * (1 + distances) * np.exp(-distances) + np.exp(place[-1]) * np.eye(len(values)))


@pytest.mark.parametrize("seed", range(4))
def test_the_likelihood_and_its_gradient(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, targets = random.standard_normal((25, 4)), random.standard_normal(25) * 0.2
    place = random.normal(0, 0.5, 6)
    value, gradient = negative_log_likelihood(place, values, targets)
    exact = -multivariate_normal.logpdf(targets, np.zeros(25), _covariance(values, place))
    assert value == pytest.approx(exact - 12.5 * np.log(2 * np.pi), rel=1e-9)
    for axis in range(6):
        step = np.eye(6)[axis] * 1e-5
        ahead, behind = (negative_log_likelihood(place + sign * step, values, targets)[0] for sign in (1, -1))
        assert gradient[axis] == pytest.approx((ahead - behind) / 2e-5, rel=1e-4, abs=1e-5)


def test_lengths_tell_which_features_matter() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((120, 8))
    targets = 0.3 * np.sin(2 * values[:, 3])
    process = fit_process(values[:80], targets[:80], 0, 6)
    assert np.argmin(process.lengths) == 3
    assert np.sort(process.lengths)[1] > 3 * process.lengths[3]
    points, others = values[:80] / process.lengths, values[80:] / process.lengths
    distances = np.sqrt(3) * np.linalg.norm(others[:, None] - points[None], axis=2)
    predicted = process.variance * ((1 + distances) * np.exp(-distances)) @ process.weights
    assert np.abs(predicted - targets[80:]).mean() < 0.05
