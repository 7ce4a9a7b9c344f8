"""Sweeps against brute force."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.search.pareto import non_dominated
from codesign.search.problem import AllocationProblem, LayerOption, LayerOptions
from codesign.search.sweep import budgets_between, complete_front, sweep


def _problem(table: list[list[tuple[float, float, float]]]) -> AllocationProblem:
    layers = []
    for i, options in enumerate(table):
        found = [
            LayerOption(bits, loss, {"latency_s": latency, "weight_bytes": size})
            for bits, (loss, latency, size) in enumerate(options, start=2)
        ]
        layers.append(LayerOptions(f"layer{i}", tuple(found)))
    return AllocationProblem(tuple(layers))


OPTION = st.tuples(*[st.integers(0, 9).map(float)] * 3)
PROBLEMS = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=4).map(_problem)


def _brute_force_front(problem: AllocationProblem, most_bytes: float) -> list[tuple[float, float]]:
    points = []
    for picks in product(*(layer.options for layer in problem.layers)):
        if sum(option.metrics["weight_bytes"] for option in picks) <= most_bytes:
            points.append((sum(o.metrics["latency_s"] for o in picks), sum(o.loss_increase for o in picks)))
    return sorted(points[i] for i in non_dominated(points))


@settings(max_examples=60, deadline=None)
@given(PROBLEMS, st.sampled_from([12.0, 25.0, 100.0]))
def test_the_complete_front_equals_brute_force(problem: AllocationProblem, most_bytes: float) -> None:
    expected = _brute_force_front(problem, most_bytes)
    if not expected:
        with pytest.raises(InfeasibleBudgetError):
            complete_front(problem, "latency_s", {"weight_bytes": most_bytes})
        return
    front = complete_front(problem, "latency_s", {"weight_bytes": most_bytes})
    assert [(a.metrics["latency_s"], a.loss_increase) for a in front] == expected


@settings(max_examples=60, deadline=None)
@given(PROBLEMS)
def test_a_sweep_finds_the_best_point_below_every_budget(problem: AllocationProblem) -> None:
    front = _brute_force_front(problem, 1e9)
    budgets = [0.0, 3.0, 7.5, 12.0, 20.0, 40.0]
    best = [[point for point in front if point[0] <= budget] for budget in budgets]
    expected = sorted({max(points) for points in best if points})
    if not expected:
        with pytest.raises(InfeasibleBudgetError):
            sweep(problem, "latency_s", budgets)
        return
    found = sweep(problem, "latency_s", [*budgets, *reversed(budgets)])
    assert [(a.metrics["latency_s"], a.loss_increase) for a in found] == expected


def test_budgets_reach_from_the_cheapest_to_the_best() -> None:
    problem = _problem([[(9, 1, 1), (4, 2, 2), (0, 6, 4)], [(5, 1, 1), (0, 3, 2)]])
    assert budgets_between(problem, "latency_s", 3) == (2.0, 5.5, 9.0)
    assert budgets_between(problem, "latency_s", 2, {"weight_bytes": 4.0}) == (2.0, 5.0)
    swept = sweep(problem, "latency_s", budgets_between(problem, "latency_s", 8))
    assert swept[0].metrics["latency_s"] == 2
    assert swept[-1].loss_increase == 0
    assert len(budgets_between(_problem([[(1, 1, 1)]]), "latency_s", 5)) == 1


def test_sweeps_without_sense_are_refused() -> None:
    problem = _problem([[(9, 1, 1), (4, 2, 2), (0, 6, 4)]])
    with pytest.raises(InputError, match="at least 2"):
        budgets_between(problem, "latency_s", 1)
    with pytest.raises(InputError, match="more than 2 points"):
        complete_front(problem, "latency_s", at_most=2)
    with pytest.raises(InputError, match="no such metric"):
        sweep(problem, "energy_j", [1.0])
