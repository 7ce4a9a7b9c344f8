"""Fronts against brute force; points of a sweep; what a limit is worth."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.quantization.scheme import Widths
from codesign.search import joint_front
from codesign.search.joint_allocation import allocate, least_total
from codesign.search.joint_front import front, shadow_prices
from codesign.search.joint_problem import JointOption, JointProblem
from codesign.testing.joint_problems import ProblemKind, all_choices, best_points, random_problem

KINDS = st.builds(
    ProblemKind,
    nodes=st.integers(1, 5),
    widths=st.integers(1, 3),
    places=st.integers(1, 2),
    shape=st.sampled_from(["chain", "residual", "loose"]),
    numbers=st.sampled_from(["whole", "real"]),
    ties=st.booleans(),
    excludes=st.booleans(),
    loads=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(KINDS, st.integers(0, 10**6), st.data())
def test_the_whole_front_equals_brute_force(kind: ProblemKind, seed: int, data: st.DataObject) -> None:
    problem = random_problem(kind, seed)
    choices = all_choices(problem)
    metric, other = data.draw(st.permutations(problem.metrics))[:2]
    if not choices:
        return
    limit = data.draw(st.sampled_from(sorted({totals[other] for _, totals in choices.values()})))
    fitting = {picks: value for picks, value in choices.items() if value[1][other] <= limit}
    found = front(problem, metric, {other: limit})
    assert [a.metrics[metric] for a in found] == pytest.approx(
        [x for x, _ in best_points(fitting.values(), metric)], rel=1e-12
    )
    assert [a.loss_increase_nats for a in found] == pytest.approx(
        [y for _, y in best_points(fitting.values(), metric)], rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("metric", ["latency_s", "peak_memory_bytes", "period_s"])
def test_points_of_a_sweep_are_on_the_front_and_reach_both_ends(metric: str) -> None:
    problem = random_problem(ProblemKind(5, 3, 2, "residual", "real", loads=True), 7)
    whole, swept = front(problem, metric), front(problem, metric, points=6)
    points = [(a.metrics[metric], a.loss_increase_nats) for a in whole]
    assert points == best_points(all_choices(problem).values(), metric)
    for point in swept:  # each is an optimum under its own total as the limit
        assert point.loss_increase_nats == min(loss for total, loss in points if total <= point.metrics[metric])
    assert swept[0].metrics[metric] == pytest.approx(whole[0].metrics[metric], rel=1e-3)
    assert swept[-1].loss_increase_nats == whole[-1].loss_increase_nats
    assert all((a.gap, a.status) == (0.0, "optimal") for a in swept)


def test_a_sweep_of_a_large_network_falls_and_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(ProblemKind(30, 3, 3, "residual", "real"), 2)
    found = front(problem, "latency_s", points=6)
    losses = [a.loss_increase_nats for a in found]
    assert losses == sorted(losses, reverse=True)
    assert all(a.gap == 0 for a in found)
    monkeypatch.setattr(joint_front, "MOST_LABELS", 1000)
    with pytest.raises(InputError, match="give points = N"):
        front(problem, "latency_s")


def test_fronts_without_sense_are_refused() -> None:
    problem = random_problem(ProblemKind(3, 2, 2, "chain", "whole"), 0)
    with pytest.raises(InputError, match="did you mean 'latency_s'"):
        front(problem, "latncy_s")
    with pytest.raises(InputError, match="at least 2"):
        front(problem, "latency_s", points=1)
    least = least_total(problem, "energy_j") or 0.0
    for points in (None, 3):
        with pytest.raises(InfeasibleBudgetError, match="energy_j: at most"):
            front(problem, "latency_s", {"energy_j": least - 0.5}, points)


def test_shadow_prices_are_the_slopes_of_the_lower_hull() -> None:
    """Three equal nodes: nats 0, 1, 4 at 4, 2, 1 s; at a limit of 9 s the hull falls by 1 nat in 2 s."""
    options = tuple(
        JointOption(
            Widths(bits, 8), "d", loss, {"latency_s": seconds, "weight_bytes": seconds, "peak_memory_bytes": bits}
        )
        for bits, loss, seconds in ((8, 0.0, 4.0), (4, 1.0, 2.0), (2, 4.0, 1.0))
    )
    problem = JointProblem(("a", "b", "c"), (options,) * 3)
    limits = {"latency_s": 9.0, "weight_bytes": 100.0}
    prices = shadow_prices(problem, limits, allocate(problem, limits))
    assert prices == {"latency_s": pytest.approx(0.5), "weight_bytes": 0.0}
    peak = {"peak_memory_bytes": 4.0}
    assert shadow_prices(problem, peak, allocate(problem, peak)) == {"peak_memory_bytes": pytest.approx(3.0 / 4.0)}
