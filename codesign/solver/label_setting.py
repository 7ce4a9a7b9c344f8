"""Exact optima of constrained problems on a trellis: resource-constrained shortest paths by label setting.

A label is a partial choice: its state, its objective and its limited sums, all whole numbers. Labels are extended step
by step. One is dropped if another one of the same state is nowhere worse; if what it still needs at least breaks a
limit; or if its completion bound `c + y r + B(state)` (`lagrangian`) lies above the best choice known. What is left at
the end is the optimum, proven (Irnich, Desaulniers 2005; bounds as in Beasley, Christofides 1989).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.solver.constrained import Integers
from codesign.solver.pairwise import Array
from codesign.solver.trellis import Trellis

ROUNDING = 1e-11
"""Share of the objective by which sums of floats may be wrong."""
CROWD = 4
"""Times the beam: labels among which dominance is looked for, the most promising ones."""
WINDOW = 64
"""Labels with which one is compared where several sums are limited."""


@dataclass(frozen=True)
class Resource:
    """A sum that is limited.

    Attributes:
        arcs: Quanta of each arc, `[states before, options]` by step.
        most: Largest allowed total.
        completions: Least quanta to the end, `[states before]` by step.
    """

    arcs: Sequence[Integers]
    most: int
    completions: Sequence[Array]

    def open(self, here: Integers, following: NDArray[np.int64], step: int) -> NDArray[np.bool_]:
        """Whether labels can still keep the limit.

        Args:
            here: Quanta so far.
            following: Their states.
            step: How many nodes are decided.

        Returns:
            One flag a label.
        """
        least = self.completions[step][following]
        return (here <= self.most) & (here + least * (1 - ROUNDING) <= self.most * (1 + ROUNDING))


@dataclass(frozen=True)
class Bound:
    """Lower bounds on the objective of whatever a label can become, one for each vector of multipliers y.

        c + sum_k y_k r_k + B_y(state) - sum_k y_k most_k

    A label that has used more or less of a limit than usual is bounded best by other multipliers than the start.

    Attributes:
        prices: y in quanta of the objective for a quantum of a limit, `[vectors, resources]`.
        completions: B_y, `[states before]` by vector and step.
        offsets: The last sum, by vector.
    """

    prices: Array
    completions: Sequence[Sequence[Array]]
    offsets: Array

    def of(self, cost: Integers, used: Integers, following: NDArray[np.int64], step: int) -> Array:
        """The largest bound of each label.

        Args:
            cost: Objective in quanta.
            used: Limited sums, `[resources, labels]`.
            following: States.
            step: How many nodes are decided.

        Returns:
            One number a label.
        """
        largest = np.full(len(cost), -np.inf)
        for prices, completions, offset in zip(self.prices, self.completions, self.offsets, strict=True):
            bound = completions[step][following] - offset
            for price, row in zip(prices, used, strict=True):
                if price:
                    bound += price * row
            np.maximum(largest, bound, out=largest)
        return largest + cost


@dataclass(frozen=True)
class Paths:
    """Complete choices.

    Attributes:
        cost: Objective in quanta, ascending.
        used: Limited sums in quanta, `[resources, paths]`.
        picks: Option of each node, `[paths, nodes]`.
        is_complete: Whether no label was dropped that might have been better.
    """

    cost: Integers
    used: Integers
    picks: NDArray[np.int64]
    is_complete: bool


class OutOfLabelsError(Exception):
    """The deadline passed."""


def label_paths(
    states: Trellis,
    cost: Sequence[Integers],
    open_arcs: Sequence[NDArray[np.bool_]],
    resources: Sequence[Resource],
    bound: Bound | None,
    cutoff: float,
    beam: int,
    deadline: float = np.inf,
) -> Paths:
    """Extends labels from the first node to the last.

    Args:
        states: The trellis.
        cost: Objective of arcs in quanta.
        open_arcs: Arcs that may be used.
        resources: What is limited.
        bound: The completion bound; None to keep every label that no other dominates.
        cutoff: Largest bound of interest.
        beam: Labels kept after each step; those with the least bounds.
        deadline: `time.perf_counter()` at which to give up.

    Returns:
        All choices that no other dominates in objective and limited sums, among those of bounds up to `cutoff`.

    Raises:
        OutOfLabelsError: The deadline passed.
    """
    state, total, used = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((len(resources), 1), np.int64)
    trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    complete = True
    for i, step in enumerate(states.steps):
        if time.perf_counter() > deadline:
            raise OutOfLabelsError
        before, option = np.nonzero(open_arcs[i])
        parent, arc = _extensions(state, np.searchsorted(before, np.arange(step.arcs[0] + 1)))
        flat = before[arc] * step.arcs[1] + option[arc]
        state, total, used = step.following.ravel()[flat], total[parent] + cost[i].ravel()[flat], used[:, parent]
        fits = np.ones(len(flat), bool)
        for k, resource in enumerate(resources):
            used[k] += resource.arcs[i].ravel()[flat]
            fits &= resource.open(used[k], state, i + 1)
        kept = np.flatnonzero(fits)
        bounds = np.zeros(len(kept))
        if bound is not None:
            bounds = bound.of(total[kept], used[:, kept], state[kept], i + 1)
        kept, bounds = kept[bounds <= cutoff], bounds[bounds <= cutoff]
        for most in (CROWD * beam, beam):
            if len(kept) > most:
                complete = False
                first = np.sort(np.argsort(bounds, kind="stable")[:most])
                kept, bounds = kept[first], bounds[first]
            if most > beam:
                stay = undominated(state[kept], np.vstack([total[kept][None], used[:, kept]]))
                kept, bounds = kept[stay], bounds[stay]
        state, total, used = state[kept], total[kept], used[:, kept]
        trail.append((parent[kept], option[arc[kept]]))
    order = np.lexsort((*used[::-1], total))
    return Paths(total[order], used[:, order], _picks(states, trail, order), complete)


def _extensions(state: NDArray[np.int64], first: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label and arc of every extension; `first` says where the arcs of each state begin."""
    counts = first[state + 1] - first[state]
    parent = np.repeat(np.arange(len(state)), counts)
    offset = np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)
    return parent, first[state][parent] + offset


