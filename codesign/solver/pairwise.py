"""One option for every node, so that the sum of prices of nodes and of edges between them is least."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairwiseProblem:
    """Minimise `sum_v nodes[v][s_v] + sum_(u,v) edges[u,v][s_u, s_v]`; infinite prices forbid.

    Attributes:
        nodes: Price of each option of each node; at least one node and one option each.
        edges: `[options of u, options of v]` by pair `u < v`.
    """

    nodes: tuple[Array, ...]
    edges: Mapping[tuple[int, int], Array]

    def value(self, picks: Sequence[int]) -> float:
        """The sum for a choice, correctly rounded.

        Args:
            picks: Position of the option of each node.

        Returns:
            The sum.
        """
        own = [float(prices[pick]) for prices, pick in zip(self.nodes, picks, strict=True)]
        shared = [float(table[picks[u], picks[v]]) for (u, v), table in self.edges.items()]
        return math.fsum([*own, *shared]) if math.inf not in (*own, *shared) else math.inf


@dataclass(frozen=True)
class PairwiseSolution:
    """A choice.

    Attributes:
        picks: Position of the option of each node.
        value: The sum.
        gap: Value less the proven bound; 0 for an optimum.
        method: `elimination` (dynamic programming) or `integer-programme`.
    """

    picks: tuple[int, ...]
    value: float
    gap: float
    method: Literal["elimination", "integer-programme"]


def pairwise_problem(nodes: Sequence[Array], edges: Sequence[tuple[int, int, Array]]) -> PairwiseProblem:
    """A problem from edges that may repeat, or stand in either order.

    Args:
        nodes: Price of each option of each node.
        edges: Two different nodes and the prices `[options of the first, options of the second]`.

    Returns:
        The problem, prices of edges between the same nodes added up.
    """
    found: dict[tuple[int, int], Array] = {}
    for u, v, prices in edges:
        key, table = ((u, v), prices) if u < v else ((v, u), prices.T)
        found[key] = found[key] + table if key in found else table
    return PairwiseProblem(tuple(nodes), found)
