"""The exact answer to an allocation problem, by integer programming."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from codesign.errors import CodesignError
from codesign.search.infeasible import infeasible
from codesign.search.problem import PEAK_METRICS, AllocationProblem, Bits, Choice, LayerOptions, order_of_bits
from codesign.search.reduction import Reduced, least_alone, reduce
from codesign.solver.one_hot_model import ModelResult, OutOfTimeError, Row, minimise

TIME_LIMIT_S = 60.0
"""Seconds after which the best choice so far is taken, with its gap; networks of 60 layers take about 0.5."""
MAX_FORBIDDEN = 16
"""Solutions that break a limit by less than HiGHS can see and are forbidden one by one."""
MARGINS = (1e-12, 1e-11, 1e-10, 1e-9)
"""Shares by which limits are tightened, one after the other, when that was not enough."""


@dataclass(frozen=True)
class Allocation:
    """A choice of one option a layer.

    Attributes:
        choice: Layer name and bits, in the order of the layers.
        loss_increase: Sum over layers under the additive model.
        metrics: Totals, with the constant part of the problem.
        bound: No choice that keeps the limits has a smaller loss.
        gap: (loss_increase - bound) / |loss_increase|; 0 for a proven optimum.
        status: `optimal`, or `time-limit` for the best that was found in time.
        seconds: Time it took.
    """

    choice: Choice
    loss_increase: float
    metrics: Mapping[str, float]
    bound: float
    gap: float
    status: Literal["optimal", "time-limit"]
    seconds: float


def solve(problem: AllocationProblem, limits: Mapping[str, float], time_limit_s: float = TIME_LIMIT_S) -> Allocation:
    """Finds the choice with the least loss that keeps every limit, and proves it.

    HiGHS works with tolerances, so its answer is checked in correctly rounded sums without any; what breaks a limit is
    excluded and the rest solved again. Of several optima the one with the least sum of total / limit is taken, and
    among layers with the same options the earlier ones get the wider bits. The same input gives the same answer.

    Args:
        problem: Layers with their options.
        limits: Largest allowed total by metric; all are kept.
        time_limit_s: Seconds for one integer programme.

    Returns:
        The optimum, or with status `time-limit` the best choice that was found in time, and its gap.

    Raises:
        InfeasibleBudgetError: No choice keeps the limits; the tightest values that can be reached are named.
    """
    started = time.perf_counter()
    problem.check_limits(limits)
    reduced = reduce(problem, limits)
    result = None if reduced is None else _least_loss(reduced, time_limit_s)
    if reduced is None or result is None:
        alone = {metric: least_alone(problem, metric) for metric in limits}
        raise infeasible(limits, alone, lambda metric, rest: least_total(problem, metric, rest))
    choice = reduced.choice(result.picks)
    if result.status == "optimal":
        choice = _wider_first(problem, _cheapest_of_equals(reduced, choice, time_limit_s))
    loss = problem.loss_of(choice)
    gap = result.gap / abs(loss) if loss else (math.inf if result.gap else 0.0)
    seconds = time.perf_counter() - started
    return Allocation(choice, loss, problem.totals_of(choice), loss - result.gap, gap, result.status, seconds)


def least_total(problem: AllocationProblem, metric: str, limits: Mapping[str, float]) -> float | None:
    """The least total of one metric under limits on others.

    Args:
        problem: Layers with their options.
        metric: What to make small.
        limits: Limits on other metrics.

    Returns:
        The total, or None if no choice keeps the limits.
    """
    if metric in PEAK_METRICS:
        return _least_peak(problem, metric, limits)
    layers = tuple(
        LayerOptions(layer.name, tuple(replace(o, loss_increase=o.metrics[metric]) for o in layer.options))
        for layer in problem.layers
    )
    priced = replace(problem, layers=layers)
    reduced = reduce(priced, limits)
    result = None if reduced is None else _least_loss(reduced, math.inf)
    return None if reduced is None or result is None else problem.totals_of(reduced.choice(result.picks))[metric]


def _least_peak(problem: AllocationProblem, metric: str, limits: Mapping[str, float]) -> float | None:
    values = {option.metrics[metric] for layer in problem.layers for option in layer.options}
    steps = sorted({max(value, problem.constant.get(metric, 0.0)) for value in values})
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        reduced = reduce(problem, {**limits, metric: steps[middle]})
        if reduced is not None and _least_loss(reduced, math.inf) is not None:
            high = middle
        else:
            low = middle + 1
    return steps[low] if low < len(steps) else None


def _least_loss(reduced: Reduced, time_limit_s: float) -> ModelResult | None:
    """Solves until the answer keeps the limits exactly; the bound is that of the limits as given."""
    losses = reduced.losses
    if not reduced.rows():
        return ModelResult("optimal", tuple(group.index(min(group)) for group in losses), 0.0)
    forbidden: list[tuple[int, ...]] = []
    bound = -math.inf
    for margin in (0.0,) * MAX_FORBIDDEN + MARGINS:
        result = minimise(losses, reduced.rows(margin), forbidden, time_limit_s)
        if result is None:
            if margin:
                break
            return None
        value = _sum(losses, result.picks)
        bound = bound if margin else value - result.gap
        if reduced.problem.fits(reduced.choice(result.picks), reduced.limits):
            return replace(result, gap=max(0.0, value - bound))
        forbidden.append(result.picks)
    raise CodesignError(
        f"the limits {dict(reduced.limits)} lie within rounding errors of what can be reached; loosen them by one part "
        "in a billion"
    )


def _cheapest_of_equals(reduced: Reduced, choice: Choice, time_limit_s: float) -> Choice:
    """The cheapest choice with the same loss."""
    rows = reduced.rows()
    if not rows:
        return choice
    bits_of = dict(choice)
    names = [reduced.problem.layers[group.layers[0]].name for group in reduced.problem.groups]
    picks = [
        next(i for i, option in enumerate(group) if option.bits == bits_of[name])
        for name, group in zip(names, reduced.groups, strict=True)
    ]
    losses, shares = reduced.losses, reduced.cost_shares
    same_loss = Row(losses, _sum(losses, picks))
    try:
        result = minimise(shares, [*rows, same_loss], (), time_limit_s)
    except OutOfTimeError:
        return choice
    if result is None or _sum(shares, result.picks) >= _sum(shares, picks):
        return choice
    other = reduced.choice(result.picks)
    problem = reduced.problem
    exact = problem.fits(other, reduced.limits) and problem.loss_of(other) <= problem.loss_of(choice)
    return other if exact else choice


def _sum(terms: Sequence[Sequence[float]], picks: Sequence[int]) -> float:
    return math.fsum(group[pick] for group, pick in zip(terms, picks, strict=True))


def _wider_first(problem: AllocationProblem, choice: Choice) -> Choice:
    """Hands the bits of untied layers with the same options to these layers in descending order; no total changes."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for position, group in enumerate(problem.groups):
        if len(group.layers) == 1:
            options = problem.layers[group.layers[0]].options
            key = (group.bits, *((o.bits, o.loss_increase, *sorted(o.metrics.items())) for o in options))
            alike.setdefault(key, []).append(position)
    bits_of = dict(choice)
    picks: list[Bits] = [bits_of[problem.layers[group.layers[0]].name] for group in problem.groups]
    for positions in alike.values():
        ordered = sorted((picks[i] for i in positions), key=order_of_bits, reverse=True)
        for position, bits in zip(positions, ordered, strict=True):
            picks[position] = bits
    return problem.choice_of(picks)
