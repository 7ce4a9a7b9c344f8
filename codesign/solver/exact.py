"""The optimum of a constrained problem, proven: bounds from the dual, then labels in ever wider beams."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from codesign.solver.constrained import (
    OVER,
    ConstrainedProblem,
    Excluded,
    Integers,
    Sum,
    WholeSum,
    whole_objective,
    whole_sum,
)
from codesign.solver.label_setting import ROUNDING, Bound, OutOfLabelsError, Resource, label_paths
from codesign.solver.lagrangian import Dual, Scaled, around, maximise
from codesign.solver.pairwise import Array
from codesign.solver.trellis import Trellis, trellis

FIRST_BEAM = 200
"""Labels kept after a step in the first search, which gives a good choice."""
LARGEST_BEAM = 200_000
"""Labels kept after a step at most."""
FEW_ARCS = 2_000
"""Arcs left near the best choice up to which the whole distance is searched at once."""
SHARES = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Parts of the distance between the dual bound and the best choice that are searched, one after the other."""
Picks = tuple[int, ...]
_Known = tuple[tuple[int, ...], Picks]
"""Objective and limited sums in quanta, and the choice."""


@dataclass(frozen=True)
class Optimum:
    """The best choice that was found.

    Attributes:
        picks: One option a node; None if none was found.
        bound: No choice within the limits has a smaller objective; infinite if there is none.
        is_proven: Whether the choice is the optimum, or, without one, that no choice keeps the limits.
        multipliers: Dual price of each limit: objective per unit.
        paths: Choices met on the way, which help with other right-hand sides.
    """

    picks: Picks | None
    bound: float
    is_proven: bool
    multipliers: tuple[float, ...]
    paths: tuple[Picks, ...]


@dataclass(frozen=True)
class Unrolled:
    """A problem in whole numbers along its trellis.

    Attributes:
        states: The trellis.
        cost: Objective of arcs in quanta, from 0 up.
        most: Largest objective of any choice.
        open_arcs: Arcs that may be used.
        resources: Limits.
    """

    states: Trellis
    cost: Sequence[Integers]
    most: int
    open_arcs: Sequence[NDArray[np.bool_]]
    resources: tuple[Resource, ...]

    def with_limit(self, arcs: Sequence[Integers], most: int) -> "Unrolled":
        """Adds a limit and closes arcs on no path that keeps it.

        Args:
            arcs: Quanta of each arc.
            most: Largest total.

        Returns:
            The problem with one resource more.
        """
        lengths = [np.where(here, table, np.inf) for here, table in zip(self.open_arcs, arcs, strict=True)]
        completions = self.states.completions(lengths)
        closed = self.without(lengths, completions, most * (1 + ROUNDING) if most >= 0 else -1.0)
        return replace(closed, resources=(*self.resources, Resource(arcs, most, completions)))

    def without(self, lengths: Sequence[Array], completions: Sequence[Array], longest: float) -> "Unrolled":
        """Closes arcs on no path up to a length.

        Args:
            lengths: Of arcs.
            completions: Shortest paths to the end.
            longest: Largest length.

        Returns:
            The problem with fewer arcs.
        """
        arrivals = self.states.arrivals(lengths)
        parts = zip(self.open_arcs, arrivals[:-1], lengths, completions[1:], self.states.steps, strict=True)
        closed = [
            here & (before[:, None] + length + after[step.following] <= longest)
            for here, before, length, after, step in parts
        ]
        return replace(self, open_arcs=closed)

    def sums(self, picks: Picks) -> tuple[int, ...] | None:
        """Objective and limited sums of a choice in quanta.

        Args:
            picks: One option a node.

        Returns:
            None if an arc is closed or a limit broken.
        """
        state, totals = 0, [0] * (1 + len(self.resources))
        tables = [self.cost, *(resource.arcs for resource in self.resources)]
        for i, step in enumerate(self.states.steps):
            option = picks[step.node]
            if not self.open_arcs[i][state, option]:
                return None
            totals = [total + int(table[i][state, option]) for total, table in zip(totals, tables, strict=True)]
            state = int(step.following[state, option])
        kept = all(total <= r.most for total, r in zip(totals[1:], self.resources, strict=True))
        return tuple(totals) if kept else None


@dataclass(frozen=True)
class _Least:
    """The least objective of an unrolled problem."""

    picks: Picks | None
    cost: int
    is_proven: bool
    dual: Dual
    near: Unrolled  # without arcs that no choice as good uses


