"""What a command's work takes: time, memory, sweeps over the data."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from codesign.data_parallel import Shard
from codesign.report.analysis_contents import Cost

_PEAK_UNIT_BYTES = 1024
"""Linux gives the largest resident size in KiB."""


class Stopwatch:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self._seconds_of: dict[str, float] = {}
        self._passes_over_data = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a step's.

        Args:
            name: Of the step.

        Yields:
            Nothing.
        """
        began = time.perf_counter()
        yield
        self.add_seconds(name, time.perf_counter() - began)

    def add_seconds(self, name: str, seconds: float) -> None:
        """Adds to a step's time.

        Args:
            name: Of the step.
            seconds: Wall time.
        """
        self._seconds_of[name] = self._seconds_of.get(name, 0.0) + seconds

    def sweep(self, passes_over_data: float) -> None:
        """Adds sweeps over all samples.

        Args:
            passes_over_data: How many, forward and backward each counted as one.
        """
        self._passes_over_data += passes_over_data

    def cost(self, shard: Shard) -> Cost:
        """What it took so far; every process must call this once.

        Args:
            shard: Tells how many processes there are.

        Returns:
            Wall time of this process, CPU time of all, and the largest of their peak memories.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT_BYTES
        mine = torch.tensor([[time.process_time() - self._cpu_began, float(peak)]], dtype=torch.float64)
        cpu, peaks = shard.gather(mine).unbind(1)
        seconds = time.perf_counter() - self._began
        return Cost(seconds, float(cpu.sum()), int(peaks.max()), self._passes_over_data, dict(self._seconds_of))
