"""Finalists spread over the front."""

from hypothesis import given
from hypothesis import strategies as st

from codesign.search.finalists import most_valuable, spread
from codesign.search.pareto import hypervolume, hypervolume_growth, non_dominated

POINTS = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 3), min_size=1, max_size=12)


@given(POINTS, st.integers(0, 15))
def test_finalists_are_of_the_front_and_all_of_it_if_there_is_room(points: list[tuple[float, ...]], count: int) -> None:
    front = set(non_dominated(points))
    picked = spread(points, count)
    assert len(picked) == min(count, len(front)) == len(set(picked))
    assert set(picked) <= front


def test_greedy_takes_the_corner_that_covers_most() -> None:
    points = [(0.0, 1.0), (0.3, 0.3), (1.0, 0.0), (0.31, 0.29)]
    assert spread(points, 1) == (1,)
    assert set(spread(points, 3)) == {0, 1, 2}


@given(POINTS)
def test_growth_is_the_hypervolume_of_every_prefix(points: list[tuple[float, ...]]) -> None:
    reference = (5.0, 5.5, 6.0)
    found = hypervolume_growth(points, reference)
    for i, volume in enumerate(found):
        assert abs(volume - hypervolume(points[: i + 1], reference)) < 1e-9


@given(POINTS, POINTS)
def test_the_most_valuable_candidate_adds_most(
    candidates: list[tuple[float, ...]], reached: list[tuple[float, ...]]
) -> None:
    reached = [*reached, (6.0, 6.0, 6.0), (6.0, 6.0, 6.0), (6.0, 6.0, 6.0)]  # so that 6 is the worst
    reference = (6.6, 6.6, 6.6)
    picked = most_valuable(candidates, reached)
    volumes = [hypervolume([*reached, point], reference) for point in candidates]
    assert volumes[picked] >= max(volumes) - 1e-9


def test_the_first_candidates_are_compared_among_themselves() -> None:
    assert most_valuable([(1.0, 9.0), (4.0, 4.0), (9.0, 1.0)], []) == 1
