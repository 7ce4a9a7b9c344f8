"""Tells disturbed measurements by a reference kernel that is timed again and again.

Whatever else a machine does only adds time, so of several samples the fastest is kept, as `timeit` does. What outlasts
all samples of a kernel (a lower frequency, a neighbour that fills the caches) also slows the reference kernel, which is
timed right before and right after.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.backend.kernel_timing import KernelTiming

TOLERANCE = 0.08
"""The reference kernel of a good measurement is within this share of its median."""


@dataclass(frozen=True)
class Baseline:
    """What the reference kernel usually takes.

    Attributes:
        seconds: Median over everything measured under the same conditions.
    """

    seconds: float

    @classmethod
    def of(cls, timings: Sequence[KernelTiming]) -> "Baseline":
        """The baseline of some measurements.

        Args:
            timings: At least one.

        Returns:
            Its median over both sides of each.
        """
        return cls(statistics.median(seconds for timing in timings for seconds in timing.reference_s))

    def is_disturbed(self, timing: KernelTiming) -> bool:
        """Whether the machine was not itself while a kernel was timed.

        Args:
            timing: The measurement.

        Returns:
            True if the reference kernel was off on either side.
        """
        return any(abs(seconds / self.seconds - 1) > TOLERANCE for seconds in timing.reference_s)


def drift(timings: Sequence[KernelTiming]) -> float:
    """How much the machine changed speed in the course of a session.

    Args:
        timings: In the order in which they were made.

    Returns:
        Reference time in the last quarter over that in the first, minus 1; 0 for fewer than eight measurements.
    """
    if len(timings) < 8:
        return 0.0
    quarter = len(timings) // 4
    first, last = (Baseline.of(part).seconds for part in (timings[:quarter], timings[-quarter:]))
    return last / first - 1
