"""From one layout to another by the cheapest sequence of collectives, forward and backward together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from codesign.partition.collectives import IDEAL, Collective, Traffic, messages, share, traffic
from codesign.partition.mesh import Mesh
from codesign.partition.objective import Objective
from codesign.partition.placement import (
    COPIES,
    PARTS,
    WHOLE,
    Holding,
    Layout,
    Run,
    Shard,
    layout,
    split,
)

STEP = 1e-13
"""Price of a step beside its time, so that of ways that take as long the one with the fewest steps is taken."""
Pair = tuple[Collective | None, Collective | None]
"""What a change of holding takes forward and backward; None where a device only cuts out its piece, or does nothing."""


_FROM_PIECES: dict[Holding, Pair] = {WHOLE: ("all-gather", None), COPIES: ("all-gather", "reduce-scatter")}
_TO_PIECES: dict[Holding, Pair] = {WHOLE: (None, "all-gather"), PARTS: ("reduce-scatter", "all-gather")}
_AMONG_WHOLES: dict[tuple[Holding, Holding], Pair] = {
    (PARTS, WHOLE): ("all-reduce", None),
    (WHOLE, COPIES): (None, "all-reduce"),
}


def collectives_of(before: Holding, after: Holding) -> Pair | None:
    """What it takes to change the holding of a value on one digit of the devices' numbers.

    Args:
        before: Holding at the producer's side.
        after: Holding at the consumer's side.

    Returns:
        Collectives forward and backward; None if it takes several steps or cannot be.
    """
    match before.value, after.value:
        case Shard(i), Shard(j):
            return ("all-to-all", "all-to-all") if i != j else None
        case _, Shard():
            return _TO_PIECES.get(before)
        case Shard(), _:
            return _FROM_PIECES.get(after)
        case _:
            return _AMONG_WHOLES.get((before, after))


@dataclass(frozen=True)
class Move:
    """One step from a layout to another.

    Attributes:
        before: The layout that it starts from.
        after: The layout that it ends in.
        stride: Distance between devices that take part together.
        parts: How many do.
        old: Their holding before.
        new: Their holding after.
    """

    before: Layout
    after: Layout
    stride: int
    parts: int
    old: Holding
    new: Holding

    @property
    def collectives(self) -> Pair:
        """What it takes forward and backward."""
        found = collectives_of(self.old, self.new)
        assert found is not None
        return found

    @property
    def share(self) -> float:
        """The part of the whole value that the collectives work on: the larger of a device's shares."""
        return 1 / min(self.before.pieces, self.after.pieces)

    def traffic(self, mesh: Mesh, size_bytes: float, training: bool) -> Traffic:
        """What it takes.

        Args:
            mesh: The devices.
            size_bytes: Of the whole value.
            training: Whether the gradient comes back.

        Returns:
            Time, bytes and energy.
        """
        kinds = self.collectives if training else self.collectives[:1]
        link, total = mesh.link(self.stride, self.parts), Traffic()
        for kind in kinds:
            if kind is not None:
                total += traffic(kind, self.parts, size_bytes * self.share, link, IDEAL)
        return total


