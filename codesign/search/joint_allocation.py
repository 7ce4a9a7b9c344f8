"""The exact answer to a joint problem."""

import math
import time
from collections.abc import Mapping

from codesign.errors import InfeasibleBudgetError
from codesign.search.infeasible import infeasible
from codesign.search.joint_problem import JointAllocation, JointProblem
from codesign.search.joint_solution import Picks, Solution, solution_of
from codesign.solver.one_hot_model import OutOfTimeError

TIME_LIMIT_S = 60.0
"""Seconds after which the best choice so far is taken, with its gap."""
CLOSE = 1e-3
"""Share of a maximum of large loads at which bisection ends."""
STEP_S = 2.0
"""Seconds for one step of a bisection."""


def allocate(
    problem: JointProblem, limits: Mapping[str, float] | None = None, time_limit_s: float = TIME_LIMIT_S
) -> JointAllocation:
    """Finds the choice of least loss that keeps every limit, and proves it.

    Limits hold for correctly rounded sums, without tolerance. Of several optima the cheapest is taken: the least sum of
    total / limit over limited metrics that add up, or, where none is limited, of total / largest total over all of
    them. The same input gives the same answer.

    Args:
        problem: Nodes with their options.
        limits: Largest allowed total by metric; all are kept.
        time_limit_s: Seconds after which the best choice so far is taken.

    Returns:
        The optimum, or with status `time-limit` the best choice that was found in time, and its gap.

    Raises:
        InfeasibleBudgetError: No choice keeps the limits; the tightest values that can be reached are named.
        OutOfTimeError: Time ran out before any choice was found.
    """
    started = time.perf_counter()
    limits = dict(limits or {})
    problem.check_limits(limits)
    found = solution_of(problem, limits, deadline=started + time_limit_s)
    if found.picks is None:
        raise infeasible_error(problem, limits)
    return allocation_of(problem, found, found.picks, time.perf_counter() - started)


def allocation_of(problem: JointProblem, found: Solution, picks: Picks, seconds: float) -> JointAllocation:
    """Spells out a solution.

    Args:
        problem: Nodes with their options.
        found: The solution.
        picks: Its choice.
        seconds: Time it took.

    Returns:
        The allocation.
    """
    loss = problem.loss_of(picks)
    bound = loss if found.is_proven else min(found.bound, loss)
    gap = 0.0 if bound == loss else (loss - bound) / abs(loss) if loss else math.inf
    choice = tuple((name, offered[p]) for name, offered, p in zip(problem.names, problem.options, picks, strict=True))
    return JointAllocation(
        choice=choice,
        loss_increase_nats=loss,
        metrics=problem.totals_of(picks),
        bound=bound,
        gap=gap,
        status="optimal" if found.is_proven else "time-limit",
        method=found.method,
        seconds=seconds,
        picks=picks,
    )


def least_total(problem: JointProblem, metric: str, limits: Mapping[str, float] | None = None) -> float | None:
    """The least total of one metric under limits on others.

    A maximum is bisected: each step asks whether any choice keeps a limit. The result is the least where each load is
    of few nodes. Where loads are sums over the whole network, as in a pipeline, to prove the least is to solve a
    partition problem, and the result is a total that some choice has, the least within `CLOSE` of it as far as
    `STEP_S` for each step allows.

    Args:
        problem: Nodes with their options.
        metric: What to make small.
        limits: Limits on other metrics.

    Returns:
        The total, or None if no choice keeps the limits.
    """
    others = dict(limits or {})
    if not problem.is_maximum(metric):
        found = solution_of(problem, others, metric, time.perf_counter() + TIME_LIMIT_S).picks
        return None if found is None else problem.totals_of(found)[metric]
    best = _total_within(problem, metric, others, math.inf)
    exact = all(problem.is_small(load) for load in problem.loads if metric in load.metrics)
    close = 0.0 if exact else CLOSE
    low = 0.0
    while best is not None and best - low > close * best:
        middle = low + (best - low) / 2
        if middle in {low, best}:
            middle = low
        lower = _total_within(problem, metric, others, middle)
        if lower is not None:
            best = lower
        elif middle == low:
            break
        else:
            low = middle
    return best


def _total_within(problem: JointProblem, metric: str, limits: Mapping[str, float], most: float) -> float | None:
    deadline = time.perf_counter() + STEP_S
    try:
        found = solution_of(problem, {**limits, metric: most}, "nothing", deadline).picks
    except OutOfTimeError:
        return None
    return None if found is None else problem.totals_of(found)[metric]


def infeasible_error(problem: JointProblem, limits: Mapping[str, float]) -> InfeasibleBudgetError:
    """The error that names the tightest values that can be reached.

    Args:
        problem: Nodes with their options.
        limits: Limits that no choice keeps.

    Returns:
        The error.
    """
    alone = {}
    for metric in limits:
        least = least_total(problem, metric)
        if least is None:
            return InfeasibleBudgetError(
                "no choice at all is allowed: ties and edges exclude every combination; offer tied nodes the same "
                "widths, and neighbours options that go together"
            )
        alone[metric] = least

    def least_beside(metric: str, rest: Mapping[str, float]) -> float | None:
        try:
            return least_total(problem, metric, rest)
        except OutOfTimeError:
            return None

    return infeasible(limits, alone, least_beside, "widths and places", "narrower widths")
