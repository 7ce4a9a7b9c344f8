"""What the processes that talk to a device are asked to do."""

from dataclasses import dataclass
from pathlib import Path

from codesign.backend.kernel_table import KernelCall
from codesign.hardware.target import RpcServer

CONNECT, CHECK, UPLOAD, RUN = "connect", "check", "upload", "run"
"""Stages in order."""


@dataclass(frozen=True)
class SessionRequest:
    """What a session starts with.

    Attributes:
        server: How the server is reached.
        session_s: Seconds after which the server ends the session by itself.
        libraries: Files to upload and load.
        threads: Threads of the device's pool.
    """

    server: RpcServer
    session_s: int
    libraries: tuple[Path, ...]
    threads: int


@dataclass(frozen=True)
class RunRequest:
    """What to measure.

    Attributes:
        session: With one library, the network.
        input_shape: With a batch of one.
        warm_up: Runs that are not counted.
        repeats: Samples.
        runs_per_sample: Runs whose mean is one sample.
        images: An npy file of inputs `[N, ...]`, None for none.
        result: The npz file to write: `latencies_s` [repeats] and `outputs` [N, ...], empty without images.
    """

    session: SessionRequest
    input_shape: tuple[int, ...]
    warm_up: int
    repeats: int
    runs_per_sample: int
    images: Path | None
    result: Path


@dataclass(frozen=True)
class TimeRequest:
    """What to time.

    Attributes:
        session: With three libraries: that of the kernels, that of the reference kernel, and the whole network.
        calls: The kernels; those that the library does not hold are left out.
        reference: The reference kernel, timed before and after each.
        placements: Times that operands are placed anew.
        repeats: Samples of each placement.
        sample_s: Seconds that one sample shall last.
        usual_reference_s: Seconds of the reference kernel on an undisturbed device; None where that is not known.
    """

    session: SessionRequest
    calls: tuple[KernelCall, ...]
    reference: KernelCall
    placements: int
    repeats: int
    sample_s: float
    usual_reference_s: float | None
