"""Small joint problems for tests, and all of their choices by enumeration."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from codesign.quantization.scheme import Widths
from codesign.search.joint_problem import Array, JointEdge, JointOption, JointProblem, Load
from codesign.search.problem import PEAK_METRICS

Numbers = Literal["whole", "tenths", "real"]
"""`whole`: 0 to 6, so that many sums are equal. `tenths`: 0.1, 0.2, 0.3 and 0.7, so that sums differ in the last digit.
`real`: uniform."""
Shape = Literal["chain", "residual", "dense", "loose"]
"""How nodes are joined: each with the next; also with the third; all with all; not at all."""
METRICS = ("latency_s", "energy_j", "peak_memory_bytes")


@dataclass(frozen=True)
class ProblemKind:
    """What a random problem is like.

    Attributes:
        nodes: How many.
        widths: Different widths of a node, at most.
        places: Different places of a node, at most.
        shape: How nodes are joined.
        numbers: What prices are.
        ties: Whether some nodes are tied.
        excludes: Whether some pairs of options exclude each other.
        loads: Whether there are maxima of sums: `period_s`, and `peak_memory_bytes` by step.
    """

    nodes: int
    widths: int
    places: int
    shape: Shape
    numbers: Numbers
    ties: bool = False
    excludes: bool = False
    loads: bool = False


def random_problem(kind: ProblemKind, seed: int) -> JointProblem:
    """A random problem.

    Args:
        kind: What it is like.
        seed: Of its numbers.

    Returns:
        The problem; it may be that no choice of it is allowed.
    """
    rng = np.random.default_rng(seed)
    options = tuple(_options(kind, rng) for _ in range(kind.nodes))
    edges = tuple(JointEdge(u, v, _tables(kind, rng, (len(options[u]), len(options[v])))) for u, v in _pairs(kind))
    names = tuple(f"n{v}" for v in range(kind.nodes))
    ties = ((names[0], names[-1]),) if kind.ties and kind.nodes > 1 else ()
    constant = {"latency_s": float(_draw(kind, rng, ())), "peak_memory_bytes": float(_draw(kind, rng, ()))}
    loads = (*_busy(options, edges), *_held(kind, rng, options)) if kind.loads else ()
    return JointProblem(names, options, edges, constant, ties, loads)


def all_choices(problem: JointProblem) -> dict[tuple[int, ...], tuple[float, Mapping[str, float]]]:
    """Every choice that is allowed, its loss and its totals.

    Args:
        problem: A small problem.

    Returns:
        Loss and totals by picks.
    """
    found: dict[tuple[int, ...], tuple[float, Mapping[str, float]]] = {}
    for picks in product(*(range(len(offered)) for offered in problem.options)):
        totals = problem.totals_of(picks)
        if problem.respects_ties(picks) and math.inf not in totals.values():
            found[picks] = (problem.loss_of(picks), totals)
    return found


def near_best(problem: JointProblem, metric: str) -> dict[tuple[int, ...], tuple[float, Mapping[str, float]]]:
    """Enumerates all choices at once, and keeps those that no other beats in (metric, loss) by more than rounding.

    Args:
        problem: One of up to some hundred thousand choices.
        metric: The metric.

    Returns:
        Exact loss and totals by picks.
    """
    picks = np.stack(np.meshgrid(*(np.arange(len(offered)) for offered in problem.options), indexing="ij"), -1)
    picks = picks.reshape(-1, len(problem.names))
    loss, cost = np.zeros((2, len(picks)))
    for v, offered in enumerate(problem.options):
        loss += np.asarray([o.loss_increase_nats for o in offered])[picks[:, v]]
        own = np.asarray([o.metrics.get(metric, 0.0) for o in offered])[picks[:, v]]
        cost = np.maximum(cost, own) if problem.is_maximum(metric) else cost + own
    for edge in problem.edges:
        if metric in edge.metrics:
            cost += edge.metrics[metric][picks[:, edge.producer], picks[:, edge.consumer]]
    for load in problem.loads:
        if metric in load.metrics:
            amount = np.full(len(picks), load.constant)
            for v, values in load.nodes.items():
                amount += values[picks[:, v]]
            for (u, v), table in load.edges.items():
                amount += table[picks[:, u], picks[:, v]]
            cost = np.maximum(cost, amount)
    order = np.lexsort((loss, cost))
    least = np.minimum.accumulate(loss[order])
    is_exact = (cost == np.rint(cost)).all()  # whole bytes add up without error
    before = np.searchsorted(cost[order], cost if is_exact else cost * (1 - 1e-12), "right") - 1  # the last cheaper one
    beaten = (before >= 0) & (least[np.maximum(before, 0)] < loss - 1e-12 * np.abs(loss).max())
    kept = (tuple(map(int, row)) for row in picks[~beaten])
    return {row: (problem.loss_of(row), problem.totals_of(row)) for row in kept}


def best_points(choices: Iterable[tuple[float, Mapping[str, float]]], metric: str) -> list[tuple[float, float]]:
    """The front of (metric, loss) by comparison of all choices.

    Args:
        choices: Loss and totals of each.
        metric: The metric.

    Returns:
        Points, from the cheapest to the best.
    """
    points = sorted({(totals[metric], loss) for loss, totals in choices})
    kept: list[tuple[float, float]] = []
    for point in points:
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def _draw(kind: ProblemKind, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    match kind.numbers:
        case "whole":
            return rng.integers(0, 7, shape).astype(np.float64)
        case "tenths":
            return rng.choice(np.asarray([0.1, 0.2, 0.3, 0.7]), shape)
        case "real":
            return rng.random(shape)


def _options(kind: ProblemKind, rng: np.random.Generator) -> tuple[JointOption, ...]:
    drawn = rng.choice(np.asarray([2, 4, 8]), rng.integers(1, kind.widths + 1), replace=False)
    widths = sorted({8, *map(int, drawn)}, reverse=True)[: kind.widths]
    places = [f"d{i}" for i in range(rng.integers(1, kind.places + 1))]
    found = []
    for bits in widths:
        loss = float(_draw(kind, rng, ())) - float(rng.integers(0, 2))
        for place in places:
            metrics = {metric: float(_draw(kind, rng, ())) for metric in METRICS}
            found.append(JointOption(Widths(bits, 8), place, loss, metrics))
    return tuple(found)


def _pairs(kind: ProblemKind) -> list[tuple[int, int]]:
    steps = {"chain": (1,), "residual": (1, 3), "dense": tuple(range(1, kind.nodes)), "loose": ()}[kind.shape]
    return [(v - step, v) for step in steps for v in range(step, kind.nodes)]


def _tables(kind: ProblemKind, rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Array]:
    tables = {"latency_s": _draw(kind, rng, shape), "energy_j": _draw(kind, rng, shape)}
    if kind.excludes:
        tables["latency_s"][rng.random(shape) < 0.2] = np.inf
    return tables


def _busy(options: tuple[tuple[JointOption, ...], ...], edges: tuple[JointEdge, ...]) -> list[Load]:
    """Seconds of each place, and of what joins them."""
    found = []
    for place in sorted({option.place for offered in options for option in offered}):
        nodes = {
            v: np.asarray([o.metrics["latency_s"] * (o.place == place) for o in offered])
            for v, offered in enumerate(options)
        }
        found.append(Load(("period_s",), place, nodes))
    tables = {(e.producer, e.consumer): np.where(np.isfinite(t := e.metrics["latency_s"]), t, 0.0) for e in edges}
    return [*found, Load(("period_s",), "link", {}, tables)] if tables else found


def _held(kind: ProblemKind, rng: np.random.Generator, options: tuple[tuple[JointOption, ...], ...]) -> list[Load]:
    """Bytes by step: each node's own and its two neighbours'."""
    (metric,) = PEAK_METRICS
    return [
        Load(
            (metric,),
            f"step {v}",
            {u: _draw(kind, rng, (len(options[u]),)) for u in range(max(0, v - 2), v + 1)},
            {(v - 1, v): _draw(kind, rng, (len(options[v - 1]), len(options[v])))} if v else {},
            float(_draw(kind, rng, ())),
        )
        for v in range(kind.nodes)
    ]
