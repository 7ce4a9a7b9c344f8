"""Which solver answers a joint problem: labels on a trellis, or HiGHS where the graph is too densely connected."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from codesign.errors import CodesignError
from codesign.search.joint_problem import JointProblem, Method
from codesign.search.joint_programme import Goal, programme_of, second_sum, sum_of
from codesign.solver.constrained import ConstrainedProblem, Sum
from codesign.solver.edge_programme import Limit, solve
from codesign.solver.exact import all_undominated, optimise, states_of
from codesign.solver.one_hot_model import OutOfTimeError
from codesign.solver.pairwise import PairwiseProblem, PairwiseSolution

MARGINS = (0.0, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9)
"""Shares by which limits are tightened for HiGHS, one after the other, until its choice keeps them exactly."""
CLOSED = 1e-12
"""Share of the objective by which HiGHS's bound may miss it for rounding."""
Picks = tuple[int, ...]


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        picks: One option a node; None if no choice keeps the limits.
        bound: No choice within the limits is better.
        is_proven: Whether there is no better choice, or none at all.
        method: Which solver.
        paths: Choices met on the way, which help with other limits.
        prices: Nats per unit of each metric whose limit is a sum, from the dual; labels only.
    """

    picks: Picks | None
    bound: float
    is_proven: bool
    method: Method
    paths: tuple[Picks, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)


def solution_of(
    problem: JointProblem,
    limits: Mapping[str, float],
    goal: Goal = "loss",
    deadline: float = math.inf,
    known: Sequence[Picks] = (),
    method: Method | None = None,
) -> Solution:
    """Finds the best choice within limits, and the cheapest of equals.

    Args:
        problem: Nodes with their options.
        limits: Largest allowed total by metric.
        goal: What is to be small.
        deadline: `time.perf_counter()` at which the best choice so far is taken.
        known: Choices from earlier solutions.
        method: The solver; None for labels where the graph allows them.

    Returns:
        The best choice.

    Raises:
        OutOfTimeError: The deadline passed before any choice was found.
    """
    second = second_sum(problem, limits) if goal == "loss" else None
    labelled = None if method == "integer-programme" else _by_labels(problem, limits, goal, second, known, deadline)
    if labelled is not None and labelled.is_proven:
        return labelled
    try:
        solved = _by_programme(programme_of(problem, limits, goal, tables=False), second, deadline)
    except OutOfTimeError:
        if labelled is None or labelled.picks is None:
            raise
        return labelled
    if labelled is None or solved.is_proven or solved.picks is None or labelled.picks is None:
        return solved
    terms = programme_of(problem, {}, goal).objective
    better = min(labelled, solved, key=lambda solution: math.fsum(terms.terms(solution.picks or ())))
    return replace(better, bound=max(labelled.bound, solved.bound))


def _by_labels(
    problem: JointProblem,
    limits: Mapping[str, float],
    goal: Goal,
    second: Sum | None,
    known: Sequence[Picks],
    deadline: float,
) -> Solution | None:
    """None where the graph is too densely connected."""
    programme = programme_of(problem, limits, goal)
    states = states_of(programme, second)
    if states is None:
        return None
    found = optimise(programme, states, second, known, deadline)
    prices: dict[str, float] = {}
    for limit, price in zip(programme.limits, found.multipliers, strict=True):
        prices[limit.name] = prices.get(limit.name, 0.0) + price
    return Solution(found.picks, found.bound, found.is_proven, "label-setting", found.paths, prices)


def whole_front(
    problem: JointProblem, metric: str, limits: Mapping[str, float], most_labels: int
) -> tuple[Picks, ...] | None:
    """Choices within limits for every value of (metric, loss) that no other choice beats, in one sweep over the graph.

    Args:
        problem: Nodes with their options.
        metric: A metric that adds up.
        limits: Largest allowed total by metric.
        most_labels: Partial choices after a node at which to give up.

    Returns:
        One choice for each point, and perhaps some for points that are beaten; none if no choice keeps the limits. None
        where the front or the graph is too large.
    """
    programme = programme_of(problem, limits)
    measure = sum_of(problem, metric)
    states = states_of(programme, measure)
    if states is None:
        return None
    found = all_undominated(programme, states, measure, most_labels)
    return None if found is None else tuple(picks for picks in found if programme.allows(picks))


def _by_programme(programme: ConstrainedProblem, second: Sum | None, deadline: float) -> Solution:
    bound = -math.inf
    for margin in MARGINS:
        found = _highs(programme, programme.objective, margin, deadline)
        if found is None:
            if margin:
                break
            return Solution(None, math.inf, True, "integer-programme")
        bound = bound if margin else found.value - found.gap
        if programme.allows(found.picks):
            picks, proven = found.picks, found.value - bound <= CLOSED * abs(found.value)
            if proven and second is not None:
                picks = _cheapest(programme, found.picks, second, margin, deadline)
            return Solution(picks, bound, proven, "integer-programme")
    raise CodesignError(
        "the limits lie within rounding errors of what can be reached; loosen them by one part in a billion"
    )


def _cheapest(programme: ConstrainedProblem, picks: Picks, second: Sum, margin: float, deadline: float) -> Picks:
    """The choice of the same objective with the least second sum."""
    value = programme.value(picks)
    least = min(float(np.where(np.isfinite(t), t, 0.0).min()) for _, t in programme.objective.tables())
    if least < 0:  # a limit's terms are from 0 up
        return picks
    same = Limit(_dense(programme, programme.objective), programme.objective.edges, value)
    try:
        other = _highs(programme, second, margin, deadline, (same,))
    except OutOfTimeError:
        return picks
    if other is None or not programme.allows(other.picks) or programme.value(other.picks) > value:
        return picks
    return min(other.picks, picks, key=lambda choice: math.fsum(second.terms(choice)))


def _highs(
    programme: ConstrainedProblem, goal: Sum, margin: float, deadline: float, more: Sequence[Limit] = ()
) -> PairwiseSolution | None:
    nodes = [values.copy() for values in _dense(programme, goal)]
    edges = {pair: table.copy() for pair, table in goal.edges.items()}
    for limit in programme.limits:
        for pair, table in limit.sum.edges.items():
            edges.setdefault(pair, np.zeros(table.shape))
    for item in programme.excluded:
        if len(item.nodes) == 1:
            nodes[item.nodes[0]][item.table] = np.inf
        else:
            u, v = item.nodes
            edges.setdefault((u, v), np.zeros(item.table.shape))[item.table] = np.inf
    limits = [
        Limit(_dense(programme, x.sum), x.sum.edges, (x.limit - x.constant) - margin * x.limit)
        for x in programme.limits
    ]
    return solve(PairwiseProblem(tuple(nodes), edges), [*limits, *more], max(0.0, deadline - time.perf_counter()))


def _dense(programme: ConstrainedProblem, terms: Sum) -> tuple[np.ndarray, ...]:
    return tuple(terms.nodes.get(v, np.zeros(size)) for v, size in enumerate(programme.sizes))
