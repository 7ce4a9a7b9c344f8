"""Tunes the kernels of a network, those that take most of its time first, until a budget is spent."""

import datetime
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from codesign.backend.candidate_library import CandidateCompiler, CandidateLibrary
from codesign.backend.kernels.layer_kernel import LayerKernel
from codesign.backend.kernels.parameters import KernelParameters
from codesign.errors import CompileError, MeasurementError
from codesign.progress import Progress
from codesign.tuning.comparison import Comparer
from codesign.tuning.database import TuningDatabase, TuningRecord

FAILURES_IN_A_ROW = 3
"""So many kernels that fail one after the other mean that the device is gone, or that nothing can be compiled."""


@dataclass(frozen=True)
class TuningTask:
    """A kernel of a network.

    Attributes:
        kernel: What it computes.
        seconds: That all its calls in one run take with the loops of the rules.
        candidates: Loops to measure, those of the rules first.
    """

    kernel: LayerKernel
    seconds: float
    candidates: tuple[KernelParameters, ...]


@dataclass
class Tuner:
    """One run of the tuner.

    Attributes:
        compiler: Compiles candidates.
        comparer: Measures them.
        database: Where records go, at once.
        work_dir: Folder for compiled candidates.
        progress: Told about long work; a step is a candidate.
        deadline: When the budget is spent, on the clock.
        clock: Tells seconds.
    """

    compiler: CandidateCompiler
    comparer: Comparer
    database: TuningDatabase
    work_dir: Path
    progress: Progress
    deadline: float
    clock: Callable[[], float] = time.monotonic
    _failures: int = field(default=0, init=False)
    _longest_s: float = field(default=0.0, init=False)

    def tune(self, tasks: Sequence[TuningTask]) -> int:
        """Tunes kernels until the next ones would not fit the budget, or several failed one after the other.

        Kernels that the database knows, because another run found them meanwhile, are left out.

        Args:
            tasks: Kernels that are not known yet.

        Returns:
            How many kernels were not begun.
        """
        waiting = sorted(tasks, key=lambda task: -task.seconds)
        self.progress.start("Tuning kernels", sum(len(task.candidates) for task in waiting))
        try:
            while waiting and self._goes_on():
                began = self.clock()
                size = os.cpu_count() or 1
                batch, waiting = waiting[:size], waiting[size:]
                self._tune_batch(batch)
                self._longest_s = max(self._longest_s, self.clock() - began)
                self.progress.advance(sum(len(task.candidates) for task in batch))
        finally:
            self.progress.finish()
        return len(waiting)

    def _goes_on(self) -> bool:
        if self._failures >= FAILURES_IN_A_ROW:
            self.progress.note(f"{FAILURES_IN_A_ROW} kernels in a row could not be tuned, so tuning ends here")
            return False
        return self.deadline - self.clock() > self._longest_s

    def _tune_batch(self, batch: Sequence[TuningTask]) -> None:
        """Compiles on all cores, then times with nothing beside."""
        todo = [task for task in batch if self.database.find(task.kernel.identity) is None]
        with ThreadPoolExecutor(max(1, len(todo))) as pool:
            folders = (self.work_dir / f"kernel-{number}" for number in range(len(todo)))
            compiled = [
                (task, pool.submit(self._compile, task, folder)) for task, folder in zip(todo, folders, strict=False)
            ]
        for task, future in compiled:
            try:
                self.database.store(self._measured(task, future))
                self._failures = 0
            except (CompileError, MeasurementError) as error:
                self._failures += 1
                self.progress.note(f"{task.kernel.words}: not tuned, {error}")

    def _compile(self, task: TuningTask, folder: Path) -> CandidateLibrary:
        folder.mkdir(parents=True, exist_ok=True)
        return self.compiler.compile(task.kernel, task.candidates, folder)

    def _measured(self, task: TuningTask, compiled: "Future[CandidateLibrary]") -> TuningRecord:
        library, default = compiled.result(), task.candidates[0]
        if default not in library.calls:
            raise CompileError(f"its default loops: compiling {library.failures[default]}")
        outcome = self.comparer.best(library, default)
        return TuningRecord(
            task.kernel.identity,
            outcome.winner,
            outcome.comparison.seconds,
            outcome.comparison.default_seconds,
            len(library.calls) - len(outcome.crashed),
            len(library.failures) + len(outcome.crashed),
            datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        )
