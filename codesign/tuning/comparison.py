"""Whether a candidate is faster than the rules' loops by more than noise.

Kernels take turns: in each round every one is timed once, beside the reference kernel and on operands placed anew. The
ratios of candidate and default in the same round then share what the machine does meanwhile; that they agree from round
to round is what counts, and that a second measurement, in another process, says the same.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.backend.candidate_library import CandidateLibrary
from codesign.backend.kernel_timing import (
    KernelRunner,
    KernelTiming,
    KernelTimingSettings,
    ReferenceKernel,
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
ATTEMPTS = 3
"""How often rounds are repeated that other programs disturbed."""
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Comparison:
    """Loops beside those of the rules.

    Attributes:
        ratios: Seconds over the default's seconds in the same round, for rounds in which the machine was itself.
        seconds: Of one call, NaN if there is no such round.
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


@dataclass(frozen=True)
class Outcome:
    """What was found of one kernel.

    Attributes:
        winner: The best loops; those of the rules where nothing is faster twice.
        comparison: How they compare.
        crashed: Candidates whose process crashed or ran for too long.
    """

    winner: KernelParameters
    comparison: Comparison
    crashed: tuple[KernelParameters, ...]


@dataclass
class Comparer:
    """Measures candidates on a device, one kernel after the other.

    A program on the other half of a core slows kernels unequally, and may do so for minutes. How fast the reference
    kernel ever was tells undisturbed rounds from others.

    Attributes:
        runner: Times kernels.
        reference: Timed beside each.
        threads: Threads of the measured program.
        usual_s: Seconds of the reference kernel on the undisturbed machine, the least of all kernels so far.
    """

    runner: KernelRunner
    reference: ReferenceKernel
    threads: int
    usual_s: float = math.inf

    def best(self, library: CandidateLibrary, default: KernelParameters) -> Outcome:
        """Finds the fastest candidate.

        Args:
            library: Candidates, the default among them.
            default: Loops of the rules.

        Returns:
            The fastest one.

        Raises:
            MeasurementError: The default itself cannot be measured, or other programs disturbed all rounds.
        """
        alive = [default, *(parameters for parameters in library.calls if parameters != default)]
        crashed: list[KernelParameters] = []
        found = self._compared(library, alive, SCREENING_ROUNDS, crashed)
        if len(found[default].ratios) < LEAST_ROUNDS:
            raise MeasurementError("other programs disturbed the measurement; repeat the command when they have ended")
        faster = sorted((p for p in alive if found[p].is_faster), key=lambda p: found[p].ratio)
        if not faster:
            return Outcome(default, found[default], tuple(crashed))
        alive = [default, *faster[:FINALISTS]]
        again = self._compared(library, alive, CONFIRMING_ROUNDS, crashed)
        winner = min((p for p in alive if again[p].is_faster), key=lambda p: again[p].ratio, default=default)
        return Outcome(winner, again[winner], tuple(crashed))

    def _compared(
        self,
        library: CandidateLibrary,
        alive: list[KernelParameters],
        rounds: int,
        crashed: list[KernelParameters],
    ) -> dict[KernelParameters, Comparison]:
        """Comparisons with the first one, until half of the rounds were undisturbed; drops those that crash."""
        turns: dict[KernelParameters, list[KernelTiming]] = {}
        found: dict[KernelParameters, Comparison] = {}
        for _ in range(ATTEMPTS):
            timings = self._timings(library, alive, rounds, crashed)
            self.usual_s = min(self.usual_s, undisturbed_s(timings))
            for number, parameters in enumerate(alive):
                turns.setdefault(parameters, []).extend(timings[number :: len(alive)])
            found = {p: _comparison(turns[p], turns[alive[0]], self.usual_s) for p in alive}
            if all(2 * len(comparison.ratios) > rounds for comparison in found.values()):
                break
        return found

    def _timings(
        self,
        library: CandidateLibrary,
        alive: list[KernelParameters],
        rounds: int,
        crashed: list[KernelParameters],
    ) -> list[KernelTiming]:
        """All timings of some rounds, in turns; a candidate that ends the process is dropped, and all starts anew."""
        known_s = self.usual_s if math.isfinite(self.usual_s) else None
        settings = KernelTimingSettings(
            threads=self.threads, placements=1, timeout_s=TIMEOUT_S, usual_reference_s=known_s
        )
        while True:
            calls = [library.calls[parameters] for parameters in alive] * rounds
            timings: list[KernelTiming] = []
            try:
                for timing in self.runner.time_kernels(library.artifact, calls, self.reference, settings):
                    timings.append(timing)  # what came before an error tells whose turn it was
            except MeasurementError:
                turn = len(timings) % len(alive)
                if turn == 0:
                    raise
                crashed.append(alive.pop(turn))
                continue
            return timings


def undisturbed_s(timings: Sequence[KernelTiming]) -> float:
    """How fast the reference kernel is on a machine that does nothing else.

    Args:
        timings: What was measured beside it, at least one.

    Returns:
        Seconds; one in twenty measurements was faster.
    """
    seconds = sorted(value for timing in timings for value in timing.reference_s)
    return seconds[len(seconds) // 20]


def _comparison(timings: Sequence[KernelTiming], default: Sequence[KernelTiming], usual_s: float) -> Comparison:
    pairs = [(a, b) for a, b in zip(timings, default, strict=True) if a.is_good(usual_s) and b.is_good(usual_s)]
    ratios = tuple(a.seconds(usual_s) / b.seconds(usual_s) for a, b in pairs)
    if not pairs:
        return Comparison((), math.nan, math.nan)
    seconds, default_seconds = (
        statistics.median(t.seconds(usual_s) for t in taken) for taken in zip(*pairs, strict=True)
    )
    return Comparison(ratios, seconds, default_seconds)
