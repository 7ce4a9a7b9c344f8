"""What an architecture search chooses from: axes with values, and a network for every combination of them."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from codesign.errors import InputError, closest
from codesign.files import digest_of

if TYPE_CHECKING:
    from torch import nn

    from codesign.architecture.shared_weight import SharedWeight

Value = int | float | str


@dataclass(frozen=True)
class Axis:
    """One thing that can be chosen.

    Attributes:
        name: Such as `depth1`.
        values: What it can be, in the order of ascending capacity where there is one.
    """

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError(f"space: axis {self.name!r} has no values, so the space is empty; give at least one")
        if len(set(self.values)) < len(self.values):
            raise InputError(f"space: axis {self.name!r} has a value twice in {list(self.values)}; give each once")


@dataclass(frozen=True)
class Variant:
    """One member of a space.

    Attributes:
        choices: Name and value of every axis, in the order of the axes.
    """

    choices: tuple[tuple[str, Value], ...]

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.choices) or "the only variant"

    @cached_property
    def identity(self) -> str:
        """12 hexadecimal digits that follow from the choices."""
        return digest_of([list(choice) for choice in self.choices])[:12]

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Values by the names of axes."""
        return dict(self.choices)


@dataclass(frozen=True)
class StagePicture:
    """What a drawing of a variant shows of one of its parts.

    Attributes:
        label: Such as `stage 1` or `stem 3x3`.
        width: Output channels.
        blocks: Number of blocks one after the other.
        stride: Step of the first of them.
    """

    label: str
    width: int
    blocks: int
    stride: int


class ArchitectureSpace(Protocol):
    """A countable family of networks that can share weights; every combination of the axes' values is valid."""

    @property
    def name(self) -> str:
        """Name of the family, for reports."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What can be chosen; names are distinct."""

    def network(self, variant: Variant) -> "nn.Module":
        """A network with fresh weights, drawn from torch's global generator.

        Args:
            variant: Which one.

        Returns:
            The network, on the CPU. It is built often, for the structure alone.
        """

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """Shape of one input.

        Args:
            variant: Which network.

        Returns:
            With a batch of one, such as `(1, 3, 32, 32)`.
        """

    def shared_weights(self, variant: Variant) -> "Mapping[str, SharedWeight]":
        """Which part of which shared parameter each parameter is.

        Args:
            variant: Which network.

        Returns:
            By name of each parameter of `network(variant)`.
        """

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        """What a drawing shows, from input to output.

        Args:
            variant: Which network.

        Returns:
            At least one part.
        """


def variant_count(space: ArchitectureSpace) -> int:
    """How many variants a space has.

    Args:
        space: The space.

    Returns:
        The product of the axes' numbers of values.
    """
    return math.prod(len(axis.values) for axis in space.axes)


def variants(space: ArchitectureSpace) -> Iterator[Variant]:
    """All variants of a space, in an order that never changes: the last axis varies fastest.

    Args:
        space: The space.

    Yields:
        Variants; the i-th is `variant_at(space, i)`.
    """
    names = [axis.name for axis in space.axes]
    for values in itertools.product(*(axis.values for axis in space.axes)):
        yield Variant(tuple(zip(names, values, strict=True)))


def variant_at(space: ArchitectureSpace, index: int) -> Variant:
    """One variant by its place in the order of `variants`.

    Args:
        space: The space.
        index: From 0.

    Returns:
        The variant.

    Raises:
        InputError: The space has no such place.
    """
    count = variant_count(space)
    if not 0 <= index < count:
        raise InputError(f"space {space.name!r}: got variant {index}, allowed are 0 to {count - 1}")
    choices: list[tuple[str, Value]] = []
    for axis in reversed(space.axes):
        index, place = divmod(index, len(axis.values))
        choices.append((axis.name, axis.values[place]))
    return Variant(tuple(reversed(choices)))


def largest(space: ArchitectureSpace) -> Variant:
    """The variant with the last value of every axis.

    Args:
        space: The space.

    Returns:
        The variant.
    """
    return Variant(tuple((axis.name, axis.values[-1]) for axis in space.axes))


def smallest(space: ArchitectureSpace) -> Variant:
    """The variant with the first value of every axis.

    Args:
        space: The space.

    Returns:
        The variant.
    """
    return Variant(tuple((axis.name, axis.values[0]) for axis in space.axes))


def variant_of(space: ArchitectureSpace, values: Mapping[str, Value]) -> Variant:
    """The variant with given values.

    Args:
        space: The space.
        values: One for each axis, by name.

    Returns:
        The variant.

    Raises:
        InputError: An axis is unknown or missing, or does not have the value.
    """
    names = [axis.name for axis in space.axes]
    for name in values:
        if name not in names:
            raise InputError(f"space {space.name!r}: unknown axis {name!r}{closest(name, names)}")
    choices: list[tuple[str, Value]] = []
    for axis in space.axes:
        if axis.name not in values:
            raise InputError(f"space {space.name!r}: axis {axis.name!r} has no value; choose from {list(axis.values)}")
        value = values[axis.name]
        if value not in axis.values:
            raise InputError(
                f"space {space.name!r}: axis {axis.name!r}: got {value!r}, allowed are {list(axis.values)}; choose one"
            )
        choices.append((axis.name, axis.values[axis.values.index(value)]))
    return Variant(tuple(choices))
