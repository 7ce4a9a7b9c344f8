"""Non-dominated sets and hypervolumes against their definitions."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.search.pareto import dominates, hypervolume, non_dominated

Points = list[tuple[float, ...]]


@st.composite
def point_sets(draw: st.DrawFn) -> Points:
    objectives = draw(st.integers(1, 4))
    numbers = st.integers(0, 5).map(float)
    return draw(st.lists(st.tuples(*[numbers] * objectives), min_size=1, max_size=7))


def _union_of_boxes(points: Points, reference: tuple[float, ...]) -> float:
    """Inclusion and exclusion: the boxes of a subset meet in the box of its largest coordinates."""
    volume = 0.0
    for count in range(1, len(points) + 1):
        for subset in combinations(points, count):
            corner = [max(values) for values in zip(*subset, strict=True)]
            sides = [max(0.0, r - c) for r, c in zip(reference, corner, strict=True)]
            volume += (-1) ** (count + 1) * math.prod(sides)
    return volume


@given(point_sets())
def test_kept_points_are_exactly_those_that_nothing_beats(points: Points) -> None:
    kept = non_dominated(points)
    assert list(kept) == sorted(kept)
    for i, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points)
        first = points.index(point) == i
        assert (i in kept) == (first and not beaten)


@given(point_sets(), st.integers(1, 6))
def test_hypervolume_equals_the_union_of_boxes(points: Points, side: int) -> None:
    reference = (float(side),) * len(points[0])
    assert hypervolume(points, reference) == pytest.approx(_union_of_boxes(points, reference), abs=1e-9)


def test_two_objectives_by_hand() -> None:
    # Steps at (1, 3), (2, 1) below (4, 4): 3 * 1 + 2 * 2.
    assert hypervolume([(1.0, 3.0), (2.0, 1.0), (3.0, 3.5), (5.0, 0.0)], (4.0, 4.0)) == 7.0
    assert hypervolume([], (4.0, 4.0)) == 0.0


def test_points_without_sense_are_refused() -> None:
    with pytest.raises(InputError, match="an objective is NaN"):
        non_dominated([(1.0, 2.0), (math.nan, 1.0)])
    with pytest.raises(InputError, match="1 objectives, others have 2"):
        hypervolume([(1.0,)], (2.0, 2.0))
