"""Counting, ordering and naming variants."""

import itertools
import math
import subprocess
import sys
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.architecture.space import (
    ArchitectureSpace,
    Axis,
    Value,
    Variant,
    largest,
    smallest,
    variant_at,
    variant_count,
    variant_of,
    variants,
)
from codesign.errors import InputError


class _Axes:
    """As much of a space as counting needs."""

    name = "axes"

    def __init__(self, axes: tuple[Axis, ...]) -> None:
        self.axes = axes


def _space(*values: tuple[Value, ...]) -> ArchitectureSpace:
    return cast(ArchitectureSpace, _Axes(tuple(Axis(f"axis{i}", chosen) for i, chosen in enumerate(values))))


AXES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True).map(tuple), max_size=4)


@settings(deadline=None)
@given(AXES)
def test_every_variant_has_one_place(values: list[tuple[int, ...]]) -> None:
    space = _space(*values)
    listed = list(variants(space))
    assert len(listed) == len(set(listed)) == variant_count(space) == math.prod(map(len, values))
    assert [variant_at(space, index) for index in range(len(listed))] == listed
    assert listed[0] == smallest(space)
    assert listed[-1] == largest(space)
    assert len({variant.identity for variant in listed}) == len(listed)
    assert [tuple(variant.values.values()) for variant in listed] == list(itertools.product(*values))


@settings(deadline=None)
@given(AXES, st.integers(0, 10**6))
def test_a_variant_is_found_by_its_values(values: list[tuple[int, ...]], index: int) -> None:
    space = _space(*values)
    variant = variant_at(space, index % variant_count(space))
    assert variant_of(space, dict(reversed(variant.choices))) == variant


def test_a_count_beyond_what_can_be_listed_is_exact() -> None:
    assert variant_count(_space(*[tuple(range(7))] * 40)) == 7**40
    assert variant_at(_space(*[tuple(range(7))] * 40), 7**40 - 1).values["axis0"] == 6


def test_identity_is_the_same_in_another_process() -> None:
    variant = Variant((("depth1", 2), ("squeeze", 0.5), ("pair_order", "alternating")))
    script = f"from codesign.architecture.space import Variant; print({variant!r}.identity)"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == variant.identity
    assert len(variant.identity) == 12


def test_text_of_a_variant() -> None:
    assert str(Variant((("depth1", 2), ("width1", 32)))) == "depth1=2 width1=32"
    assert str(Variant(())) == "the only variant"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axis0": 1}, "'axis1' has no value; choose from \\[5\\]"),
        ({"axis0": 3, "axis1": 5}, "'axis0': got 3, allowed are \\[1, 2\\]"),
        ({"axis0": 1, "axis1": 5, "axis9": 1}, "unknown axis 'axis9'; did you mean 'axis[01]'"),
    ],
)
def test_values_that_are_no_variant_are_refused(values: dict[str, Value], message: str) -> None:
    with pytest.raises(InputError, match=message):
        variant_of(_space((1, 2), (5,)), values)


def test_axes_without_values_or_with_repeated_ones_are_refused() -> None:
    with pytest.raises(InputError, match="'depth' has no values, so the space is empty"):
        Axis("depth", ())
    with pytest.raises(InputError, match="value twice"):
        Axis("depth", (1, 2, 1))


@pytest.mark.parametrize("index", [-1, 2])
def test_places_outside_are_refused(index: int) -> None:
    with pytest.raises(InputError, match="allowed are 0 to 1"):
        variant_at(_space((1, 2)), index)
