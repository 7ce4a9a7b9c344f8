"""A graph of nodes unrolled into steps: after each, a state says what the nodes that still matter took.

Nodes are decided one after the other. Those that have an undecided neighbour are the frontier, and their options the
state; a chain has a frontier of one node, a residual block of two. A sum over nodes and edges becomes a sum over the
arcs of a path through the states, so shortest paths, completion bounds and labels are all found in one sweep.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from codesign.solver.pairwise import Array

WIDE_STEP = 5_000
"""Arcs of one step beyond which another order is tried."""
LARGEST_STEP = 400_000
"""Arcs of one step beyond which a graph has no trellis."""
Number = TypeVar("Number", np.float64, np.int64)


@dataclass(frozen=True)
class Step:
    """One node is decided.

    Attributes:
        node: Which.
        before: The frontier before it, in the order of decision.
        after: The frontier after it.
        shape: Options of `before` and of the node: one axis each.
        following: Position of the state after each arc, `[states before, options]`.
    """

    node: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    shape: tuple[int, ...]
    following: NDArray[np.int64]

    @property
    def arcs(self) -> tuple[int, int]:
        """States before, and options of the node."""
        return self.following.shape[0], self.following.shape[1]

    @property
    def closed(self) -> tuple[int, ...]:
        """Axes of `shape` that do not matter afterwards."""
        return tuple(axis for axis, v in enumerate((*self.before, self.node)) if v not in self.after)

    def shortest(self, lengths: Array) -> Array:
        """Length of the shortest path to each state after the step.

        Args:
            lengths: Of paths that end with an arc, `[states before, options]`.

        Returns:
            `[states after]`.
        """
        return lengths.reshape(self.shape).min(axis=self.closed).ravel() if self.closed else lengths.ravel()


@dataclass(frozen=True)
class Trellis:
    """All steps.

    Attributes:
        steps: One a node, in the order of decision.
    """

    steps: tuple[Step, ...]

    def arcs_of(
        self, tables: Iterable[tuple[tuple[int, ...], NDArray[Number]]], kind: type[Number], most: float = np.inf
    ) -> list[NDArray[Number]]:
        """Spreads a sum over the arcs.

        Args:
            tables: Nodes, all of them neighbours of one another, and terms for their options.
            kind: Type of the numbers.
            most: Where a sum of terms is cut off.

        Returns:
            For each step what its arcs add, `[states before, options]`.
        """
        at = {item.node: i for i, item in enumerate(self.steps)}
        found = [np.zeros(item.shape, kind) for item in self.steps]
        for nodes, table in tables:
            last = max(at[v] for v in nodes)
            step: Step = self.steps[last]
            axes = [(*step.before, step.node).index(v) for v in nodes]
            ordered = table.transpose(np.argsort(axes))
            where = [size if axis in axes else 1 for axis, size in enumerate(step.shape)]
            target = found[last]
            target += ordered.reshape(where)
            if most < np.inf:
                np.minimum(target, kind(most), out=target)
        return [table.reshape(item.arcs) for table, item in zip(found, self.steps, strict=True)]

    def completions(self, arcs: Sequence[Array]) -> list[Array]:
        """Length of the shortest path from each state to the end.

        Args:
            arcs: Lengths of arcs, infinite where there are none.

        Returns:
            For each step `[states before]`, and 0 for the end.
        """
        found = [np.zeros(1)]
        for step, lengths in zip(reversed(self.steps), reversed(arcs), strict=True):
            found.append((lengths + found[-1][step.following]).min(axis=1))
        return found[::-1]

    def arrivals(self, arcs: Sequence[Array]) -> list[Array]:
        """Length of the shortest path from the start to each state.

        Args:
            arcs: Lengths of arcs, infinite where there are none.

        Returns:
            0 for the start, and for each step `[states after]`.
        """
        found = [np.zeros(1)]
        for step, lengths in zip(self.steps, arcs, strict=True):
            found.append(step.shortest(found[-1][:, None] + lengths))
        return found

    def shortest_path(self, arcs: Sequence[Array], completions: Sequence[Array]) -> tuple[int, ...]:
        """The options along a shortest path; the first of equals at each step.

        Args:
            arcs: Lengths of arcs.
            completions: What `completions` returned for them.

        Returns:
            Position of the option of each node.
        """
        state, options = 0, []
        for step, lengths, left in zip(self.steps, arcs, completions[1:], strict=True):
            option = int(np.argmin(lengths[state] + left[step.following[state]]))
            options.append(option)
            state = int(step.following[state, option])
        return self.picks(options)

    def picks(self, options: Sequence[int]) -> tuple[int, ...]:
        """Puts options in the order of the nodes.

        Args:
            options: One a step.

        Returns:
            One a node.
        """
        found = [0] * len(self.steps)
        for step, option in zip(self.steps, options, strict=True):
            found[step.node] = option
        return tuple(found)


def trellis(sizes: Sequence[int], cliques: Iterable[tuple[int, ...]]) -> Trellis | None:
    """Unrolls a graph in its own order or, where that has wide steps, with the smallest frontier at each step.

    Args:
        sizes: How many options each node has.
        cliques: Sets of nodes that some table depends on.

    Returns:
        The trellis; None if a step would have more than `LARGEST_STEP` arcs.
    """
    neighbours: list[set[int]] = [set() for _ in sizes]
    for nodes in cliques:
        for v in nodes:
            neighbours[v] |= set(nodes) - {v}
    best = _frontiers(range(len(sizes)), neighbours)
    if _most_arcs(best, sizes) > WIDE_STEP:
        best = min(
            best, _frontiers(_narrow_order(sizes, neighbours), neighbours), key=lambda found: _most_arcs(found, sizes)
        )
    if _most_arcs(best, sizes) > LARGEST_STEP:
        return None
    return Trellis(tuple(_step(node, before, after, sizes) for node, before, after in best))


_Frontiers = list[tuple[int, tuple[int, ...], tuple[int, ...]]]


def _frontiers(order: Iterable[int], neighbours: Sequence[set[int]]) -> _Frontiers:
    """Node, frontier before and frontier after, by step."""
    decided: set[int] = set()
    frontier: tuple[int, ...] = ()
    found = []
    for node in order:
        decided.add(node)
        after = tuple(v for v in (*frontier, node) if not neighbours[v] <= decided)
        found.append((node, frontier, after))
        frontier = after
    return found


def _narrow_order(sizes: Sequence[int], neighbours: Sequence[set[int]]) -> list[int]:
    """The node that leaves the fewest states next; the first of equals."""
    left, decided, frontier, order = set(range(len(sizes))), set[int](), tuple[int, ...](), list[int]()

    def frontier_with(node: int) -> tuple[int, ...]:
        return tuple(v for v in (*frontier, node) if not neighbours[v] <= decided | {node})

    while left:
        near = {v for u in frontier for v in neighbours[u]} & left or left
        node = min(near, key=lambda v: (math.prod(sizes[u] for u in frontier_with(v)), v))
        frontier = frontier_with(node)
        decided.add(node)
        left.remove(node)
        order.append(node)
    return order


def _most_arcs(frontiers: _Frontiers, sizes: Sequence[int]) -> int:
    return max(math.prod(sizes[v] for v in (*before, node)) for node, before, _ in frontiers)


def _step(node: int, before: tuple[int, ...], after: tuple[int, ...], sizes: Sequence[int]) -> Step:
    shape = tuple(sizes[v] for v in (*before, node))
    kept = [axis for axis, v in enumerate((*before, node)) if v in after]
    index = np.arange(math.prod(shape[axis] for axis in kept))
    spread = index.reshape([size if axis in kept else 1 for axis, size in enumerate(shape)])
    following = np.broadcast_to(spread, shape).reshape(-1, sizes[node])
    return Step(node, before, after, shape, np.ascontiguousarray(following, dtype=np.int64))
