"""The front equals that of the definition."""

from hypothesis import given
from hypothesis import strategies as st

from codesign.report.contents import Candidate, Estimate, Latency, Measured, mark_front

VALUES = st.integers(0, 3)
POINTS = st.lists(st.one_of(st.none(), st.tuples(VALUES, VALUES, VALUES)), max_size=8)


def _candidate(number: int, point: tuple[int, int, int] | None) -> Candidate:
    measured = None
    if point is not None:
        accuracy, latency, weight_bytes = point
        found = Latency("tvm", float(latency), 0.0, 0.0, 1, 1, "measured")
        measured = Measured(None, {"test": Estimate(accuracy / 3, 0.1)}, (found,), None, None, weight_bytes, None)
    return Candidate(str(number), (), None, 8.0, None, measured)


@given(POINTS)
def test_a_candidate_is_on_the_front_unless_another_dominates_it(points: list[tuple[int, int, int] | None]) -> None:
    marked = mark_front(tuple(_candidate(number, point) for number, point in enumerate(points)))
    for candidate, mine in zip(marked, points, strict=True):
        expected = mine is not None
        for other in points:
            if mine is not None and other is not None:
                no_worse = other[0] >= mine[0] and other[1] <= mine[1] and other[2] <= mine[2]
                better = other[0] > mine[0] or other[1] < mine[1] or other[2] < mine[2]
                expected &= not (no_worse and better)
        assert candidate.on_front == expected


def test_a_candidate_without_latency_is_not_on_the_front() -> None:
    measured = Measured(None, {"test": Estimate(1.0, 0.0)}, (), None, None, 1, None)
    assert not mark_front((Candidate("a", (), None, 8.0, None, measured),))[0].on_front
