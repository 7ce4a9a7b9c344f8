"""Prices of single options, fitted to measured values of whole choices."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from codesign.search.neighbourhood import Picks, Prices

PRIOR_SPREAD = 1.0
"""Standard deviation of the relative correction of one price before anything is measured."""
MISFIT = 0.03
"""Standard deviation, relative to a measured value, of what no sum of prices explains."""
REACH = 4.0
"""Choices that lose more than this many times the loss of the base say nothing about its surroundings."""
LEAST_FACTOR = 0.05
"""A corrected price keeps at least this share of the scaled one, and its sign."""


def fit_prices(prices: Prices, measured: Mapping[Picks, float], base: Picks) -> Prices:
    """Corrects additive prices around a choice by what was measured near it.

    Losses of quantised layers do not add up: errors meet again in the same logits. Around one choice a sum still
    describes the differences. With `p_g` the price of the option that choice i picks in group g, the model is
    `y_i = s * sum_g p_g * (1 + e_g) + misfit`: the scale `s` by least squares, then the corrections as the mean of the
    Gaussian posterior with `e ~ N(0, PRIOR_SPREAD^2)` for each option and `misfit ~ N(0, (MISFIT * y_i)^2)`, which is
    ridge regression: `e = t^2 A' (t^2 A A' + m^2 I)^-1 r`. Cost is cubic in the number of measured choices.

    Args:
        prices: Additive prices, ragged `[groups][options]`.
        measured: Measured loss of whole choices, `base` among them.
        base: The choice around which prices shall hold.

    Returns:
        Corrected prices, ragged `[groups][options]`; the given ones where the base has no loss to explain.
    """
    centre = abs(measured[base])
    near = {picks: value for picks, value in measured.items() if value <= measured[base] + (REACH - 1) * centre}
    values = np.array(list(near.values()))
    chosen = _chosen_prices(prices, list(near))
    weights = 1 / np.maximum(np.abs(values), centre) if centre else np.zeros_like(values)
    sums = chosen.sum(axis=1) * weights
    scale = float(sums @ (values * weights)) / float(sums @ sums) if sums.any() else 0.0
    if scale <= 0:
        return prices
    rows = scale * chosen * weights[:, None]
    residual = values * weights - rows.sum(axis=1)
    kernel = PRIOR_SPREAD**2 * rows @ rows.T + MISFIT**2 * np.eye(len(values))
    correction = PRIOR_SPREAD**2 * rows.T @ np.linalg.solve(kernel, residual)
    factors = iter((scale * np.maximum(1 + correction, LEAST_FACTOR)).tolist())
    return [[price * next(factors) for price in group] for group in prices]


def _chosen_prices(prices: Prices, choices: list[Picks]) -> NDArray[np.float64]:
    """Prices of chosen options and zeros elsewhere, `[choices, options of all groups]`."""
    starts = np.concatenate([[0], np.cumsum([len(group) for group in prices])])
    table = np.zeros((len(choices), int(starts[-1])))
    for row, picks in zip(table, choices, strict=True):
        for group, pick in enumerate(picks):
            row[starts[group] + pick] = prices[group][pick]
    return table
