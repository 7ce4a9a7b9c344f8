"""Times single kernels of a compiled network, each by itself, in a process that streams what it finds."""

import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from codesign.backend.base import Artifact
from codesign.backend.child_process import last_message
from codesign.backend.kernel_table import KernelArgument, KernelCall
from codesign.backend.start import RUNTIME_ALONE, start_command
from codesign.errors import MeasurementError

STEADY = 0.03
"""The reference kernel changes by less from one side of a good row to the other."""
SLOWED = 0.1
"""A reference kernel slower than usual by more shares its core with something else, which slows kernels unequally."""
NETWORK = "(network)"
"""Stands for a kernel's name: the whole network as users call it, on an input of its first argument's shape."""


@dataclass(frozen=True)
class KernelTimingSettings:
    """How kernels are timed.

    Attributes:
        threads: Threads of the measured program, fixed before it starts.
        placements: Times that a kernel's operands are placed anew in memory: where they lie decides whether loads wait
            for stores whose addresses end alike, which may cost a sixth. Placements at which the machine was not
            itself are made up for, by up to as many again.
        repeats: Samples of each placement.
        sample_s: Seconds that one sample shall last: as many calls as fit, at least one.
        timeout_s: Seconds after which the process is ended.
        usual_reference_s: Seconds of the reference kernel on an undisturbed machine; None where that is not known.
    """

    threads: int = 1
    placements: int = 5
    repeats: int = 4
    sample_s: float = 2e-4
    timeout_s: float = 300.0
    usual_reference_s: float | None = None


@dataclass(frozen=True)
class KernelTiming:
    """What was measured of one kernel or network.

    A processor changes its clock with what its neighbours do, within a second and by a third. Each row is therefore
    measured against a reference kernel that is timed right before and right after.

    Attributes:
        kernel: Name of the function, `NETWORK` for a whole network.
        samples_s: Mean seconds of one call, one number a sample, one row a placement of the operands.
        reference_s: Seconds of one call of the reference kernel before the first row and after each row.
    """

    kernel: str
    samples_s: tuple[tuple[float, ...], ...]
    reference_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples_s or len(self.reference_s) != len(self.samples_s) + 1:
            raise ValueError(f"{len(self.samples_s)} rows need one reference more, got {len(self.reference_s)}")

    def good_rows(self, usual_s: float) -> tuple[int, ...]:
        """Rows during which the machine was itself: the reference kernel took the same time on both sides.

        Args:
            usual_s: Seconds of the reference kernel on an undisturbed machine.

        Returns:
            Indices; the reference kernel may be faster than usual there, by a higher clock, but hardly slower.
        """
        pairs = enumerate(itertools.pairwise(self.reference_s))
        return tuple(
            row
            for row, (before, after) in pairs
            if abs(after / before - 1) <= STEADY and max(before, after) <= (1 + SLOWED) * usual_s
        )

    def is_good(self, usual_s: float) -> bool:
        """Whether at least half of all rows are good.

        Args:
            usual_s: Seconds of the reference kernel on an undisturbed machine.

        Returns:
            True if they are.
        """
        return 2 * len(self.good_rows(usual_s)) >= len(self.samples_s)

    def seconds(self, usual_s: float) -> float:
        """Seconds of one call at the usual clock: the fastest sample of the middle good row.

        All else that a machine does only adds time, hence the fastest sample; where operands lie is chance, hence the
        middle row.

        Args:
            usual_s: Seconds of the reference kernel at that clock.

        Returns:
            Seconds; from all rows if none is good.
        """
        rows = self.good_rows(usual_s) or range(len(self.samples_s))
        mean = [(before + after) / 2 for before, after in itertools.pairwise(self.reference_s)]
        return usual_s * statistics.median_low(min(self.samples_s[row]) / mean[row] for row in rows)


