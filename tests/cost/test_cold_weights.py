"""Which weights a network has to fetch again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.cold_weights import TRANSITION, cold_bytes
from codesign.hardware.profile import MemoryLevel
from codesign.plan.facts import ConvGeometry, Footprint, packed_weight_bytes
from codesign.quantization.scheme import Widths
from codesign.testing.cost_conformance import move_node, multiply_node

CAPACITY = 1e6
CONV = multiply_node("conv", "Conv", ConvGeometry(1, 64, 64, (3, 3), (1, 1), (8, 8), (8, 8), 1))
INTEGERS = Widths(8, 8)


def _level(name: str, capacity: float) -> MemoryLevel:
    return MemoryLevel(
        name=name, capacity_bytes=capacity, bandwidth_bytes_per_s=1e11, energy_j_per_byte=0.0, source="made up"
    )


MEMORIES = (_level("l1", 3e4), _level("l2", CAPACITY), _level("dram", 1e10))


def _far(footprint: float, memories: tuple[MemoryLevel, ...] = MEMORIES) -> float:
    node = replace(CONV, network=Footprint(round(footprint / 2), round(footprint / 2)))
    cold, far = cold_bytes(node, INTEGERS, memories)
    assert cold == packed_weight_bytes(CONV, INTEGERS)
    return far / cold


def test_a_small_network_stays_in_the_second_cache_and_a_large_one_does_not() -> None:
    assert _far(0.9 * CAPACITY) == 0
    assert _far(CAPACITY * (1 + TRANSITION / 2)) == pytest.approx(0.5)
    assert _far(5 * CAPACITY) == 1
    assert _far(5 * CAPACITY, MEMORIES[1:]) == 0  # a single cache: there is nothing between it and the memory


def test_nodes_without_weights_fetch_nothing() -> None:
    assert cold_bytes(move_node("pool", "MaxPool", 64, 64), INTEGERS, MEMORIES) == (0, 0)


@given(st.integers(0, 10**8), st.integers(0, 10**7), st.sampled_from([2, 3, 4, 5, 6, 8]))
def test_fewer_bits_never_fetch_more(weights: int, live: int, bits: int) -> None:
    node = replace(CONV, network=Footprint(weights, live))
    wide, narrow = (cold_bytes(node, Widths(width, 8), MEMORIES) for width in (8, bits))
    assert narrow[0] <= wide[0]
    assert narrow[1] <= wide[1]
    assert 0 <= narrow[1] <= narrow[0]
