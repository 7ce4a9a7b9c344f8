"""Takes rows of samples of a kernel between samples of the reference kernel, wherever the kernels run."""

import math
from collections.abc import Callable

from codesign.backend.kernel_timing import KernelTiming

REFERENCE_REPEATS = 5
Samples = Callable[[int], list[float]]
"""Takes a number of samples, in seconds a call."""


def timed_rows(
    kernel: str, placed: Callable[[], Samples], reference: Samples, placements: int, repeats: int, usual_s: float | None
) -> KernelTiming:
    """Takes rows until enough of them are good, at most twice as many as asked for.

    Args:
        kernel: Name for the result.
        placed: Places the operands anew.
        reference: Samples of the reference kernel.
        placements: Good rows that are wanted.
        repeats: Samples a row.
        usual_s: Seconds of the reference kernel on an undisturbed machine; None where that is not known.

    Returns:
        The rows.
    """
    rows: list[tuple[float, ...]] = []
    references = [min(reference(REFERENCE_REPEATS))]
    while True:
        rows.append(tuple(placed()(repeats)))
        references.append(min(reference(REFERENCE_REPEATS)))
        timing = KernelTiming(kernel, tuple(rows), tuple(references))
        if len(timing.good_rows(math.inf if usual_s is None else usual_s)) == placements or len(rows) == 2 * placements:
            return timing