def states_of(problem: ConstrainedProblem, second: Sum | None = None) -> Trellis | None:
    """The trellis of a problem.

    Args:
        problem: The problem.
        second: What decides among choices of equal objective.

    Returns:
        The trellis; None where it would be too large.
    """
    sums = [problem.objective, *(limit.sum for limit in problem.limits), *([second] if second else [])]
    cliques = dict.fromkeys(nodes for terms in sums for nodes, _ in terms.tables())
    return trellis(problem.sizes, [*cliques, *(item.nodes for item in problem.excluded)])


def optimise(
    problem: ConstrainedProblem,
    states: Trellis,
    second: Sum | None = None,
    known: Sequence[Picks] = (),
    deadline: float = math.inf,
) -> Optimum:
    """Finds the optimum, and among equal ones that with the least second sum.

    Without a second sum equal ones are told apart by the limited sums, in their order.

    Args:
        problem: The problem.
        states: What `states_of` returned for it, or for the same problem with other right-hand sides.
        second: Terms from 0 up.
        known: Choices from earlier solutions.
        deadline: `time.perf_counter()` at which the best choice so far is taken.

    Returns:
        The optimum.
    """
    found = _optimum(problem, states, second, known, deadline, careful=False)
    if found.picks is None or problem.allows(found.picks):
        return found
    # The exact sum lies so near a limit that rounding to quanta hid which side it is on.
    inside = _optimum(problem, states, second, known, deadline, careful=True)
    assert inside.picks is None or problem.allows(inside.picks)
    proven = inside.picks is not None and problem.value(inside.picks) <= problem.value(found.picks)
    return replace(inside, bound=min(found.bound, inside.bound), is_proven=inside.is_proven and proven)


def _optimum(
    problem: ConstrainedProblem,
    states: Trellis,
    second: Sum | None,
    known: Sequence[Picks],
    deadline: float,
    careful: bool,
) -> Optimum:
    whole = whole_objective(problem.objective)
    units = [whole_sum(limit.sum, limit.slack) for limit in problem.limits]
    # Carefully, what may keep a limit only because it was rounded is left out.
    mosts = [unit.most - (len(unit.tables) if careful and not unit.is_exact else 0) for unit in units]
    unrolled = _unrolled(states, whole, list(zip(units, mosts, strict=True)), problem.excluded)
    found = _least(unrolled, known, deadline)
    picks = found.picks
    if picks is not None and found.is_proven and second is not None:
        limited = found.near.with_limit(unrolled.cost, found.cost)
        other = whole_objective(second)
        cheapest = replace(limited, cost=states.arcs_of(other.tables, np.int64, OVER), most=other.most)
        picks = _least(cheapest, [picks], deadline).picks or picks
    multipliers = tuple(
        float(y) * max(whole.most, 1) * whole.quantum / (max(unit.most, 1) * unit.quantum)
        for y, unit in zip(found.dual.multipliers, units, strict=True)
    )
    bound = whole.offset + found.dual.bound * max(whole.most, 1) * whole.quantum
    proven = found.is_proven
    if picks is not None:
        value = problem.value(picks)
        proven = proven or bound >= value
        bound = value if proven else bound
    return Optimum(picks, bound, proven, multipliers, found.dual.paths)


def all_undominated(
    problem: ConstrainedProblem, states: Trellis, measure: Sum, most_labels: int
) -> tuple[Picks, ...] | None:
    """Choices within the limits that no other one beats in both the objective and a second sum.

    Args:
        problem: The problem.
        states: What `states_of` returned for it and the second sum.
        measure: The second sum, terms from 0 up.
        most_labels: Labels after a step at which to give up.

    Returns:
        One choice for each point of the front, and perhaps some that are beaten; None if there are too many labels.
    """
    units = [whole_sum(limit.sum, limit.slack) for limit in problem.limits]
    whole = whole_objective(problem.objective)
    unrolled = _unrolled(states, whole, [(unit, unit.most) for unit in units], problem.excluded)
    largest = sum((Fraction(float(values[np.isfinite(values)].max())) for _, values in measure.tables()), Fraction(0))
    quanta = whole_sum(measure, largest)
    unrolled = unrolled.with_limit(states.arcs_of(quanta.tables, np.int64, OVER), quanta.most + len(problem.sizes) ** 2)
    paths = label_paths(states, unrolled.cost, unrolled.open_arcs, unrolled.resources, None, math.inf, most_labels)
    return tuple(tuple(map(int, row)) for row in paths.picks) if paths.is_complete else None


