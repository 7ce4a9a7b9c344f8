"""Fitted prices explain what was measured."""

from itertools import product

import numpy as np
import pytest

from codesign.search.fitted_prices import LEAST_FACTOR, fit_prices
from codesign.search.neighbourhood import Picks

PRICES = [[0.4, 0.1, 0.02], [0.3, 0.05], [0.2, 0.1, 0.01]]
CHOICES = list(product(range(3), range(2), range(3)))


def _sum(prices: list[list[float]], picks: tuple[int, ...]) -> float:
    return sum(group[i] for group, i in zip(prices, picks, strict=True))


def test_a_common_factor_is_found_from_one_measurement() -> None:
    base = (1, 1, 1)
    fitted = fit_prices(PRICES, {base: 3 * _sum(PRICES, base)}, base)
    for group, expected in zip(fitted, PRICES, strict=True):
        assert list(group) == pytest.approx([3 * price for price in expected])


def test_prices_that_add_up_are_recovered() -> None:
    rng = np.random.default_rng(3)
    true = [[price * rng.uniform(0.4, 2.0) for price in group] for group in PRICES]
    base = (0, 0, 0)
    fitted = fit_prices(PRICES, {picks: _sum(true, picks) for picks in CHOICES}, base)
    for picks in CHOICES:
        predicted = _sum([list(group) for group in fitted], picks)
        # Only differences from the base are to be right; those of 3 % of it and less are within the assumed misfit.
        assert predicted == pytest.approx(_sum(true, picks), abs=0.03 * _sum(true, base))


def test_what_is_far_away_does_not_matter() -> None:
    base = (2, 1, 2)
    near: dict[Picks, float] = {base: 0.08, (1, 1, 2): 0.15}
    assert fit_prices(PRICES, {**near, (0, 0, 0): 1e6}, base) == fit_prices(PRICES, near, base)


def test_an_option_that_is_worse_than_its_price_becomes_dearer() -> None:
    base, dear = (1, 1, 1), (2, 1, 1)
    measured: dict[Picks, float] = {base: 0.25, dear: 0.50}
    fitted = fit_prices(PRICES, measured, base)
    assert fitted[0][2] / fitted[0][1] > PRICES[0][2] / PRICES[0][1]


def test_no_price_falls_below_its_least_share() -> None:
    base = (0, 0, 0)
    measured: dict[Picks, float] = {base: 1.0, (1, 0, 0): 1e-9, (0, 1, 0): 1e-9}
    fitted = fit_prices(PRICES, measured, base)
    assert min(min(group) for group in fitted) > 0
    scale = max(fitted[2][i] / PRICES[2][i] for i in (1, 2))  # options that no measurement corrects
    assert fitted[0][1] >= LEAST_FACTOR * scale * PRICES[0][1] * (1 - 1e-12)


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_without_a_loss_to_explain_prices_stay(value: float) -> None:
    assert fit_prices(PRICES, {(1, 1, 1): value}, (1, 1, 1)) == PRICES