def usual_reference_s(timings: Iterable[KernelTiming]) -> float:
    """What the reference kernel takes on an undisturbed machine: the clock to which measurements are brought.

    Args:
        timings: Everything that was measured beside it.

    Returns:
        The lower quartile of its seconds, since disturbances only add time; infinite if nothing was measured.
    """
    seconds = sorted(value for timing in timings for value in timing.reference_s)
    return seconds[len(seconds) // 4] if seconds else math.inf


@dataclass(frozen=True)
class ReferenceKernel:
    """A kernel that is timed again and again, to notice disturbances and changes of frequency.

    Attributes:
        artifact: Library that holds it.
        call: The kernel.
    """

    artifact: Artifact
    call: KernelCall


class KernelRunner(Protocol):
    """Times kernels on a target."""

    def time_kernels(
        self,
        artifact: Artifact,
        calls: Sequence[KernelCall],
        reference: ReferenceKernel,
        settings: KernelTimingSettings,
    ) -> Iterator[KernelTiming]:
        """Times kernels one after the other, on buffers of their own that stay in the caches.

        Args:
            artifact: The library that holds them all.
            calls: What to time, each function once, and `NETWORK`; functions that the library does not hold are left
                out.
            reference: Timed before and after each, which shows disturbances and changes of frequency.
            settings: How.

        Yields:
            One timing a kernel, as soon as it is there.

        Raises:
            MeasurementError: The program crashed, ran past its limit, or the device went away.
        """


@dataclass(frozen=True)
class KernelRequest:
    """What the timing process shall do.

    Attributes:
        library: File to load.
        calls: Kernels to time.
        reference_library: File that holds the reference kernel.
        reference: The reference kernel.
        placements: Placements of each kernel's operands.
        repeats: Samples of each placement.
        sample_s: Seconds a sample.
        usual_reference_s: Seconds of the reference kernel on an undisturbed machine.
    """

    library: str
    calls: tuple[KernelCall, ...]
    reference_library: str
    reference: KernelCall
    placements: int
    repeats: int
    sample_s: float
    usual_reference_s: float | None

    def write(self, path: Path) -> None:
        """Writes the request.

        Args:
            path: Where to.
        """
        path.write_text(json.dumps(asdict(self)))


def read_request(path: Path) -> KernelRequest:
    """Reads a request.

    Args:
        path: File that `KernelRequest.write` wrote.

    Returns:
        The request.
    """
    values = json.loads(path.read_text())
    calls = tuple(_call(row) for row in values["calls"])
    rest = {key: value for key, value in values.items() if key not in {"calls", "reference"}}
    return KernelRequest(calls=calls, reference=_call(values["reference"]), **rest)


def _call(row: "dict[str, object]") -> KernelCall:
    given = row["arguments"]
    assert isinstance(given, list)
    arguments = tuple(KernelArgument(tuple(argument["shape"]), argument["dtype"]) for argument in given)
    return KernelCall(str(row["kernel"]), str(row["operation"]), arguments)


class LocalKernelRunner:
    """Times kernels on this machine, in a process whose number of threads is fixed before it starts."""

    def time_kernels(
        self,
        artifact: Artifact,
        calls: Sequence[KernelCall],
        reference: ReferenceKernel,
        settings: KernelTimingSettings,
    ) -> Iterator[KernelTiming]:
        """Times kernels one after the other.

        Args:
            artifact: The library that holds them all.
            calls: What to time.
            reference: Timed before and after each.
            settings: How.

        Yields:
            One timing a kernel, as soon as it is there.

        Raises:
            MeasurementError: The program crashed or ran past its limit.
        """
        with tempfile.TemporaryDirectory(prefix="codesign-kernels-") as name:
            request, log = Path(name) / "request.json", Path(name) / "log.txt"
            KernelRequest(
                str(artifact.path.absolute()),
                tuple(calls),
                str(reference.artifact.path.absolute()),
                reference.call,
                settings.placements,
                settings.repeats,
                settings.sample_s,
                settings.usual_reference_s,
            ).write(request)
            threads = {"TVM_NUM_THREADS": str(settings.threads), "OMP_NUM_THREADS": str(settings.threads)}
            reason = yield from _stream(request, threads, settings.timeout_s, log)
        if reason is not None:
            raise MeasurementError(f"{artifact.path}: the timing process {reason}")


def _stream(
    request: Path, environment: "dict[str, str]", timeout_s: float, log: Path
) -> "Generator[KernelTiming, None, str | None]":
    """Yields what the process prints, line by line; returns why it failed, or None."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            start_command("codesign.backend.kernel_worker", str(request)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | RUNTIME_ALONE | environment,
            start_new_session=True,
        )
        timer = threading.Timer(timeout_s, _kill, [process])
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield _timing(line)
            code = process.wait()
        finally:
            expired = not timer.is_alive()
            timer.cancel()
            _kill(process)
            process.wait()
    if expired:
        return f"ran past its limit of {timeout_s:g} s and was ended; raise it"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    if code > 0:
        return f"failed: {last_message(log)}"
    return None


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _timing(line: bytes) -> KernelTiming:
    row = json.loads(line)
    samples = tuple(tuple(samples) for samples in row["samples_s"])
    return KernelTiming(row["kernel"], samples, tuple(row["reference_s"]))
