import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.report.quantities import joules, nats, percent, seconds, size

FACTORS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (seconds(204e-6), "204 µs"),
        (seconds(1.0), "1 s"),
        (seconds(0), "0 s"),
        (seconds(5e-10), "0.5 ns"),
        (joules(12.34e-6), "12.3 µJ"),
        (joules(3e-12), "3 pJ"),
        (size(0), "0 B"),
        (size(1023), "1023 B"),
        (size(1024), "1 KiB"),
        (size(98.4 * 1024), "98.4 KiB"),
        (size(3 * 1024**3), "3 GiB"),
        (percent(0.9155, 0.01234), "91.55 ± 1.23 %"),
        (percent(1.0), "100.00 %"),
        (nats(0.012345), "0.0123"),
    ],
)
def test_numbers_are_shown_with_the_unit_that_suits(text: str, expected: str) -> None:
    assert text == expected


@given(st.floats(1e-9, 1e5))
def test_a_shown_time_is_the_time_within_half_a_percent(value: float) -> None:
    number, unit = re.fullmatch(r"([\d.]+) (\w+)", seconds(value)).groups()  # type: ignore[union-attr]  # it matches
    assert float(number) * FACTORS[unit] == pytest.approx(value, rel=5.1e-3)
