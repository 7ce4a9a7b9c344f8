"""Neighbours keep the limits, come in order, and hold every single move and swap."""

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.search.neighbourhood import Neighbourhood, Picks
from codesign.search.problem import AllocationProblem, LayerOption, LayerOptions

METRICS = ("weight_bytes", "latency_s", "peak_memory_bytes")


@st.composite
def starting_points(draw: st.DrawFn) -> tuple[Neighbourhood, Picks]:
    layers = []
    for i in range(draw(st.integers(1, 5))):
        options = [
            LayerOption(bits, draw(st.floats(0, 1)), {m: draw(st.integers(0, 9).map(float)) for m in METRICS})
            for bits in (2, 4, 8)[: draw(st.integers(1, 3))]
        ]
        layers.append(LayerOptions(f"layer{i}", tuple(options)))
    ties = ((layers[0].name, layers[-1].name),) if draw(st.booleans()) else ()
    problem = AllocationProblem(tuple(layers), ties, constant={"latency_s": 1.0})
    choice = problem.choice_of([draw(st.sampled_from(group.bits)) for group in problem.groups])
    totals = problem.totals_of(choice)
    limits = {m: totals[m] + draw(st.sampled_from([0.0, 2.0, 5.0])) for m in draw(st.sets(st.sampled_from(METRICS)))}
    neighbourhood = Neighbourhood(problem, limits)
    return neighbourhood, neighbourhood.picks_of(choice)


@settings(max_examples=200, deadline=None)
@given(starting_points())
def test_neighbours_fit_and_come_by_price(case: tuple[Neighbourhood, Picks]) -> None:
    neighbourhood, start = case
    found = list(neighbourhood.around(start, neighbourhood.prices))
    assert start not in found
    assert len(set(found)) == len(found)
    for picks in found:
        choice = neighbourhood.choice_of(picks)
        assert neighbourhood.problem.fits(choice, neighbourhood.limits)
        assert neighbourhood.problem.respects_ties(choice)
        assert neighbourhood.picks_of(choice) == picks
    prices = [neighbourhood.price(picks, neighbourhood.prices) for picks in found]
    assert prices == sorted(prices)
    losses = [neighbourhood.problem.loss_of(neighbourhood.choice_of(picks)) for picks in found]
    assert prices == pytest.approx(losses)


@settings(max_examples=200, deadline=None)
@given(starting_points())
def test_every_single_move_and_swap_that_fits_is_there(case: tuple[Neighbourhood, Picks]) -> None:
    neighbourhood, start = case
    expected = set()
    for picks in product(*(range(len(offered)) for offered in neighbourhood.bits)):
        steps = sorted(there - here for here, there in zip(start, picks, strict=True) if there != here)
        if steps in ([-1], [1], [-1, 1]):
            expected.add(picks)
    fitting = {p for p in expected if neighbourhood.problem.fits(neighbourhood.choice_of(p), neighbourhood.limits)}
    assert fitting <= set(neighbourhood.around(start, neighbourhood.prices))


def _large_and_small() -> Neighbourhood:
    """One large layer and three small ones: one width less there is one width more on all of these."""
    sizes = (30.0, 10.0, 10.0, 10.0)
    layers = tuple(
        LayerOptions(
            f"layer{i}", tuple(LayerOption(b, math.exp(-b) * (1 + i), {"weight_bytes": b * size}) for b in (3, 4, 5))
        )
        for i, size in enumerate(sizes)
    )
    return Neighbourhood(AllocationProblem(layers), {"weight_bytes": 4 * 60.0})


def test_what_a_step_frees_is_filled_and_what_it_lacks_is_taken_elsewhere() -> None:
    neighbourhood = _large_and_small()
    found = list(neighbourhood.around((1, 1, 1, 1), neighbourhood.prices))
    assert (0, 2, 2, 2) in found
    assert (2, 0, 0, 0) in found
    assert (0, 1, 1, 1) in found
    assert (2, 1, 1, 1) not in found


def test_options_beyond_a_limit_on_the_peak_are_left_out() -> None:
    options = tuple(LayerOption(b, 1.0, {"peak_memory_bytes": 10.0 * b}) for b in (2, 4, 8))
    problem = AllocationProblem((LayerOptions("a", options), LayerOptions("b", options)))
    neighbourhood = Neighbourhood(problem, {"peak_memory_bytes": 50.0})
    assert neighbourhood.bits == ((2, 4), (2, 4))
    assert set(neighbourhood.around((1, 1), neighbourhood.prices)) == {(0, 1), (1, 0)}