def _picks(
    states: Trellis, trail: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    picks = np.zeros((len(ends), len(states.steps)), np.int64)
    label = ends
    for step, (parent, option) in zip(reversed(states.steps), reversed(trail), strict=True):
        picks[:, step.node] = option[label]
        label = parent[label]
    return picks


def undominated(state: NDArray[np.int64], sums: Integers) -> NDArray[np.int64]:
    """Labels that no other label of the same state beats or equals everywhere.

    With more than two sums only `WINDOW` neighbours of similar objective are compared, so some dominated ones stay.

    Args:
        state: State of each label.
        sums: Objective first, `[sums, labels]`.

    Returns:
        Positions of the labels that stay; of equal ones the first.
    """
    order: NDArray[np.int64] = np.lexsort((*sums[::-1], state))
    state, sums = state[order], sums[:, order]
    starts = np.ones(len(state), bool)
    starts[1:] = state[1:] != state[:-1]
    if len(sums) == 1:
        stays = starts
    elif len(sums) == 2:  # a staircase: the lowest second sum so far, of the same state
        _, rank = np.unique(sums[1], return_inverse=True)
        key = rank - np.cumsum(starts) * (len(state) + 1)
        stays = starts | (key < np.concatenate([[0], np.minimum.accumulate(key)[:-1]]))
    else:
        stays = _not_beaten_nearby(state, sums, starts)
    kept: NDArray[np.int64] = order[stays]
    return kept


def _not_beaten_nearby(state: NDArray[np.int64], sums: Integers, starts: NDArray[np.bool_]) -> NDArray[np.bool_]:
    stays = np.ones(len(state), bool)
    longest = int(np.diff(np.flatnonzero(np.concatenate([starts, [True]]))).max(initial=1))
    for shift in range(1, min(WINDOW, longest - 1) + 1):
        beaten = state[shift:] == state[:-shift]
        for row in sums[1:]:
            beaten &= row[shift:] >= row[:-shift]
        stays[shift:] &= ~beaten
    return stays
