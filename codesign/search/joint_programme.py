"""A joint problem as sums, limits and excluded combinations for the solvers."""

import itertools
import math
from collections.abc import Mapping

import numpy as np

from codesign.search.joint_problem import Array, JointProblem, Load
from codesign.search.problem import PEAK_METRICS
from codesign.solver.constrained import ConstrainedProblem, Excluded, Limited, Sum

ROUNDING = 1e-12
"""Share of a total by which sums of floats may be wrong."""
Goal = str
"""What is to be small: `loss`, `nothing` where any choice within the limits will do, or a metric that adds up."""


def programme_of(
    problem: JointProblem, limits: Mapping[str, float], goal: Goal = "loss", tables: bool = True
) -> ConstrainedProblem:
    """The problem for the solver.

    Args:
        problem: Nodes with their options.
        limits: Largest allowed total by metric.
        goal: What is to be small: `loss`, `nothing` where any choice within the limits will do, or a metric.
        tables: Whether limited loads of few nodes become tables of what is excluded.

    Returns:
        Losses or costs, limits that can bind, and combinations that are excluded.
    """
    excluded = [*_excluding_edges(problem), *_untied(problem)]
    limited = []
    for metric, limit in limits.items():
        if math.isinf(limit):
            continue
        if problem.is_maximum(metric) and problem.constant.get(metric, 0.0) > limit:
            excluded.append(Excluded((0,), np.ones(len(problem.options[0]), bool)))
        if metric in problem.options[0][0].metrics and metric in PEAK_METRICS:
            for v, offered in enumerate(problem.options):
                excluded.append(Excluded((v,), np.asarray([o.metrics[metric] for o in offered]) > limit))
        elif not problem.is_maximum(metric):
            limited.append(Limited(sum_of(problem, metric), limit, problem.constant.get(metric, 0.0), metric))
        for load in problem.loads:
            if metric in load.metrics:
                most = Limited(Sum(load.nodes, load.edges), limit, load.constant, metric)
                _limit_load(problem, load, most, limited, excluded, tables)
    return ConstrainedProblem(
        tuple(map(len, problem.options)), _goal_of(problem, goal), tuple(limited), tuple(excluded)
    )


def _goal_of(problem: JointProblem, goal: Goal) -> Sum:
    if goal not in {"loss", "nothing"}:
        return sum_of(problem, goal)
    zero = goal == "nothing"
    return Sum({
        v: np.asarray([0.0 if zero else option.loss_increase_nats for option in offered])
        for v, offered in enumerate(problem.options)
    })


def sum_of(problem: JointProblem, metric: str) -> Sum:
    """A metric that adds up, without its constant part.

    Args:
        problem: Nodes with their options.
        metric: Its name.

    Returns:
        The sum; excluded pairs count 0.
    """
    nodes = {
        v: np.asarray([o.metrics[metric] for o in offered])
        for v, offered in enumerate(problem.options)
        if metric in offered[0].metrics
    }
    edges: dict[tuple[int, int], Array] = {}
    for edge in problem.edges:
        if metric in edge.metrics:
            table = edge.metrics[metric]
            table = np.where(np.isfinite(table), table, 0.0)
            key = (edge.producer, edge.consumer)
            edges[key] = edges[key] + table if key in edges else table
    return Sum(nodes, edges)


def second_sum(problem: JointProblem, limits: Mapping[str, float]) -> Sum | None:
    """What decides among choices of equal loss; None where a single limited sum does."""
    additive = [metric for metric in problem.metrics if not problem.is_maximum(metric)]
    finite = {m: limits[m] for m in additive if 0 < limits.get(m, math.inf) < math.inf}
    if len(finite) == 1:
        return None
    sums = {metric: sum_of(problem, metric) for metric in finite or additive}
    weights = {metric: finite.get(metric, 0.0) or _largest(sums[metric]) for metric in sums}
    nodes: dict[int, Array] = {}
    edges: dict[tuple[int, int], Array] = {}
    for metric, terms in sums.items():
        if weights[metric]:
            for v, values in terms.nodes.items():
                nodes[v] = nodes.get(v, 0.0) + values / weights[metric]
            for pair, table in terms.edges.items():
                edges[pair] = edges.get(pair, 0.0) + table / weights[metric]
    return Sum(nodes, edges)


def _largest(terms: Sum) -> float:
    return math.fsum(float(values.max()) for _, values in terms.tables())


def _excluding_edges(problem: JointProblem) -> list[Excluded]:
    found = []
    for edge in problem.edges:
        infinite = np.zeros((len(problem.options[edge.producer]), len(problem.options[edge.consumer])), bool)
        for table in edge.metrics.values():
            infinite |= np.isinf(table)
        if infinite.any():
            found.append(Excluded((edge.producer, edge.consumer), infinite))
    return found


def _untied(problem: JointProblem) -> list[Excluded]:
    """Pairs of tied nodes with different widths; each tie is a chain in the order of the nodes."""
    found = []
    for tie in problem.ties:
        members = sorted({problem.position[name] for name in tie})
        for u, v in itertools.pairwise(members):
            found.append(
                Excluded(
                    (u, v), np.asarray([[a.widths != b.widths for b in problem.options[v]] for a in problem.options[u]])
                )
            )
    return found


def _limit_load(
    problem: JointProblem, load: Load, most: Limited, limited: list[Limited], excluded: list[Excluded], tables: bool
) -> None:
    """A load of few nodes as a table of what is allowed, others as a limited sum; nothing where it cannot bind."""
    if load.constant + _largest(most.sum) * (1 + ROUNDING) <= most.limit:
        return
    if not (tables and problem.is_small(load)):
        limited.append(most)
        return
    nodes, total = problem.table_of(load)
    beyond = total > most.limit
    for index in np.argwhere(np.abs(total - most.limit) <= ROUNDING * most.limit):  # the correctly rounded sum decides
        picks = dict(zip(nodes, map(int, index), strict=True))
        terms = [float(table[tuple(picks[v] for v in where)]) for where, table in most.sum.tables()]
        beyond[tuple(index)] = math.fsum([load.constant, *terms]) > most.limit
    excluded.append(Excluded(nodes, beyond))