class LayoutSpace:
    """All layouts of values of one rank on a mesh, and the moves between them.

    Args:
        mesh: The devices.
        rank: Axes of the values.
        training: Whether gradients come back.
        objective: What a path shall have least of.
        idle: Whether axes other than the batch may have fewer indices than pieces.

    Attributes:
        layouts: All of them.
        index: Position by layout.
        moves: Every single step.
    """

    def __init__(self, mesh: Mesh, rank: int, training: bool, objective: Objective, idle: bool) -> None:
        self.mesh = mesh
        self.idle = idle
        self.training = training
        self.objective = objective
        holdings = [*(split(axis) for axis in range(rank)), WHOLE, PARTS, *([COPIES] if training else [])]
        found = {
            layout([Run(parts, holding) for parts, holding in zip(grid, combination, strict=True)])
            for grid in mesh.grids
            for combination in product(holdings, repeat=len(grid))
        }
        self.layouts = tuple(sorted(found, key=str))
        self.index = {item: i for i, item in enumerate(self.layouts)}
        self.moves = tuple(
            move for item in self.layouts for move in _moves(item, holdings, mesh) if move.after in self.index
        )
        self._tables: dict[tuple[tuple[int, ...], float], ReshardingTable] = {}

    def table(self, shape: Sequence[int], element_bytes: float) -> "ReshardingTable":
        """Prices of all changes of layout of a value.

        Args:
            shape: Of the value, with the batch.
            element_bytes: Bytes of one number.

        Returns:
            The table.
        """
        key = (tuple(shape), element_bytes)
        if key not in self._tables:
            self._tables[key] = ReshardingTable(self, key[0], element_bytes)
        return self._tables[key]

    @cached_property
    def ends(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Positions of the layouts before and after each move."""
        before = np.asarray([self.index[move.before] for move in self.moves], np.int32)
        return before, np.asarray([self.index[move.after] for move in self.moves], np.int32)

    @cached_property
    def prices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fixed price of each move, and its price for each byte of the whole value."""
        fixed, by_byte = np.full(len(self.moves), STEP), np.zeros(len(self.moves))
        for i, move in enumerate(self.moves):
            link = self.mesh.link(move.stride, move.parts)
            second, joule = self.objective.per_second, self.objective.per_joule
            for kind in move.collectives[: 2 if self.training else 1]:
                if kind is not None:
                    fixed[i] += second * messages(kind, move.parts) * link.latency_s
                    moved = share(kind, move.parts) * move.share
                    by_byte[i] += moved * (second / link.bandwidth_bytes_per_s + joule * link.energy_j_per_byte)
        return fixed, by_byte


class ReshardingTable:
    """Least prices between all layouts of one value.

    Args:
        space: The layouts.
        shape: Of the value.
        element_bytes: Bytes of one number.

    Attributes:
        prices: `[layouts, layouts]`, from the producer's side to the consumer's; infinite where there is no way.
    """

    def __init__(self, space: LayoutSpace, shape: tuple[int, ...], element_bytes: float) -> None:
        self.space = space
        self.size_bytes = float(np.prod(shape)) * element_bytes
        fixed, by_byte = space.prices
        before, after = space.ends
        fits = np.asarray([_fits(item, shape, space.idle) for item in space.layouts])
        used = fits[before] & fits[after]
        weights = fixed[used] + by_byte[used] * self.size_bytes
        count = len(space.layouts)
        graph = csr_array((weights, (before[used], after[used])), shape=(count, count))
        self.prices, self._previous = dijkstra(graph, return_predecessors=True)

    def price(self, before: Layout, after: Layout) -> float:
        """The least price of a change.

        Args:
            before: At the producer's side.
            after: At the consumer's side.

        Returns:
            The price.
        """
        return float(self.prices[self.space.index[before], self.space.index[after]])

    def path(self, before: Layout, after: Layout) -> tuple[Layout, ...]:
        """The layouts on the cheapest way.

        Args:
            before: At the producer's side.
            after: At the consumer's side.

        Returns:
            From `before` to `after`, both included.
        """
        start, end = self.space.index[before], self.space.index[after]
        found = [end]
        while found[-1] != start:
            step = int(self._previous[start, found[-1]])
            assert step >= 0, f"no way from {before} to {after}"
            found.append(step)
        return tuple(self.space.layouts[i] for i in reversed(found))

    def traffic(self, before: Layout, after: Layout) -> Traffic:
        """What the cheapest way takes.

        Args:
            before: At the producer's side.
            after: At the consumer's side.

        Returns:
            Time, bytes and energy.
        """
        total = Traffic()
        for move in moves_along(self.path(before, after)):
            total += move.traffic(self.space.mesh, self.size_bytes, self.space.training)
        return total


def _fits(item: Layout, shape: Sequence[int], idle: bool) -> bool:
    if idle and shape:
        shape = (shape[0], *(max(size, item.devices) for size in shape[1:]))
    return item.fits(shape)


def moves_along(path: Sequence[Layout]) -> tuple[Move, ...]:
    """The moves between layouts that follow one another.

    Args:
        path: Layouts.

    Returns:
        One move fewer than layouts.

    Raises:
        ValueError: Two layouts are not one move apart.
    """
    found = []
    for before, after in pairwise(path):
        move = move_between(before, after)
        if move is None:
            raise ValueError(f"from {before} to {after} is not one step")
        found.append(move)
    return tuple(found)


def move_between(before: Layout, after: Layout) -> Move | None:
    """The single move from one layout to another.

    Args:
        before: A layout.
        after: Another one of as many devices.

    Returns:
        The move; None if it takes more than one, or none.
    """
    strides = sorted({*_ends(before), *_ends(after)})
    for move in _moves_at(before, sorted({run.holding for run in after.runs}, key=str), strides):
        if move.after == after:
            return move
    return None


def _ends(item: Layout) -> Iterator[int]:
    stride = 1
    yield stride
    for run in reversed(item.runs):
        stride *= run.parts
        yield stride


def _moves(item: Layout, holdings: Sequence[Holding], mesh: Mesh) -> Iterator[Move]:
    return _moves_at(item, holdings, mesh.strides)


def _moves_at(item: Layout, holdings: Sequence[Holding], strides: Sequence[int]) -> Iterator[Move]:
    """All single steps from a layout that change a digit between two of the strides."""
    high = item.devices
    for position, run in enumerate(item.runs):
        low = high // run.parts
        minor = {r.holding for r in item.runs[position + 1 :]}
        for begin in strides:
            for end in strides:
                if not low <= begin < end <= high or begin % low or end % begin or high % end:
                    continue
                if isinstance(run.holding.value, Shard) and (run.holding in minor or begin > low):
                    continue  # pieces that lie side by side would be torn apart
                for new in holdings:
                    if new in minor and isinstance(new.value, Shard):
                        continue
                    if collectives_of(run.holding, new) is None:
                        continue
                    middle = [Run(high // end, run.holding), Run(end // begin, new), Run(begin // low, run.holding)]
                    after = layout([*item.runs[:position], *middle, *item.runs[position + 1 :]])
                    yield Move(item, after, begin, end // begin, run.holding, new)
        high = low
