"""Dynamic programming over a graph: nodes are eliminated one after the other (Bertele, Brioschi 1972).

On a chain this is the usual recursion; a graph that is series-parallel never needs tables of more than two nodes. The
next node is always the one whose elimination leaves the smallest table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.solver.pairwise import Array, PairwiseProblem, PairwiseSolution

LARGEST_TABLE = 20_000_000
"""Entries of a table beyond which the integer programme is asked instead."""


@dataclass(frozen=True)
class _Table:
    """Prices that depend on several nodes; one axis a node."""

    nodes: tuple[int, ...]
    prices: Array


@dataclass(frozen=True)
class _Step:
    """The best option of an eliminated node, by the options of its neighbours."""

    node: int
    neighbours: tuple[int, ...]
    best: NDArray[np.int32]


def eliminate(problem: PairwiseProblem) -> PairwiseSolution | None:
    """Finds the optimum.

    Args:
        problem: Prices.

    Returns:
        The optimum, of infinite value if nothing is allowed; the first of equals by position. None if some table would
        have more than `LARGEST_TABLE` entries.
    """
    tables = [_Table((v,), prices) for v, prices in enumerate(problem.nodes)]
    tables += [_Table(pair, prices) for pair, prices in problem.edges.items()]
    sizes = [len(prices) for prices in problem.nodes]
    left = set(range(len(sizes)))
    steps: list[_Step] = []
    while left:
        neighbours = {v: _neighbours(v, tables) for v in left}
        entries = {v: float(np.prod([float(sizes[u]) for u in neighbours[v]])) for v in left}
        node = min(left, key=lambda v: (entries[v], v))
        if entries[node] > LARGEST_TABLE:
            return None
        mine = [table for table in tables if node in table.nodes]
        tables = [table for table in tables if node not in table.nodes]
        left.remove(node)
        steps.append(_join(node, neighbours[node], mine, sizes, tables))
    picks: dict[int, int] = {}
    for step in reversed(steps):
        picks[step.node] = int(step.best[tuple(picks[u] for u in step.neighbours)])
    chosen = tuple(picks[v] for v in range(len(sizes)))
    return PairwiseSolution(chosen, problem.value(chosen), 0.0, "elimination")


def _neighbours(node: int, tables: Sequence[_Table]) -> tuple[int, ...]:
    return tuple(sorted({u for table in tables if node in table.nodes for u in table.nodes} - {node}))


def _join(
    node: int, neighbours: tuple[int, ...], mine: Sequence[_Table], sizes: Sequence[int], tables: list[_Table]
) -> _Step:
    """Adds the table that is left of a node, and says what it was made from."""
    shape = tuple(sizes[u] for u in neighbours)
    least = np.full(shape, np.inf)
    best = np.zeros(shape, np.int32)
    for option in range(sizes[node]):
        total = np.zeros(shape)
        for table in mine:
            cut = np.take(table.prices, option, table.nodes.index(node))
            others = [u for u in table.nodes if u != node]
            total += cut.transpose(np.argsort(others)).reshape([sizes[u] if u in others else 1 for u in neighbours])
        better = total < least
        best[better] = option
        np.minimum(least, total, out=least)
    if neighbours:
        tables.append(_Table(neighbours, least))
    return _Step(node, neighbours, best)
