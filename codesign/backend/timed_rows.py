"""Takes rows of samples of a kernel between samples of the reference kernel, wherever the kernels run."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.backend.kernel_table import KernelArgument
from codesign.backend.kernel_timing import KernelTiming

if TYPE_CHECKING:
    import tvm

REFERENCE_REPEATS = 5
NETWORK_SAMPLES = 10
"""A sample of a whole network lasts so many times that of a kernel."""
DRAWN_VALUES = 65_537
"""Numbers that are drawn for an operand; larger ones repeat them, since drawing takes longer than timing."""
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


def kernel_samples(
    library: "tvm.runtime.Module",
    kernel: str,
    device: "tvm.runtime.Device",
    operands: "Sequence[tvm.runtime.Tensor]",
    sample_s: float,
) -> Samples:
    """How to time a kernel in the loop of TVM's `time_evaluator`, which runs where the kernel runs.

    Args:
        library: What holds it.
        kernel: Name of the function.
        device: Where it runs.
        operands: Its arguments, on that device.
        sample_s: Seconds of a sample: as many calls as fit, at least one.

    Returns:
        Takes samples.
    """
    once = library.time_evaluator(kernel, device, number=1, repeat=3)(*operands)
    number = max(1, math.ceil(sample_s / max(min(once.results), 1e-9)))

    def samples(repeats: int) -> list[float]:
        timed = library.time_evaluator(kernel, device, number=number, repeat=repeats)
        return [float(seconds) for seconds in timed(*operands).results]

    return samples


def operand_values(argument: KernelArgument, random: np.random.Generator) -> NDArray[np.generic]:
    """Numbers away from denormals; untouched memory of zeros would all be one page in the cache.

    Args:
        argument: Shape and type.
        random: Source of the numbers.

    Returns:
        An array.
    """
    size = min(DRAWN_VALUES, math.prod(argument.shape))
    drawn = random.uniform(0.5, 1.0, size) if argument.dtype.startswith("float") else random.integers(0, 100, size)
    return np.resize(drawn.astype(argument.dtype), argument.shape)


def in_place(samples: Samples) -> Callable[[], Samples]:
    """Rows of something that is not placed anew.

    Args:
        samples: Takes samples.

    Returns:
        Gives `samples` for every row.
    """
    return lambda: samples
