"""Measures probes until a budget is spent.

Why single kernels and not networks: a network is one number with all noise of a run in it; a kernel timed by TVM's own
loop repeats to a fraction of a percent, even beside other programs. One library holds thirty of them, which shares the
cost of compiling, the longest part by far. What a kernel meets in a network that it does not meet in a loop (weights
that left the cache, the call itself) is measured by running each network whole, too.

Compiling fills all cores; nothing else runs while kernels are timed.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from codesign.backend.base import Artifact, Compiler
from codesign.backend.kernel_table import KernelArgument, KernelCall, read_kernel_calls
from codesign.backend.kernel_timing import NETWORK, KernelRunner, KernelTiming, KernelTimingSettings, ReferenceKernel
from codesign.calibration.probes import Probe
from codesign.calibration.samples import KernelSample, NetworkSample, SampleFile
from codesign.errors import CompileError, MeasurementError
from codesign.hardware.target import Target
from codesign.ir.serialization import save_graph
from codesign.progress import Progress

REPETITIONS = 2
"""How often what was disturbed is timed again before it is flagged."""
FAILURES_IN_A_ROW = 3
"""So many probes that fail one after the other mean that the device is gone."""
UNKNOWN_IN_A_ROW = 8
"""After so many probes of which an earlier run measured nothing, it is taken to have measured none of the rest."""
AGAIN = 0.1
"""Share of the budget that is spent at the end, at most, on what the machine disturbed of networks at hand."""


@dataclass(frozen=True)
class Device:
    """How a target is compiled for and measured.

    Attributes:
        target: The target.
        compiler: Compiles for it.
        kernels: Times kernels and whole networks on it.
        reference: The kernel that is timed again and again.
    """

    target: Target
    compiler: Compiler
    kernels: KernelRunner
    reference: ReferenceKernel


@dataclass
class Session:
    """One run of the measuring loop.

    Attributes:
        device: What is measured.
        file: Where samples go.
        work_dir: Folder for compiled probes.
        progress: Told about long work; a step is a second of the budget.
        budget_s: Seconds for all of it.
        clock: Tells seconds.
        probes: Probes that were looked at so far, those of earlier runs included.
    """

    device: Device
    file: SampleFile
    work_dir: Path
    progress: Progress
    budget_s: float
    clock: Callable[[], float] = time.monotonic
    probes: list[Probe] = field(default_factory=list)
    _disturbed: list[tuple[Probe, Artifact]] = field(default_factory=list)
    _failures: int = 0
    _longest_batch_s: float = 0.0
    _start: float = 0.0
    _told: int = 0

    def measure(self, probes: Iterator[Probe]) -> None:
        """Takes probes until the next batch would not fit the budget; the first batch is always measured.

        Args:
            probes: What to measure, without end or not.

        Raises:
            MeasurementError: Several probes failed one after the other.
        """
        self._start = self.clock()
        self.progress.start("Measuring kernels", max(1, round(self.budget_s)))
        try:
            while batch := self._next_batch(probes):
                began = self.clock()
                self._measure_batch(batch)
                self._longest_batch_s = max(self._longest_batch_s, self.clock() - began)
            self._measure_disturbed()
            self._recall(probes)
        finally:
            self.progress.finish()

    def _recall(self, probes: Iterator[Probe]) -> None:
        """Takes along what earlier runs measured of probes that this budget did not reach."""
        unknown = 0
        while unknown < UNKNOWN_IN_A_ROW and (probe := next(probes, None)) is not None:
            known = bool(self.file.measured_operations(probe.name))
            unknown = 0 if known else unknown + 1
            if known:
                self.probes.append(probe)

    def _tell(self) -> None:
        """Tells how much of the budget is spent."""
        spent = min(round(self.clock() - self._start), round(self.budget_s))
        if spent > self._told:
            self.progress.advance(spent - self._told)
            self._told = spent

    def _next_batch(self, probes: Iterator[Probe]) -> list[Probe]:
        """As many probes as there are cores to compile them; none where the next batch would not fit the budget."""
        batch: list[Probe] = []
        while len(batch) < (os.cpu_count() or 1):
            left = self.budget_s - (self.clock() - self._start)
            if left < self._longest_batch_s:
                return batch
            probe = next(probes, None)
            if probe is None:
                break
            self.probes.append(probe)
            if not self.file.is_complete(probe.name):
                batch.append(probe)
            elif left <= 0:
                break
        return batch

    def _measure_batch(self, batch: Sequence[Probe]) -> None:
        with ThreadPoolExecutor(len(batch)) as pool:
            compiled = [(probe, pool.submit(self._compile, probe)) for probe in batch]
            while not all(future.done() for _, future in compiled):
                wait([future for _, future in compiled], timeout=1.0)
                self._tell()
        for probe, future in compiled:
            try:
                self._measure_probe(probe, future)
                self._failures = 0
            except (CompileError, MeasurementError) as error:
                self._failures += 1
                self.progress.note(f"{probe.name}: left out, {error}")
                if self._failures >= FAILURES_IN_A_ROW:
                    raise MeasurementError(
                        f"{self.device.target.name}: {FAILURES_IN_A_ROW} measurements in a row failed, the last one: "
                        f"{error}; {len(self.file.kernels)} samples are kept in {self.file.path}, repeat the command "
                        f"when the device is back"
                    ) from error

    def _compile(self, probe: Probe) -> Artifact:
        folder = self.work_dir / f"probe-{self.probes.index(probe)}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "network.onnx"
        save_graph(probe.graph(), path)
        return self.device.compiler.compile(path, self.device.target, "probe", folder)

    def _measure_probe(self, probe: Probe, compiled: "Future[Artifact]") -> None:
        artifact = compiled.result()
        known = self.file.measured_operations(probe.name)
        operations, call_of = _operations(probe, artifact)
        todo = {op: names for op, names in operations.items() if op not in known}
        self._time_operations(probe, artifact, todo, call_of)
        if not probe.is_drawn and self._disturbed_operations(probe, artifact):
            self._disturbed.append((probe, artifact))
            return
        for path in artifact.path.parent.iterdir():
            with suppress(OSError):
                path.unlink()

    def _disturbed_operations(self, probe: Probe, artifact: Artifact) -> "dict[str, tuple[str, ...]]":
        """What was never measured while the machine was itself."""
        usual_s = self.file.usual_s()
        good = {s.operation for s in self.file.kernels if s.network == probe.name and s.is_good(usual_s)}
        good |= {NETWORK for s in self.file.networks if s.network == probe.name and s.timing.is_good(usual_s)}
        return {op: names for op, names in _operations(probe, artifact)[0].items() if op not in good}

    def _measure_disturbed(self) -> None:
        """Measures what was disturbed of networks at hand again, until all was undisturbed once or time is up."""
        began, attempts = self.clock(), 0
        while self._disturbed and (attempts == 0 or self.clock() - began < AGAIN * self.budget_s):
            attempts += 1
            for probe, artifact in self._disturbed:
                todo, call_of = self._disturbed_operations(probe, artifact), _operations(probe, artifact)[1]
                usual_s = self.file.usual_s()
                settings = KernelTimingSettings(threads=self.device.target.threads, usual_reference_s=usual_s)
                calls = [call_of[name] for name in dict.fromkeys(n for names in todo.values() for n in names)]
                timed = self.device.kernels.time_kernels(artifact, calls, self.device.reference, settings)
                good = {timing.kernel: timing for timing in timed if timing.is_good(usual_s)}
                for operation, names in todo.items():
                    if all(name in good for name in names):
                        self.file.add(_sample(probe, operation, tuple(good[name] for name in names)))
            self._disturbed = [pair for pair in self._disturbed if self._disturbed_operations(*pair)]

    def _time_operations(
        self,
        probe: Probe,
        artifact: Artifact,
        todo: "dict[str, tuple[str, ...]]",
        call_of: "dict[str, KernelCall]",
    ) -> None:
        """Times kernels in the order of operations, and writes an operation as soon as its kernels are there."""
        found: dict[str, KernelTiming] = {}
        written: set[str] = set()
        for attempt in range(REPETITIONS + 1):
            usual_s = self.file.usual_s()
            names = list(dict.fromkeys(n for op, kernels in todo.items() if op not in written for n in kernels))
            again = [name for name in names if name not in found or not found[name].is_good(usual_s)]
            settings = KernelTimingSettings(
                threads=self.device.target.threads, usual_reference_s=usual_s if self.file.kernels else None
            )
            requested = [call_of[name] for name in again]
            for timing in self.device.kernels.time_kernels(artifact, requested, self.device.reference, settings):
                found[timing.kernel] = _better(found.get(timing.kernel), timing, usual_s)
                self._tell()
                self._write_finished(probe, todo, found, written, attempt == REPETITIONS)
            if len(written) == len(todo):
                break
        self._write_finished(probe, todo, found, written, is_last=True)

    def _write_finished(
        self,
        probe: Probe,
        todo: "dict[str, tuple[str, ...]]",
        found: "dict[str, KernelTiming]",
        written: set[str],
        is_last: bool,
    ) -> None:
        """Writes what is there, the whole network last, since it tells that a probe is complete."""
        usual_s = self.file.usual_s()
        for operation, kernels in todo.items():
            if operation in written or not all(name in found for name in kernels):
                continue
            timings = tuple(found[name] for name in kernels)
            if not is_last and not all(timing.is_good(usual_s) for timing in timings):
                continue
            if operation == NETWORK and not is_last and len(written) < len(todo) - 1:
                continue
            self.file.add(_sample(probe, operation, timings))
            written.add(operation)


def _sample(probe: Probe, operation: str, timings: tuple[KernelTiming, ...]) -> KernelSample | NetworkSample:
    if operation == NETWORK:
        return NetworkSample(probe.name, len(probe.kernels), timings[0])
    bits = probe.widths(operation)
    node, _ = probe.kernels[operation]
    shape = f"{node.op_type} {node.geometry or node.window or (node.input_elements, node.output_elements)}"
    return KernelSample(probe.name, operation, shape, bits.weight, bits.activation, timings)


def _operations(probe: Probe, artifact: Artifact) -> "tuple[dict[str, tuple[str, ...]], dict[str, KernelCall]]":
    """Kernels of each node that the facts know to run by itself, and of the whole; and how each kernel is called."""
    calls = [call for call in read_kernel_calls(artifact.path) if call.operation]
    found: dict[str, tuple[str, ...]] = {}
    for call in calls:
        if call.operation in probe.kernels:
            found[call.operation] = (*found.get(call.operation, ()), call.kernel)
    image = KernelArgument(probe.input_shape, "float32")
    whole = {NETWORK: KernelCall(NETWORK, "", (image,))}
    return found | {NETWORK: (NETWORK,)}, {call.kernel: call for call in calls} | whole


def _better(known: KernelTiming | None, new: KernelTiming, usual_s: float) -> KernelTiming:
    """Of two measurements of one kernel, the one with more good rows."""
    return new if known is None or len(new.good_rows(usual_s)) >= len(known.good_rows(usual_s)) else known