def _unrolled(
    states: Trellis, whole: WholeSum, limits: Sequence[tuple[WholeSum, int]], excluded: Sequence[Excluded]
) -> Unrolled:
    """A problem in quanta, each limit with what it may be at most."""
    cost = states.arcs_of(whole.tables, np.int64, OVER)
    shut = states.arcs_of([(x.nodes, x.table.astype(np.int64)) for x in excluded], np.int64)
    open_arcs = [(c < OVER) & (x == 0) for c, x in zip(cost, shut, strict=True)]
    unrolled = Unrolled(states, cost, whole.most, open_arcs, ())
    for quanta, most in limits:
        unrolled = unrolled.with_limit(states.arcs_of(quanta.tables, np.int64, OVER), most)
    return unrolled


def _least(unrolled: Unrolled, known: Sequence[Picks], deadline: float) -> _Least:
    unit, largest = float(max(unrolled.most, 1)), [float(max(r.most, 1)) for r in unrolled.resources]
    scaled = Scaled(
        unrolled.states,
        [np.where(here, c / unit, np.inf) for here, c in zip(unrolled.open_arcs, unrolled.cost, strict=True)],
        tuple([a / most for a in r.arcs] for r, most in zip(unrolled.resources, largest, strict=True)),
    )
    sums = {picks: unrolled.sums(picks) for picks in known}
    dual = maximise(scaled, [picks for picks in known if sums[picks] is not None], 1.0)
    if math.isinf(dual.bound):
        return _Least(None, 0, True, dual, unrolled)
    sums |= {picks: unrolled.sums(picks) for picks in dual.paths if picks not in sums}
    best = min(((total, picks) for picks, total in sums.items() if total is not None), default=None)
    search = _Search(unrolled, dual, _bound(around(scaled, dual), unit, largest), unit, deadline)
    best, proven = search.least(best)
    return _Least(None if best is None else best[1], 0 if best is None else best[0][0], proven, dual, search.near)


class _Search:
    """Labels within a growing distance of the dual bound: the best choice up to that distance is the optimum."""

    def __init__(self, unrolled: Unrolled, dual: Dual, bound: Bound, unit: float, deadline: float) -> None:
        self.whole = self.near = unrolled
        self.dual, self.bound, self.unit, self.deadline = dual, bound, unit, deadline
        self.price = float(dual.multipliers.sum())
        self.rounding = ROUNDING * (1 + self.price)

    def least(self, best: _Known | None) -> tuple[_Known | None, bool]:
        """The best choice, and whether that is proven."""
        try:
            best, proven = self._within(1.0, best, FIRST_BEAM)
            for share in (1.0,) if self._arcs(best) <= FEW_ARCS else SHARES:
                if proven:
                    break
                best, proven = self._within(share, best, LARGEST_BEAM)
        except OutOfLabelsError:
            proven = False
        return best, proven

    def _cutoff(self, share: float, best: _Known | None) -> float:
        """A share of the distance from the dual bound to the best choice known, scaled."""
        most = (self.whole.most if best is None else best[0][0]) / self.unit
        return most if share == 1 else min(most, self.dual.bound + share * (most - self.dual.bound))

    def _close(self, cutoff: float) -> Unrolled:
        """The problem without arcs of larger bounds."""
        longest = cutoff + self.price + self.rounding
        return self.whole.without(self.dual.arcs, self.dual.completions, longest)

    def _arcs(self, best: _Known | None) -> int:
        """Arcs that a choice as good as the best one known may use."""
        return sum(int(here.sum()) for here in self._close(self._cutoff(1.0, best)).open_arcs)

    def _within(self, share: float, best: _Known | None, beam: int) -> tuple[_Known | None, bool]:
        """Looks for choices in a share of the distance from the dual bound to the best one known."""
        cutoff = self._cutoff(share, best)
        near = self.near = self._close(cutoff)
        paths = label_paths(
            near.states,
            near.cost,
            near.open_arcs,
            near.resources,
            self.bound,
            (cutoff + self.rounding) * self.unit,
            beam,
            self.deadline,
        )
        if len(paths.cost):
            total = (int(paths.cost[0]), *(int(row[0]) for row in paths.used))
            found = (total, tuple(int(option) for option in paths.picks[0]))
            best = found if best is None else min(found, best)
        # Choices up to the cutoff were all seen. Beyond it some were, whose bounds lie below.
        within = share == 1 or (best is not None and best[0][0] <= cutoff * self.unit)
        return best, paths.is_complete and within


def _bound(vectors: Sequence[tuple[Array, list[Array]]], unit: float, largest: Sequence[float]) -> Bound:
    """Bounds in quanta."""
    return Bound(
        np.asarray([unit * multipliers / np.asarray(largest) for multipliers, _ in vectors]),
        [[unit * step for step in completions] for _, completions in vectors],
        np.asarray([unit * multipliers.sum() for multipliers, _ in vectors]),
    )
