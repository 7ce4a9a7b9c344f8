"""How vectors cover a number of elements that is no multiple of theirs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as build

Expression = Any
"""A TIR expression."""

LINE_BYTES = 64
"""The widest vector."""


@dataclass(frozen=True)
class Span:
    """Vectors of one width, one after the other.

    Attributes:
        first: First element.
        count: Number of vectors.
        lanes: Elements of each.
    """

    first: int
    count: int
    lanes: int


def spans(size: int, widest: int = LINE_BYTES) -> list[Span]:
    """Covers elements by the widest vectors first, then by one of each smaller width where it is needed.

    Args:
        size: Number of elements.
        widest: Elements of the widest vector, a power of two.

    Returns:
        Few spans that together hold each element once.
    """
    found, first, lanes = [], 0, widest
    while lanes:
        count = (size - first) // lanes
        if count:
            found.append(Span(first, count, lanes))
            first += count * lanes
        lanes //= 2
    return found


def each_vector(size: int, widest: int = LINE_BYTES) -> Iterator[Expression]:
    """Writes loops over vectors of `spans`; what stands in the body of the `for` stands in each of them.

    Args:
        size: Number of elements.
        widest: Elements of the widest vector, a power of two.

    Yields:
        Index of the elements of a vector, once for each width.
    """
    for span in spans(size, widest):
        with build.serial(0, span.count) as number, build.vectorized(0, span.lanes) as lane:
            yield span.first + number * span.lanes + lane
