"""The stage programme finds what enumeration of all cuts and devices finds."""

from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.partition.mesh import Device, Link
from codesign.partition.pipeline_stages import DeviceKind, Work, cut

LINK = Link(0.5, 2.0)


def kinds_of(counts: list[int], memory: float = 1e9) -> list[DeviceKind]:
    return [DeviceKind(f"kind{i}", Device(1.0, 1.0, memory_bytes=memory), count) for i, count in enumerate(counts)]


@st.composite
def works(draw: st.DrawFn, kinds: int) -> Work:
    count = draw(st.integers(1, 5))
    numbers = st.integers(1, 9).map(float)
    rows = [tuple(draw(numbers) for _ in range(count)) for _ in range(kinds)]
    crossing = (0.0, *(draw(numbers) for _ in range(count - 1)))
    return Work(tuple(rows), tuple(draw(numbers) for _ in range(count)), crossing)


def least_time(work: Work, counts: list[int], micro_batches: int) -> float:
    """By enumeration."""
    count, devices = len(work.weight_bytes), [kind for kind, many in enumerate(counts) for _ in range(many)]
    best = float("inf")
    for stages in range(1, min(count, len(devices)) + 1):
        for inner in combinations(range(1, count), stages - 1):
            ends = (0, *inner, count)
            for chosen in set(permutations(devices, stages)):
                times = []
                for kind, first, end in zip(chosen, ends, ends[1:], strict=False):
                    received = (
                        LINK.latency_s + work.crossing_bytes[first] / LINK.bandwidth_bytes_per_s if first else 0.0
                    )
                    times.append(received + sum(work.seconds[kind][first:end]))
                best = min(best, sum(times) + (micro_batches - 1) * max(times))
    return best


@settings(max_examples=60, deadline=None)
@given(data=st.data(), counts=st.lists(st.integers(1, 2), min_size=1, max_size=2), micro_batches=st.integers(1, 8))
def test_the_stages_equal_enumeration(data: st.DataObject, counts: list[int], micro_batches: int) -> None:
    work = data.draw(works(len(counts)))
    found = cut(work, kinds_of(counts), LINK, micro_batches)
    assert found.seconds == pytest.approx(least_time(work, counts, micro_batches))
    assert [stage.first for stage in found.stages] == [0, *(stage.end for stage in found.stages[:-1])]
    for kind, many in enumerate(counts):
        assert sum(stage.kind == kind for stage in found.stages) <= many


def test_memory_forces_a_cut() -> None:
    work = Work(((1.0, 1.0),), (6.0, 6.0), (0.0, 100.0))
    assert len(cut(work, kinds_of([2]), LINK, 1).stages) == 1
    assert len(cut(work, kinds_of([2], memory=10.0), LINK, 1).stages) == 2
    with pytest.raises(InputError, match="do not fit"):
        cut(work, kinds_of([1], memory=10.0), LINK, 1)
