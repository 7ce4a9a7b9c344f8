"""The pairwise problem as an integer programme, with limits on further sums.

    minimise    sum_v c_v s_v + sum_(u,v) R_uv e_uv
    subject to  sum_i s_v[i] = 1,  sum_j e_uv[i, j] = s_u[i],  sum_i e_uv[i, j] = s_v[j],  s binary, e >= 0
                and, for each limit, the same kind of sum over other prices <= limit

(Alpa, arXiv 2201.12023, section 4.2, with equalities, which bound more tightly.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from codesign.errors import CodesignError
from codesign.solver.one_hot_model import OPTIONS, OutOfTimeError, power_of_two
from codesign.solver.pairwise import Array, PairwiseProblem, PairwiseSolution


@dataclass(frozen=True)
class Limit:
    """`sum_v nodes[v][s_v] + sum_(u,v) edges[u,v][s_u, s_v] <= limit`.

    Attributes:
        nodes: From 0 up.
        edges: From 0 up; a subset of the problem's edges.
        limit: Right-hand side.
    """

    nodes: tuple[Array, ...]
    edges: Mapping[tuple[int, int], Array]
    limit: float


def solve(
    problem: PairwiseProblem, limits: Sequence[Limit] = (), time_limit_s: float = math.inf
) -> PairwiseSolution | None:
    """Finds the optimum by HiGHS.

    Args:
        problem: Prices; infinite ones forbid.
        limits: Further sums, kept within HiGHS's tolerance after scaling (1e-13 of the limit).
        time_limit_s: Seconds after which the best choice so far is returned, with its gap.

    Returns:
        The optimum; None if nothing is allowed.

    Raises:
        OutOfTimeError: Time ran out before any choice was found.
        CodesignError: HiGHS failed.
    """
    programme = _Programme(problem)
    prices = np.concatenate([*problem.nodes, *(table.ravel() for table in problem.edges.values())])
    finite = np.where(np.isfinite(prices), prices, 0.0)
    scale = power_of_two(float(np.abs(finite).max(initial=0.0)))
    for limit in limits:
        programme.limit(limit)
    solver = highspy.Highs()  # type: ignore[no-untyped-call]  # highspy annotates its functions only in part
    for name, value in OPTIONS.items():
        solver.setOptionValue(name, value)
    solver.setOptionValue("time_limit", time_limit_s)
    solver.passModel(programme.model(finite * scale, np.isfinite(prices)))
    solver.run()
    status, info = solver.getModelStatus(), solver.getInfo()
    if status in {highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible}:
        return None
    if status == highspy.HighsModelStatus.kTimeLimit and not math.isfinite(info.mip_gap):
        raise OutOfTimeError(f"integer programme: no solution within {time_limit_s:g} s; offer fewer options")
    if status not in {highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit}:
        raise CodesignError(f"integer programme: HiGHS stopped with {solver.modelStatusToString(status)!r}; report it")
    columns = np.asarray(solver.getSolution().col_value)
    picks = programme.picks(columns)
    gap = (info.objective_function_value - info.mip_dual_bound) / scale if info.mip_gap > 0 else 0.0
    return PairwiseSolution(picks, problem.value(picks), max(0.0, gap), "integer-programme")


class _Programme:
    """Columns: options of all nodes, then entries of all edges."""

    def __init__(self, problem: PairwiseProblem) -> None:
        self.problem = problem
        sizes = [len(prices) for prices in problem.nodes]
        self.first = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self.edge_first: dict[tuple[int, int], int] = {}
        count = int(self.first[-1])
        for pair, table in problem.edges.items():
            self.edge_first[pair] = count
            count += table.size
        self.columns = count
        self.starts: list[int] = [0]
        self.index: list[np.ndarray] = []
        self.values: list[np.ndarray] = []
        self.lower: list[float] = []
        self.upper: list[float] = []
        for node in range(len(sizes)):
            self._row(self._options(node), np.ones(sizes[node]), 1.0, 1.0)
        for (u, v), table in problem.edges.items():
            cells = np.arange(table.size).reshape(table.shape) + self.edge_first[u, v]
            for node, rows in ((u, cells), (v, cells.T)):
                for option, row in zip(self._options(node), rows, strict=True):
                    values = np.append(np.ones(len(row)), -1.0)
                    self._row(np.append(row, option), values, 0.0, 0.0)

    def _options(self, node: int) -> "np.ndarray":
        return np.arange(self.first[node], self.first[node + 1])

    def _row(self, index: "np.ndarray", values: "np.ndarray", lower: float, upper: float) -> None:
        self.index.append(index)
        self.values.append(values)
        self.starts.append(self.starts[-1] + len(index))
        self.lower.append(lower)
        self.upper.append(upper)

    def limit(self, limit: Limit) -> None:
        """Adds a row."""
        values = np.zeros(self.columns)
        values[: self.first[-1]] = np.concatenate(limit.nodes)
        for pair, table in limit.edges.items():
            values[self.edge_first[pair] : self.edge_first[pair] + table.size] = table.ravel()
        values[~np.isfinite(values)] = 0.0  # such options are forbidden anyway
        scale = power_of_two(max(abs(limit.limit), float(values.max(initial=0.0))))
        used = np.flatnonzero(values)
        self._row(used, values[used] * scale, -highspy.kHighsInf, limit.limit * scale)

    def model(self, costs: Array, allowed: "np.ndarray") -> highspy.HighsLp:
        """The programme for HiGHS."""
        nodes = int(self.first[-1])
        programme = highspy.HighsLp()
        programme.num_row_, programme.num_col_ = len(self.lower), self.columns
        programme.col_cost_ = costs
        programme.col_lower_, programme.col_upper_ = np.zeros(self.columns), allowed.astype(np.float64)
        whole, real = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
        programme.integrality_ = [whole] * nodes + [real] * (self.columns - nodes)
        programme.row_lower_, programme.row_upper_ = np.asarray(self.lower), np.asarray(self.upper)
        matrix = programme.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_ = np.asarray(self.starts, np.int32)
        matrix.index_ = np.concatenate(self.index).astype(np.int32)
        matrix.value_ = np.concatenate(self.values)
        return programme

    def picks(self, columns: "np.ndarray") -> tuple[int, ...]:
        """The chosen option of each node."""
        return tuple(int(np.argmax(columns[self._options(node)])) for node in range(len(self.problem.nodes)))
