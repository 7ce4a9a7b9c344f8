"""Which points of a front are worth building."""

import math
from collections.abc import Sequence

from codesign.search.pareto import hypervolume, hypervolume_gain, non_dominated

Point = Sequence[float]
FEW = 3


def most_valuable(candidates: Sequence[Point], reached: Sequence[Point]) -> int:
    """The candidate that adds most to the volume that points dominate.

    The reference point lies a tenth beyond the worst value of all points, candidates among them only while there are
    fewer than `FEW` others.

    Args:
        candidates: Expected objectives, to be made small; at least one.
        reached: Objectives of what there is.

    Returns:
        Position of the candidate; where none adds anything, of the one with the least product of objectives.
    """
    known = [*reached, *candidates] if len(reached) < FEW else list(reached)
    worst = [max(point[k] for point in known) for k in range(len(candidates[0]))]
    reference = (1.1,) * len(worst)
    front = [_scaled(reached[i], worst) for i in non_dominated(reached)]
    scaled = [_scaled(point, worst) for point in candidates]
    gains = [hypervolume_gain(front, point, reference) for point in scaled]
    return max(range(len(scaled)), key=lambda i: (gains[i], -math.prod(scaled[i]), -i))


def _scaled(point: Point, worst: Point) -> tuple[float, ...]:
    return tuple(x / w if w else 0.0 for x, w in zip(point, worst, strict=True))


def spread(points: Sequence[Point], count: int) -> tuple[int, ...]:
    """Picks points one by one, each time the one that adds most to the volume that the picked ones dominate.

    Objectives are scaled to the range of the front, and the reference point lies a tenth beyond its worst corner. The
    greedy choice has at least 1 - 1/e of the best possible volume (a submodular function; Nemhauser et al. 1978).

    Args:
        points: Objectives, all of one length, to be made small.
        count: How many to pick at most.

    Returns:
        Positions of points that no other dominates, the most valuable first.
    """
    front = non_dominated(points)
    if not front:
        return ()
    low = [min(points[i][k] for i in front) for k in range(len(points[0]))]
    high = [max(points[i][k] for i in front) for k in range(len(points[0]))]
    scaled = {
        i: tuple((x - a) / (b - a) if b > a else 0.0 for x, a, b in zip(points[i], low, high, strict=True))
        for i in front
    }
    reference = (1.1,) * len(low)
    picked: list[int] = []
    left = list(front)
    while left and len(picked) < count:
        gains = {i: hypervolume([*(scaled[j] for j in picked), scaled[i]], reference) for i in left}
        best = max(left, key=lambda i: (gains[i], -i))
        picked.append(best)
        left.remove(best)
    return tuple(picked)
