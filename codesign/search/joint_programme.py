"""A joint problem as sums, limits and excluded combinations for the solvers."""

import math
from collections.abc import Mapping

import numpy as np

from codesign.search.joint_problem import Array, JointProblem, Load
from codesign.search.problem import PEAK_METRICS
from codesign.solver.constrained import ConstrainedProblem, Excluded, Limited, Sum

SMALL_TABLE = 20_000
"""Entries up to which a limited load that few nodes share becomes a table of excluded combinations."""
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
        if metric in problem.options[0][0].metrics and metric in PEAK_METRICS:
            for v, offered in enumerate(problem.options):
                excluded.append(Excluded((v,), np.asarray([o.metrics[metric] for o in offered]) > limit))
        elif not problem.is_maximum(metric):
            limited.append(Limited(sum_of(problem, metric), limit, problem.constant.get(metric, 0.0), metric))
        for load in problem.loads:
            if load.metric == metric:
                _limit_load(problem, load, limit, limited, excluded, tables)
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
        for u, v in zip(members[:-1], members[1:], strict=True):
            found.append(
                Excluded(
                    (u, v), np.asarray([[a.widths != b.widths for b in problem.options[v]] for a in problem.options[u]])
                )
            )
    return found


def _limit_load(
    problem: JointProblem, load: Load, limit: float, limited: list[Limited], excluded: list[Excluded], tables: bool
) -> None:
    """A load of few nodes as a table of what is allowed, others as a limited sum; nothing where it cannot bind."""
    terms = Sum(load.nodes, load.edges)
    if load.constant + _largest(terms) * (1 + 1e-12) <= limit:
        return
    nodes = tuple(sorted({*load.nodes, *(v for pair in load.edges for v in pair)}))
    sizes = [len(problem.options[v]) for v in nodes]
    if not (tables and nodes and math.prod(sizes) <= SMALL_TABLE):
        limited.append(Limited(terms, limit, load.constant, load.metric))
        return
    total = np.zeros(sizes)
    for index in np.ndindex(*sizes):
        picks = dict(zip(nodes, index, strict=True))
        own = [float(values[picks[v]]) for v, values in load.nodes.items()]
        shared = [float(table[picks[u], picks[v]]) for (u, v), table in load.edges.items()]
        total[index] = math.fsum([load.constant, *own, *shared])
    excluded.append(Excluded(nodes, total > limit))
