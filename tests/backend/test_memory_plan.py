"""Places of intermediate results: nothing that is alive at the same time overlaps."""

from hypothesis import given
from hypothesis import strategies as st

from codesign.backend.memory_plan import LINE, Lifetime, plan_memory

lifetimes = st.builds(
    lambda size, first, length: Lifetime(size, first, first + length),
    st.integers(0, 1000),
    st.integers(0, 20),
    st.integers(0, 5),
)


def _lines(size_bytes: int) -> int:
    return -(-size_bytes // LINE) * LINE


@given(results=st.lists(lifetimes, max_size=25))
def test_what_is_alive_together_does_not_overlap(results: list[Lifetime]) -> None:
    plan = plan_memory(results)
    spans = [(result, offset, offset + result.size_bytes) for result, offset in zip(results, plan.offsets, strict=True)]
    for index, (a, start, end) in enumerate(spans):
        assert start % LINE == 0
        assert end <= plan.size_bytes
        for b, other_start, other_end in spans[:index]:
            together = a.first <= b.last and b.first <= a.last
            assert not together or not a.size_bytes or not b.size_bytes or end <= other_start or other_end <= start
    alive = [sum(_lines(r.size_bytes) for r in results if r.first <= now <= r.last) for now in range(26)]
    assert max(alive) <= plan.size_bytes <= sum(_lines(r.size_bytes) for r in results)


def test_a_chain_needs_room_for_two_results() -> None:
    chain = [Lifetime(size, number, number + 1) for number, size in enumerate((640, 320, 128, 64))]
    assert plan_memory(chain).size_bytes == 640 + 320
    assert plan_memory([]).size_bytes == 0
