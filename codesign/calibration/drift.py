"""How much a machine changed its speed while it was measured, by a reference kernel that is timed again and again."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.backend.kernel_timing import KernelTiming


@dataclass(frozen=True)
class ClockRange:
    """Seconds of the reference kernel over a session.

    Attributes:
        fastest_s: Its 5 % quantile.
        usual_s: Its median.
        slowest_s: Its 95 % quantile.
        drift: Median of the last quarter of the session over that of the first, minus 1; 0 for fewer than eight
            measurements.
    """

    fastest_s: float
    usual_s: float
    slowest_s: float
    drift: float


def clock_range(timings: Sequence[KernelTiming]) -> ClockRange:
    """Sums up what the reference kernel took.

    Args:
        timings: In the order in which they were made, at least one.

    Returns:
        The summary.
    """
    means = [statistics.fmean(timing.reference_s) for timing in timings]
    ordered = sorted(seconds for timing in timings for seconds in timing.reference_s)
    quarter = len(means) // 4
    change = statistics.median(means[-quarter:]) / statistics.median(means[:quarter]) - 1 if len(means) >= 8 else 0.0
    twentieth = (len(ordered) - 1) / 20
    return ClockRange(ordered[round(twentieth)], statistics.median(ordered), ordered[round(19 * twentieth)], change)
