"""The Lagrangian dual of a constrained problem: prices of the limits that bound the optimum from below.

    L(y) = min_s c(s) + sum_k y_k (r_k(s) - 1) <= optimum,     y >= 0

where objective and limits are scaled to 1. Each value is one shortest path. L is maximised by cutting planes (Kelley
1960): every path that was found bounds L by a plane. The paths are also choices; those within the limits bound the
optimum from above, and they serve other right-hand sides again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from codesign.solver.pairwise import Array
from codesign.solver.trellis import Trellis

MOST_STEPS = 60
"""Cutting planes for one limit; each further one adds half as many."""
BOX = 2.0**20
"""Largest multiplier: a limit that is worth a million times the whole objective cannot be kept."""
CLOSE = 1e-9
"""Gap between planes and bound at which the bound is good enough."""


FACTORS = (0.5, 2.0)
"""Of the best multipliers, for further bounds."""


@dataclass(frozen=True)
class Dual:
    """A bound.

    Attributes:
        multipliers: `[limits]`, scaled.
        bound: Least scaled objective.
        completions: For each step `[states before]`: the least `c + y r` to the end.
        arcs: `c + y r` of each arc.
        paths: All paths that were found.
    """

    multipliers: Array
    bound: float
    completions: list[Array]
    arcs: list[Array]
    paths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scaled:
    """Objective and limits, scaled to 1, along a trellis.

    Attributes:
        trellis: The states.
        objective: Of each arc, infinite where there is none.
        limits: Of each arc by limit.
        sums: Scaled objective and limited sums of a path, `[1 + limits]`.
    """

    trellis: Trellis
    objective: list[Array]
    limits: tuple[list[Array], ...]

    def arcs(self, multipliers: Array) -> list[Array]:
        """`c + y r` of each arc.

        Args:
            multipliers: y.

        Returns:
            One table a step.
        """
        found = list(self.objective)
        for y, limit in zip(multipliers, self.limits, strict=True):
            if y:
                found = [total + y * table for total, table in zip(found, limit, strict=True)]
        return found

    def sums(self, picks: Sequence[int]) -> Array:
        """Objective and limited sums of a choice.

        Args:
            picks: One option a node.

        Returns:
            `[1 + limits]`.
        """
        state, total = 0, np.zeros(1 + len(self.limits))
        for i, step in enumerate(self.trellis.steps):
            option = picks[step.node]
            total[0] += self.objective[i][state, option]
            for k, limit in enumerate(self.limits, start=1):
                total[k] += limit[i][state, option]
            state = int(step.following[state, option])
        return total


def maximise(scaled: Scaled, known: Sequence[tuple[int, ...]] = (), ceiling: float = np.inf) -> Dual:
    """Finds multipliers with nearly the largest bound.

    Args:
        scaled: Objective and limits.
        known: Choices from earlier solutions.
        ceiling: A bound above it ends the search.

    Returns:
        The best bound that was seen.
    """
    planes = _Planes(len(scaled.limits))
    paths = dict.fromkeys(known)
    for picks in known:
        planes.add(scaled.sums(picks))
    best: Dual | None = None
    limits = len(scaled.limits)
    for step in range(MOST_STEPS + MOST_STEPS // 2 * max(0, limits - 1)):
        height, multipliers = planes.highest() if paths else (np.inf, np.zeros(limits))
        if best is not None and (height - best.bound <= CLOSE or best.bound > ceiling):
            break
        if best is not None and limits > 1 and step % 3:
            multipliers = 0.5 * (multipliers + best.multipliers)  # in between, where one plane more tells most
        arcs = scaled.arcs(multipliers)
        completions = scaled.trellis.completions(arcs)
        bound = float(completions[0][0] - multipliers.sum())
        if bound == np.inf:
            return Dual(multipliers, bound, completions, arcs, tuple(paths))
        picks = scaled.trellis.shortest_path(arcs, completions)
        if best is None or bound > best.bound:
            best = Dual(multipliers, bound, completions, arcs, ())
        if picks not in paths:
            paths[picks] = None
            planes.add(scaled.sums(picks))
    assert best is not None
    return Dual(best.multipliers, best.bound, best.completions, best.arcs, tuple(paths))


def around(scaled: Scaled, dual: Dual) -> list[tuple[Array, list[Array]]]:
    """Further multipliers, which bound partial choices that used more or less of a limit than usual.

    Args:
        scaled: Objective and limits.
        dual: The best bound.

    Returns:
        Multipliers, and the least `c + y r` to the end for each; those of the best bound first.
    """
    found = [(dual.multipliers, dual.completions)]
    axes = np.eye(len(dual.multipliers), dtype=bool)
    groups = [np.ones(len(axes), bool), *(axes if len(axes) > 1 else [])]
    for group in groups:
        for factor in FACTORS:
            multipliers = np.where(group, factor * dual.multipliers, dual.multipliers)
            if (multipliers != dual.multipliers).any():
                found.append((multipliers, scaled.trellis.completions(scaled.arcs(multipliers))))
    return found


class _Planes:
    """max h subject to h <= c_i + sum_k y_k (r_ik - 1) for each path i, 0 <= y <= BOX."""

    def __init__(self, limits: int) -> None:
        self.limits = limits
        self.solver = highspy.Highs()  # type: ignore[no-untyped-call]  # highspy annotates its functions only in part
        self.solver.setOptionValue("output_flag", False)
        self.solver.addVar(-highspy.kHighsInf, highspy.kHighsInf)
        self.solver.changeColCost(0, -1.0)
        for _ in range(limits):
            self.solver.addVar(0.0, BOX)

    def add(self, sums: Array) -> None:
        index = np.arange(1 + self.limits, dtype=np.int32)
        values = np.concatenate([[1.0], 1.0 - sums[1:]])
        self.solver.addRow(-highspy.kHighsInf, float(sums[0]), len(index), index, values)

    def highest(self) -> tuple[float, Array]:
        self.solver.run()
        values = np.asarray(self.solver.getSolution().col_value)
        return float(values[0]), values[1:]
