"""Optima of the additive model over a range of budgets: the trade-off between loss and one metric."""

from collections.abc import Mapping, Sequence

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.search.integer_program import Allocation, least_total, solve
from codesign.search.pareto import non_dominated
from codesign.search.problem import AllocationProblem


def sweep(
    problem: AllocationProblem, metric: str, budgets: Sequence[float], limits: Mapping[str, float] | None = None
) -> tuple[Allocation, ...]:
    """Solves once for every budget (the epsilon-constraint method).

    Args:
        problem: Layers with their options.
        metric: What the budgets limit.
        budgets: Limits on `metric`, in any order; those that cannot be kept are passed over.
        limits: Limits on other metrics, kept throughout.

    Returns:
        Different optima that do not dominate one another in (metric, loss), from the cheapest to the best.

    Raises:
        InfeasibleBudgetError: Not one budget can be kept.
    """
    found: list[Allocation] = []
    refused: InfeasibleBudgetError | None = None
    for budget in sorted(set(budgets)):
        try:
            found.append(solve(problem, {**(limits or {}), metric: budget}))
        except InfeasibleBudgetError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return _front(found, metric)


def complete_front(
    problem: AllocationProblem, metric: str, limits: Mapping[str, float] | None = None, at_most: int = 1000
) -> tuple[Allocation, ...]:
    """Every Pareto-optimal value of (metric, loss): each solution's metric, less the smallest step, is the next budget.

    Values of the metric that agree to one part in 10^9 count as one.

    Args:
        problem: Layers with their options.
        metric: An additive metric.
        limits: Limits on other metrics.
        at_most: Number of points after which the search stops with an error.

    Returns:
        The front, from the cheapest to the best.

    Raises:
        InputError: The front has more than `at_most` points.
    """
    others = dict(limits or {})
    found = [solve(problem, others)]
    least = least_total(problem, metric, others)
    assert least is not None  # `solve` found a choice
    while found[-1].metrics[metric] > least:
        if len(found) == at_most:
            raise InputError(
                f"the front over {metric} has more than {at_most} points; sweep over chosen budgets instead"
            )
        budget = found[-1].metrics[metric] * (1 - 1e-9)
        found.append(solve(problem, {**others, metric: max(budget, least)}))
    return _front(found, metric)


def budgets_between(
    problem: AllocationProblem, metric: str, points: int, limits: Mapping[str, float] | None = None
) -> tuple[float, ...]:
    """Evenly spaced budgets from the least that can be kept to what the unlimited optimum needs.

    Args:
        problem: Layers with their options.
        metric: What is limited.
        points: How many, at least 2.
        limits: Limits on other metrics.

    Returns:
        Budgets in ascending order; fewer than `points` where both ends agree.
    """
    if points < 2:
        raise InputError(f"points of a sweep: got {points}, at least 2 are needed; raise it")
    best = solve(problem, limits or {}).metrics[metric]
    least = least_total(problem, metric, limits or {})
    assert least is not None  # `solve` found a choice
    inner = [least + (best - least) * i / (points - 1) for i in range(1, points - 1)]
    return tuple(sorted({least, *inner, max(best, least)}))


def _front(found: Sequence[Allocation], metric: str) -> tuple[Allocation, ...]:
    points = [(allocation.metrics[metric], allocation.loss_increase) for allocation in found]
    kept = [found[i] for i in non_dominated(points)]
    return tuple(sorted(kept, key=lambda allocation: allocation.metrics[metric]))
