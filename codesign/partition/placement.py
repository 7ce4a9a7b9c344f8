"""How a value lies on the devices: split, whole or as parts of a sum; and how its gradient does.

Devices are numbered from 0. Their numbers are read as digits, the most significant first: a layout gives each digit one
holding, and neighbouring digits with the same holding count as one. A tensor axis that several digits split is split by
the number that these digits spell, in balanced pieces: piece `i` of `p` of an axis of size `n` is `[i n // p, (i+1) n
// p)`. So a split over 4 x 2 devices is the split over 8, and the union of neighbouring pieces is one piece.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Shard:
    """Each device holds one piece.

    Attributes:
        axis: Tensor axis that is split.
    """

    axis: int


@dataclass(frozen=True, order=True)
class Replicate:
    """Each device holds all of it."""


@dataclass(frozen=True, order=True)
class PartialSum:
    """The value is the sum of what the devices hold."""


Placement = Shard | Replicate | PartialSum


@dataclass(frozen=True)
class Holding:
    """Placements of a value and of its gradient.

    Sums and copies are dual: an operator that reads whole copies on devices which each do a part of its work leaves
    parts of the gradient's sum; the gradient of a value held in parts is the same on all devices.

    Attributes:
        value: Of the value.
        gradient: Of its gradient.
    """

    value: Placement
    gradient: Placement

    def __str__(self) -> str:
        match self.value:
            case Shard(axis):
                return f"S{axis}"
            case PartialSum():
                return "P"
            case Replicate():
                return "R" if self.gradient == Replicate() else "C"


WHOLE = Holding(Replicate(), Replicate())
"""The value and its gradient are whole everywhere (`R`)."""
PARTS = Holding(PartialSum(), Replicate())
"""The value is a sum of parts, its gradient whole everywhere (`P`)."""
COPIES = Holding(Replicate(), PartialSum())
"""The value is whole everywhere, its gradient a sum of parts (`C`): what devices that share the work read."""


def split(axis: int) -> Holding:
    """A value split along an axis, its gradient likewise (`S0`, `S1`, ...).

    Args:
        axis: Tensor axis.

    Returns:
        The holding.
    """
    return Holding(Shard(axis), Shard(axis))


def holding_from_text(text: str) -> Holding | None:
    """The inverse of `str(holding)`.

    Args:
        text: Such as `S0`, `R`, `P` or `C`.

    Returns:
        The holding; None if the text means none.
    """
    if text[:1] == "S" and text[1:].isdecimal() and len(text) <= 3:
        return split(int(text[1:]))
    return {"R": WHOLE, "P": PARTS, "C": COPIES}.get(text)


@dataclass(frozen=True)
class Run:
    """One digit of the devices' numbers.

    Attributes:
        parts: How many values the digit has.
        holding: What devices that differ in it hold.
    """

    parts: int
    holding: Holding


@dataclass(frozen=True)
class Layout:
    """How a value lies on all devices; made by `layout`, so that equal layouts are equal values.

    Attributes:
        runs: The most significant digit first; neighbours differ in their holdings, and none has one part only.
    """

    runs: tuple[Run, ...]

    def __str__(self) -> str:
        return " ".join(f"{run.holding}x{run.parts}" for run in self.runs) or "R"

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return math.prod(run.parts for run in self.runs)

    def parts_of(self, axis: int) -> int:
        """Into how many pieces an axis is split.

        Args:
            axis: Tensor axis.

        Returns:
            1 if it is whole.
        """
        return math.prod(run.parts for run in self.runs if run.holding.value == Shard(axis))

    @property
    def pieces(self) -> int:
        """Into how many pieces the value is split, over all axes."""
        return math.prod(run.parts for run in self.runs if isinstance(run.holding.value, Shard))

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes that are split, in ascending order."""
        return tuple(sorted({run.holding.value.axis for run in self.runs if isinstance(run.holding.value, Shard)}))

    def interval(self, axis: int, size: int, device: int) -> tuple[int, int]:
        """What a device holds of an axis.

        Args:
            axis: Tensor axis.
            size: Its size.
            device: Number of the device.

        Returns:
            First index, and the one after the last.
        """
        index, parts, stride = 0, 1, self.devices
        for run in self.runs:
            stride //= run.parts
            if run.holding.value == Shard(axis):
                index = index * run.parts + device // stride % run.parts
                parts *= run.parts
        return index * size // parts, (index + 1) * size // parts

    def local_shape(self, shape: Sequence[int], device: int) -> tuple[int, ...]:
        """Shape of what a device holds.

        Args:
            shape: Of the whole value.
            device: Number of the device.

        Returns:
            Sizes.
        """
        found = list(shape)
        for axis in self.axes:
            first, end = self.interval(axis, shape[axis], device)
            found[axis] = end - first
        return tuple(found)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether every device gets something.

        Args:
            shape: Of the whole value.

        Returns:
            True if no axis has fewer indices than pieces.
        """
        return all(axis < len(shape) and self.parts_of(axis) <= shape[axis] for axis in self.axes)


def layout(runs: Sequence[Run]) -> Layout:
    """The layout with given digits.

    Args:
        runs: The most significant digit first; any.

    Returns:
        The layout, in its only form.
    """
    merged: list[Run] = []
    for run in runs:
        if run.parts == 1:
            continue
        if merged and merged[-1].holding == run.holding:
            merged[-1] = Run(merged[-1].parts * run.parts, run.holding)
        else:
            merged.append(run)
    return Layout(tuple(merged))


def layout_from_text(text: str) -> Layout | None:
    """The inverse of `str(layout)`.

    Args:
        text: Such as `S0x4 Cx8`.

    Returns:
        The layout; None if the text means none.
    """
    if text == "R":
        return Layout(())
    runs = []
    for part in text.split(" "):
        name, _, count = part.partition("x")
        holding = holding_from_text(name)
        if holding is None or not count.isdecimal() or not 1 < int(count) < 10**9:
            return None
        runs.append(Run(int(count), holding))
    return Layout(tuple(runs)) if layout(runs).runs == tuple(runs) else None
