"""Whether a candidate is faster than the rules' loops by more than noise.

Kernels take turns: in each round every one is timed once, beside the reference kernel and on operands placed anew. The
ratios of candidate and default in the same round then share what the machine does meanwhile; that they agree from round
to round is what counts, and that a second measurement, in another process, says the same.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from codesign.backend.candidate_library import CandidateLibrary
from codesign.backend.kernel_timing import (
    KernelRunner,
    KernelTiming,
    KernelTimingSettings,
    ReferenceKernel,
    usual_reference_s,
)
from codesign.backend.kernels.parameters import KernelParameters
from codesign.errors import MeasurementError

LEAST_GAIN = 0.02
"""A candidate must be faster by this much."""
SCREENING_ROUNDS, CONFIRMING_ROUNDS = 7, 15
FINALISTS = 3
"""Candidates that are measured a second time."""
LEAST_ROUNDS = 4
"""Undisturbed rounds without which nothing is said."""
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Comparison:
    """Loops beside those of the rules.

    Attributes:
        ratios: Seconds over the default's seconds in the same round, for rounds in which the machine was itself.
        seconds: Of one call.
        default_seconds: Of one call of the default.
    """

    ratios: tuple[float, ...]
    seconds: float
    default_seconds: float

    @property
    def ratio(self) -> float:
        """Median of all ratios, infinite if there are too few."""
        return statistics.median(self.ratios) if len(self.ratios) >= LEAST_ROUNDS else math.inf

    @property
    def is_faster(self) -> bool:
        """Whether the median is below 1 by `LEAST_GAIN`, and three in four ratios are below 1."""
        if not self.ratio <= 1 - LEAST_GAIN:
            return False
        return statistics.quantiles(self.ratios, n=4)[2] < 1


@dataclass
class Comparer:
    """Measures candidates of one kernel on a device.

    Attributes:
        runner: Times kernels.
        reference: Timed beside each.
        threads: Threads of the measured program.
        crashed: Candidates whose process crashed or ran for too long.
    """

    runner: KernelRunner
    reference: ReferenceKernel
    threads: int
    crashed: list[KernelParameters] = field(default_factory=list)

    def best(self, library: CandidateLibrary, default: KernelParameters) -> tuple[KernelParameters, Comparison]:
        """Finds the fastest candidate.

        Args:
            library: Candidates, the default among them.
            default: Loops of the rules.

        Returns:
            The fastest one and how it compares; the default itself where nothing is faster twice.

        Raises:
            MeasurementError: The default itself cannot be measured, or other programs disturbed all rounds.
        """
        others = [parameters for parameters in library.calls if parameters != default]
        found = self._compared(library, default, others, SCREENING_ROUNDS)
        if len(found[default].ratios) < LEAST_ROUNDS:
            raise MeasurementError("other programs disturbed the measurement; repeat the command when they have ended")
        faster = sorted((p for p in others if p in found and found[p].is_faster), key=lambda p: found[p].ratio)
        if faster:
            again = self._compared(library, default, faster[:FINALISTS], CONFIRMING_ROUNDS)
            confirmed = [p for p in again if p != default and again[p].is_faster]
            if confirmed:
                winner = min(confirmed, key=lambda p: again[p].ratio)
                return winner, again[winner]
        return default, found[default]

    def _compared(
        self,
        library: CandidateLibrary,
        default: KernelParameters,
        others: Sequence[KernelParameters],
        rounds: int,
    ) -> dict[KernelParameters, Comparison]:
        """Comparisons of the default with itself and all others that can be measured."""
        alive = [default, *others]
        settings = KernelTimingSettings(threads=self.threads, placements=1, timeout_s=TIMEOUT_S)
        while True:
            calls = [library.calls[parameters] for parameters in alive] * rounds
            timings: list[KernelTiming] = []
            try:
                for timing in self.runner.time_kernels(library.artifact, calls, self.reference, settings):
                    timings.append(timing)  # what came before an error tells whose turn it was
            except MeasurementError:
                culprit = alive[len(timings) % len(alive)]
                if culprit == default:
                    raise
                self.crashed.append(culprit)
                alive.remove(culprit)
                continue
            usual_s = usual_reference_s(timings)
            turns = {parameters: timings[number :: len(alive)] for number, parameters in enumerate(alive)}
            return {parameters: _comparison(turns[parameters], turns[default], usual_s) for parameters in alive}


def _comparison(timings: Sequence[KernelTiming], default: Sequence[KernelTiming], usual_s: float) -> Comparison:
    pairs = [(a, b) for a, b in zip(timings, default, strict=True) if a.is_good(usual_s) and b.is_good(usual_s)]
    ratios = tuple(a.seconds(usual_s) / b.seconds(usual_s) for a, b in pairs)
    seconds = (statistics.median(t.seconds(usual_s) for t in taken) for taken in (timings, default))
    return Comparison(ratios, *seconds)
