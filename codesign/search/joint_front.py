"""Trade-offs of a joint problem: the front of (metric, loss), and what a limit costs."""

import math
import time
from collections.abc import Iterable, Mapping

from codesign.errors import InputError, closest
from codesign.search.joint_allocation import TIME_LIMIT_S, allocate, allocation_of, infeasible_error, least_total
from codesign.search.joint_problem import JointAllocation, JointProblem
from codesign.search.joint_solution import Picks, Solution, solution_of, whole_front

MOST_LABELS = 300_000
"""Partial choices beyond which a whole front is refused."""
MOST_POINTS = 5_000
"""Points of a whole front over a maximum, which are solved for one by one."""


def front(
    problem: JointProblem, metric: str, limits: Mapping[str, float] | None = None, points: int | None = None
) -> tuple[JointAllocation, ...]:
    """The front of (metric, loss): no choice within the limits is as good in both as a point of it, and better in one.

    With a number of points each one has the least loss under its budget; where the metric is a maximum, another choice
    of the same loss may have a smaller total.

    Args:
        problem: Nodes with their options.
        metric: What is traded for the loss.
        limits: Limits on other metrics, or on this one.
        points: None for the whole front; else optima at so many budgets, evenly spread from the least total to that of
            the least loss (the epsilon-constraint method), each started from the choices met before.

    Returns:
        Points that do not beat one another, each an optimum under its own total as the limit, the cheapest first.

    Raises:
        InfeasibleBudgetError: No choice keeps the limits.
        InputError: The whole front is too large.
        OutOfTimeError: No choice was found for some budget in `TIME_LIMIT_S`, nor that there is none.
    """
    others = dict(limits or {})
    problem.check_limits(others)
    if metric not in problem.metrics:
        raise InputError(f"front over {metric!r}: no such metric{closest(metric, problem.metrics)}")
    if points is not None:
        return _spread(problem, metric, others, points)
    return _steps(problem, metric, others) if problem.is_maximum(metric) else _whole(problem, metric, others)


def _whole(problem: JointProblem, metric: str, limits: Mapping[str, float]) -> tuple[JointAllocation, ...]:
    started = time.perf_counter()
    found = whole_front(problem, metric, limits, MOST_LABELS)
    if found is None:
        raise InputError(
            f"the whole front over {metric} has too many points for {len(problem.names)} nodes; give points = N"
        )
    if not found:
        raise infeasible_error(problem, limits)
    seconds = (time.perf_counter() - started) / len(found)
    allocations = (
        allocation_of(problem, Solution(picks, -math.inf, True, "label-setting"), picks, seconds) for picks in found
    )
    return _undominated(allocations, metric)


def _steps(problem: JointProblem, metric: str, limits: Mapping[str, float]) -> tuple[JointAllocation, ...]:
    """Each point's total, less the smallest step, is the next limit."""
    found: list[JointAllocation] = [allocate(problem, limits)]
    while len(found) < MOST_POINTS:
        started = time.perf_counter()
        below = math.nextafter(found[-1].metrics[metric], -math.inf)
        if below < 0:
            break
        known = [allocation.picks for allocation in found[-8:]]
        solution = solution_of(problem, {**limits, metric: below}, deadline=started + TIME_LIMIT_S, known=known)
        if solution.picks is None:
            break
        found.append(allocation_of(problem, solution, solution.picks, time.perf_counter() - started))
    else:
        raise InputError(f"the whole front over {metric} has more than {MOST_POINTS} points; give points = N")
    return _undominated(found, metric)


def _spread(
    problem: JointProblem, metric: str, limits: Mapping[str, float], points: int
) -> tuple[JointAllocation, ...]:
    if points < 2:  # both ends
        raise InputError(f"points of a front: got {points}, at least 2 are needed; raise it")
    best = allocate(problem, limits)
    least = least_total(problem, metric, limits)
    assert least is not None  # `allocate` found a choice
    most = max(best.metrics[metric], least)
    found = []
    known: tuple[Picks, ...] = (best.picks,)
    for i in reversed(range(points)):
        started = time.perf_counter()
        budget = least + (most - least) * i / (points - 1)
        within = {**limits, metric: min(budget, limits.get(metric, math.inf))}
        solution = solution_of(problem, within, deadline=started + TIME_LIMIT_S, known=known)
        assert solution.picks is not None  # the least total can be kept
        known = solution.paths
        found.append(allocation_of(problem, solution, solution.picks, time.perf_counter() - started))
    return _undominated(found, metric)


def _undominated(found: Iterable[JointAllocation], metric: str) -> tuple[JointAllocation, ...]:
    kept: list[JointAllocation] = []
    for allocation in sorted(found, key=lambda a: (a.metrics[metric], a.loss_increase_nats)):
        if not kept or allocation.loss_increase_nats < kept[-1].loss_increase_nats:
            kept.append(allocation)
    return tuple(kept)


def shadow_prices(
    problem: JointProblem, limits: Mapping[str, float], allocation: JointAllocation
) -> Mapping[str, float]:
    """What a little more of each limit is worth, in nats per unit of it.

    For a limit on a sum it is the multiplier that maximises the Lagrangian dual: the slope, at the limit, of the lower
    convex hull of what can be reached. The loss itself falls in steps, so that a change of the limit between two steps
    buys nothing and a step may buy more or less than the slope says; over wider changes the price is what the loss
    follows. A maximum of few nodes' loads has no multiplier: its price is the mean over the whole way to where the
    limit no longer binds, (loss - loss without it) / (total without it - limit). What does not bind costs 0.

    Args:
        problem: Nodes with their options.
        limits: Limits that the allocation keeps.
        allocation: The optimum under these limits.

    Returns:
        A price, from 0 up, for each limit.
    """
    solution = solution_of(problem, limits, deadline=time.perf_counter() + TIME_LIMIT_S, known=[allocation.picks])
    prices = {}
    for metric, limit in limits.items():
        if metric in solution.prices:
            prices[metric] = solution.prices[metric]
            continue
        free = allocate(problem, {other: most for other, most in limits.items() if other != metric})
        way = free.metrics[metric] - limit
        fall = max(0.0, allocation.loss_increase_nats - free.loss_increase_nats)
        prices[metric] = fall / way if way > 0 else 0.0
    return prices
