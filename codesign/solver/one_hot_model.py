"""A one-hot integer programme in HiGHS, scaled so that tolerances are small beside every unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import highspy
import numpy as np

from codesign.errors import CodesignError

TOLERANCE = 1e-9
"""Largest violation of a scaled row that HiGHS overlooks."""
SCALE = 2.0**13
"""Rows are scaled so that their limit, and the objective so that its largest coefficient, is about this number:
what HiGHS overlooks is then about 1e-13 of a limit, less than one byte in a terabyte."""
OPTIONS: dict[str, bool | int | float | str] = {
    "output_flag": False,
    "threads": 1,
    "parallel": "off",
    "random_seed": 0,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    "mip_feasibility_tolerance": TOLERANCE,
    "primal_feasibility_tolerance": TOLERANCE,
    "dual_feasibility_tolerance": TOLERANCE,
}

Terms = Sequence[Sequence[float]]
"""A number for each option of each group: ragged `[groups][options]`."""


class OutOfTimeError(CodesignError):
    """Time ran out before any solution was found."""


@dataclass(frozen=True)
class Row:
    """The constraint `sum_g coefficients[g][pick_g] <= limit`, with coefficients from 0 up.

    Attributes:
        coefficients: Ragged `[groups][options]`.
        limit: Right-hand side.
    """

    coefficients: Terms
    limit: float


@dataclass(frozen=True)
class ModelResult:
    """What HiGHS found.

    Attributes:
        status: `optimal`, or `time-limit` when time ran out with a solution at hand.
        picks: Position of the chosen option of each group.
        gap: Objective of the picks less the proven bound, in the objective's unit; 0 when closed.
    """

    status: Literal["optimal", "time-limit"]
    picks: tuple[int, ...]
    gap: float


def minimise(
    objective: Terms, rows: Sequence[Row], forbidden: Sequence[Sequence[int]] = (), time_limit_s: float = math.inf
) -> ModelResult | None:
    """Picks one option a group so that a sum is least, to proven optimality; deterministic.

    Args:
        objective: What each option adds to the objective.
        rows: Constraints, kept within `TOLERANCE` after scaling.
        forbidden: Whole assignments that must not be returned.
        time_limit_s: Seconds after which the best solution so far is returned.

    Returns:
        The result, or None if there is no solution.

    Raises:
        OutOfTimeError: Time ran out before it found a solution.
        CodesignError: HiGHS failed.
    """
    sizes = [len(group) for group in objective]
    costs = np.concatenate([np.asarray(group, dtype=np.float64) for group in objective])
    scale = power_of_two(float(np.abs(costs).max()))
    solver = _solver(costs * scale, sizes, rows, forbidden)
    solver.setOptionValue("time_limit", time_limit_s)
    solver.run()
    status = solver.getModelStatus()
    if status in {highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible}:
        return None
    info = solver.getInfo()
    solved = status == highspy.HighsModelStatus.kOptimal
    if status == highspy.HighsModelStatus.kTimeLimit and not math.isfinite(info.mip_gap):
        raise OutOfTimeError(f"integer programme: no solution within {time_limit_s:g} s; offer fewer options")
    if not solved and status != highspy.HighsModelStatus.kTimeLimit:
        raise CodesignError(f"integer programme: HiGHS stopped with {solver.modelStatusToString(status)!r}; report it")
    values = np.split(np.asarray(solver.getSolution().col_value), np.cumsum(sizes)[:-1])
    picks = tuple(int(np.argmax(group)) for group in values)
    gap = (info.objective_function_value - info.mip_dual_bound) / scale if info.mip_gap > 0 else 0.0
    return ModelResult("optimal" if solved else "time-limit", picks, max(0.0, gap))


def _solver(
    costs: "np.typing.NDArray[np.float64]",
    sizes: Sequence[int],
    rows: Sequence[Row],
    forbidden: Sequence[Sequence[int]],
) -> highspy.Highs:
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    table = np.zeros((len(sizes) + len(rows) + len(forbidden), len(costs)))
    lower, upper = np.full(len(table), -highspy.kHighsInf), np.ones(len(table))
    lower[: len(sizes)] = 1.0
    for g, size in enumerate(sizes):
        table[g, first[g] : first[g] + size] = 1.0
    for i, row in enumerate(rows, start=len(sizes)):
        coefficients = np.concatenate([np.asarray(group, dtype=np.float64) for group in row.coefficients])
        scale = power_of_two(max(abs(row.limit), float(coefficients.max())))
        table[i] = coefficients * scale
        upper[i] = row.limit * scale
    for i, picks in enumerate(forbidden, start=len(sizes) + len(rows)):
        table[i, first + np.asarray(picks)] = 1.0
        upper[i] = len(sizes) - 1.0
    solver = highspy.Highs()  # type: ignore[no-untyped-call]  # highspy annotates its functions only in part
    for name, value in OPTIONS.items():
        solver.setOptionValue(name, value)
    solver.passModel(_linear_programme(costs, table, lower, upper))
    return solver


def _linear_programme(
    costs: "np.typing.NDArray[np.float64]",
    table: "np.typing.NDArray[np.float64]",
    lower: "np.typing.NDArray[np.float64]",
    upper: "np.typing.NDArray[np.float64]",
) -> highspy.HighsLp:
    programme = highspy.HighsLp()
    programme.num_row_, programme.num_col_ = table.shape
    programme.col_cost_ = costs
    programme.col_lower_, programme.col_upper_ = np.zeros(len(costs)), np.ones(len(costs))
    programme.integrality_ = [highspy.HighsVarType.kInteger] * len(costs)
    programme.row_lower_, programme.row_upper_ = lower, upper
    row_of, column_of = np.nonzero(table)
    matrix = programme.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_ = np.searchsorted(row_of, np.arange(len(table) + 1)).astype(np.int32)
    matrix.index_ = column_of.astype(np.int32)
    matrix.value_ = table[row_of, column_of]
    return programme


def power_of_two(largest: float) -> float:
    """The power of two, so that scaling is exact, that brings a number near `SCALE`.

    Args:
        largest: The number.

    Returns:
        The factor.
    """
    return math.ldexp(SCALE, -max(math.frexp(largest)[1], -1000)) if largest > 0 else SCALE
