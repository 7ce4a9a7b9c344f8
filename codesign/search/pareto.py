"""Which points no other point beats, and how much of the space they cover. All objectives are minimised."""

import math
from collections.abc import Sequence

from codesign.errors import InputError

Point = Sequence[float]


def dominates(one: Point, other: Point) -> bool:
    """Whether one point is nowhere worse and somewhere better.

    Args:
        one: Objectives of a point.
        other: The same objectives of another.

    Returns:
        True if `one` dominates `other`.
    """
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def non_dominated(points: Sequence[Point]) -> tuple[int, ...]:
    """The Pareto set; of equal points the first stays.

    Args:
        points: Objectives, all of one length.

    Returns:
        Positions of the points that no other dominates, in the order given.

    Raises:
        InputError: A point is NaN somewhere or has another number of objectives.
    """
    _check(points)
    kept: list[int] = []
    for i, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points)
        repeated = any(tuple(points[j]) == tuple(point) for j in kept)
        if not beaten and not repeated:
            kept.append(i)
    return tuple(kept)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume that points dominate below a reference point, exactly, by slicing along the last objective.

    Cost grows as `points ** (objectives - 1)`: meant for up to five objectives and some hundred points.

    Args:
        points: Objectives; what lies beyond the reference counts nothing.
        reference: The worst corner.

    Returns:
        The volume in the product of the objectives' units.

    Raises:
        InputError: A point is NaN somewhere or has another number of objectives than the reference.
    """
    _check([reference, *points])
    inside = [tuple(point) for point in points if all(a < b for a, b in zip(point, reference, strict=True))]
    return _volume([inside[i] for i in non_dominated(inside)], tuple(reference))


def hypervolume_gain(front: Sequence[Point], point: Point, reference: Point) -> float:
    """What a new point adds to the hypervolume of others.

    It adds the box between it and the reference, less what the others dominate of that box; for this they are moved to
    where they enter it, which leaves few that matter (While et al. 2012).

    Args:
        front: Objectives of the others.
        point: Objectives of the new one.
        reference: The worst corner.

    Returns:
        The added volume; 0 for a point that another equals or dominates, or that lies beyond the reference.
    """
    if any(a >= b for a, b in zip(point, reference, strict=True)):
        return 0.0
    if any(tuple(other) == tuple(point) or dominates(other, point) for other in front):
        return 0.0
    box = math.prod(b - a for a, b in zip(point, reference, strict=True))
    entering = [tuple(map(max, other, point)) for other in front]
    return box - _volume([entering[i] for i in non_dominated(entering)], tuple(reference))


def hypervolume_growth(points: Sequence[Point], reference: Point) -> tuple[float, ...]:
    """The hypervolume after each point, as points come in.

    Args:
        points: Objectives in the order of their arrival.
        reference: The worst corner.

    Returns:
        One volume for each point; it never falls.

    Raises:
        InputError: A point is NaN somewhere or has another number of objectives than the reference.
    """
    _check([reference, *points])
    front: list[tuple[float, ...]] = []
    volumes, volume = [], 0.0
    for point in (tuple(p) for p in points):
        gain = hypervolume_gain(front, point, reference)
        if gain > 0:
            volume += gain
            front = [other for other in front if not dominates(point, other)] + [point]
        volumes.append(volume)
    return tuple(volumes)


def _volume(points: Sequence[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in points)
    ordered = sorted(points, key=lambda point: point[-1])
    ends = [*(point[-1] for point in ordered[1:]), reference[-1]]
    slices = []
    for i, (point, end) in enumerate(zip(ordered, ends, strict=True)):
        if end > point[-1]:
            base = [other[:-1] for other in ordered[: i + 1]]
            slices.append((end - point[-1]) * _volume([base[j] for j in non_dominated(base)], reference[:-1]))
    return math.fsum(slices)


def _check(points: Sequence[Point]) -> None:
    for point in points:
        if len(point) != len(points[0]):
            raise InputError(
                f"point {tuple(point)}: {len(point)} objectives, others have {len(points[0])}; give as many"
            )
        if any(math.isnan(value) for value in point):
            raise InputError(f"point {tuple(point)}: an objective is NaN; leave the point out")
