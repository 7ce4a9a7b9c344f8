"""A Gaussian process with a length for every feature, its hyperparameters found by likelihood.

With z = values / lengths and r = sqrt(3) |z - z'|, two points vary together by variance x (1 + r) exp(-r) (Matern 3/2;
Rasmussen and Williams 2006, 4.2), and each measurement has noise of its own. Variance, lengths and noise make the
measurements most likely (5.4), with a log-normal prior on the lengths: a few dozen points alone would choose among
dozens of features by chance. Libraries compute the gradient length by length, which takes a minute where this takes
seconds: with M = 3 variance exp(-r) o (K^-1 - a a^T) and K a = targets, that of the logarithm of every length is

    d/d log length_j = sum_i (sum_k M_ik) z_ij^2 - sum_ik z_ij M_ik z_kj
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

VARIANCE, NOISE = 0.02, 0.002
"""Where the search starts, of logarithms of times: 14 and 4 % standard deviation."""
VARIANCES, NOISES = (1e-4, 1.0), (1e-4, 0.1)
LENGTHS = 1 / 20, 50.0
"""Bounds of a length, in usual ones; the usual length is the root of the number of features, which lie around 1."""
PRIOR_SPREAD = 1.0
"""Standard deviation of the logarithm of a length before anything is measured."""
SEARCH_STEPS, MOST_TO_SEARCH = 60, 600
"""Steps of the search, and points that it looks at."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianProcess:
    """What points say of others: `variance x sum over points of weight x (1 + r) exp(-r)`.

    Attributes:
        variance: Of the function, before anything is measured.
        lengths: `[f]`.
        weights: `K^-1 targets`, `[n]`.
    """

    variance: float
    lengths: Array
    weights: Array


def fit_process(values: Array, targets: Array, seed: int, digits: int) -> GaussianProcess:
    """Finds the hyperparameters and conditions on all points.

    Args:
        values: Features with a spread of about 1, `[n, f]`.
        targets: `[n]`, around 0.
        seed: Chooses the points that the search looks at, where there are many.
        digits: Decimal places of `values / lengths` that will be kept.

    Returns:
        The process.
    """
    features = values.shape[1]
    usual = float(np.log(np.sqrt(features)))
    start = np.array([np.log(VARIANCE), *[usual] * features, np.log(NOISE)])
    lengths = [(usual + np.log(LENGTHS[0]), usual + np.log(LENGTHS[1]))] * features
    bounds = [np.log(VARIANCES), *lengths, np.log(NOISES)]
    some = np.random.default_rng(seed).permutation(len(values))[:MOST_TO_SEARCH]

    def objective(place: Array) -> tuple[float, Array]:
        value, gradient = negative_log_likelihood(place, values[some], targets[some])
        off = np.concatenate([[0.0], (place[1:-1] - usual) / PRIOR_SPREAD, [0.0]])
        return value + 0.5 * float(off @ off), gradient + off / PRIOR_SPREAD

    found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": SEARCH_STEPS})
    variance, noise = float(np.exp(found.x[0])), float(np.exp(found.x[-1]))
    scale = np.exp(found.x[1:-1])
    _, covariance = _matern(np.round(values / scale, digits), variance)
    covariance[np.diag_indices_from(covariance)] += noise
    return GaussianProcess(variance, scale, np.asarray(cho_solve(cho_factor(covariance), targets)))


def negative_log_likelihood(place: Array, values: Array, targets: Array) -> tuple[float, Array]:
    """How unlikely measurements are, but for a constant.

    Args:
        place: Natural logarithms of the variance, of all lengths and of the noise, `[f + 2]`.
        values: `[n, f]`.
        targets: `[n]`.

    Returns:
        The value, and its gradient by `place`.
    """
    variance, noise, points = float(np.exp(place[0])), float(np.exp(place[-1])), values / np.exp(place[1:-1])
    decay, shared = _matern(points, variance)
    covariance = shared.copy()
    covariance[np.diag_indices_from(covariance)] += noise
    factor = cho_factor(covariance, lower=True)
    weights = cho_solve(factor, targets)
    value = 0.5 * float(targets @ weights) + float(np.sum(np.log(np.diag(factor[0]))))
    off = cho_solve(factor, np.eye(len(targets))) - np.outer(weights, weights)
    pull = 3 * variance * decay * off
    of_lengths = np.sum(pull.sum(axis=1)[:, None] * points**2, axis=0) - np.sum(points * (pull @ points), axis=0)
    return value, np.array([0.5 * np.sum(off * shared), *of_lengths, 0.5 * noise * np.trace(off)])


def _matern(points: Array, variance: float) -> tuple[Array, Array]:
    """exp(-r) and the covariance, `[n, n]` each."""
    squares = np.sum(points**2, axis=1)
    distances = np.sqrt(3 * np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0))
    decay = np.exp(-distances)
    return decay, variance * (1 + distances) * decay
