"""Where the intermediate results of a network lie in one piece of memory that it works in."""

from collections.abc import Sequence
from dataclasses import dataclass

LINE = 64
"""Bytes; every result starts at a multiple, as kernels assume."""


@dataclass(frozen=True)
class Lifetime:
    """A result, from the call that writes it to the last call that reads it.

    Attributes:
        size_bytes: Its size.
        first: Number of the call that writes it.
        last: Number of the last call that reads it.
    """

    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """Places of results.

    Attributes:
        offsets: Of each result, in bytes.
        size_bytes: Of the whole.
    """

    offsets: tuple[int, ...]
    size_bytes: int


def plan_memory(results: Sequence[Lifetime]) -> MemoryPlan:
    """Places the largest results first, each at the lowest offset that no result alive at the same time holds.

    Greedy by size, as in Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020).

    Args:
        results: In any order.

    Returns:
        The plan.
    """
    offsets = [0] * len(results)
    placed: list[int] = []
    for index in sorted(range(len(results)), key=lambda i: (-results[i].size_bytes, i)):
        result, offset = results[index], 0
        for other in sorted(placed, key=lambda i: offsets[i]):
            known = results[other]
            if known.first > result.last or known.last < result.first:
                continue
            if offset + _lines(result.size_bytes) <= offsets[other]:
                break
            offset = max(offset, offsets[other] + _lines(known.size_bytes))
        offsets[index] = offset
        placed.append(index)
    ends = (offset + _lines(result.size_bytes) for offset, result in zip(offsets, results, strict=True))
    return MemoryPlan(tuple(offsets), max(ends, default=0))


def _lines(size_bytes: int) -> int:
    return -(-size_bytes // LINE) * LINE
