"""Latencies of several networks that are to be compared, measured on this machine.

What a machine does beside slows a core by a third for seconds at a time, while networks that are compared differ by a
tenth. So one process holds them all, and they take turns of a few milliseconds: each round sees every network in the
same state of the machine, and the rounds in which all were fast are those that count.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from codesign.backend.base import Artifact
from codesign.backend.child_process import run_module
from codesign.backend.sidecar import read_sidecar
from codesign.backend.start import RUNTIME_ALONE
from codesign.errors import MeasurementError

UNDISTURBED = 0.25
"""Share of the rounds that count."""
LEAST_UNDISTURBED = 3
Samples = NDArray[np.float64]
"""Seconds of a run, `[rounds, networks, samples of a turn]`."""


@dataclass(frozen=True)
class RoundSettings:
    """How networks take turns.

    Attributes:
        threads: Of each network, fixed before the process starts.
        seconds: That all rounds shall last, for each network.
        sample_s: Seconds that a sample lasts: as many runs as fit, at least one.
        samples: Of a turn.
        least_rounds: However long they take.
        most_rounds: However short they are.
        timeout_s: Seconds for each network, after which the process is ended.
    """

    threads: int = 1
    seconds: float = 1.5
    sample_s: float = 1e-3
    samples: int = 5
    least_rounds: int = 5
    most_rounds: int = 200
    timeout_s: float = 300.0


@dataclass(frozen=True)
class RoundsNetwork:
    """One network for the measuring process.

    Attributes:
        path: File to load.
        compiler: What made it.
        input_shape: Of its input.
    """

    path: str
    compiler: str
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class RoundsRequest:
    """What the measuring process shall do; numbers as in `RoundSettings`.

    Attributes:
        networks: In the order of the result.
        threads: Of each network.
        seconds: That all rounds of all networks shall last.
        sample_s: Seconds of a sample.
        samples: Of a turn.
        least_rounds: However long they take.
        most_rounds: However short they are.
        result: The npz file to write: `samples_s`, `[rounds, networks, samples]`.
    """

    networks: tuple[RoundsNetwork, ...]
    threads: int
    seconds: float
    sample_s: float
    samples: int
    least_rounds: int
    most_rounds: int
    result: str

    def write(self, path: Path) -> None:
        """Writes the request.

        Args:
            path: Where to.
        """
        path.write_bytes(_REQUEST.dump_json(self))

    @classmethod
    def read(cls, path: Path) -> "RoundsRequest":
        """Reads a request.

        Args:
            path: File that `write` wrote.

        Returns:
            The request.
        """
        return _REQUEST.validate_json(path.read_bytes())


_REQUEST = TypeAdapter(RoundsRequest)


def measure_in_rounds(artifacts: Sequence[Artifact], settings: RoundSettings) -> Samples:
    """Measures networks in turns, all in one process.

    Args:
        artifacts: What to run.
        settings: How.

    Returns:
        All samples; `undisturbed` says which of them to use.

    Raises:
        MeasurementError: The process crashed or ran past its limit.
    """
    networks = tuple(
        RoundsNetwork(str(a.path.absolute()), a.compiler, read_sidecar(a.path).input_shape) for a in artifacts
    )
    with tempfile.TemporaryDirectory(prefix="codesign-rounds-") as name:
        request, result = Path(name) / "request.json", Path(name) / "result.npz"
        RoundsRequest(
            networks,
            settings.threads,
            settings.seconds * len(artifacts),
            settings.sample_s,
            settings.samples,
            settings.least_rounds,
            settings.most_rounds,
            str(result),
        ).write(request)
        threads = {"TVM_NUM_THREADS": str(settings.threads), "OMP_NUM_THREADS": str(settings.threads)}
        limit_s = settings.timeout_s * len(artifacts)
        log = Path(name) / "log.txt"
        reason = run_module("codesign.backend.rounds_worker", request, RUNTIME_ALONE | threads, limit_s, log)
        if reason is not None:
            raise MeasurementError(f"{len(artifacts)} networks in turns: the measured process {reason}")
        with np.load(result, allow_pickle=False) as file:
            samples: Samples = file["samples_s"]
    return samples


def undisturbed(samples_s: Samples) -> Samples:
    """The rounds in which all networks were fastest.

    A round is judged by the sum over networks of the logarithm of its median, so that each counts alike whatever it
    takes.

    Args:
        samples_s: `[rounds, networks, samples]`, above 0.

    Returns:
        A quarter of the rounds, at least `LEAST_UNDISTURBED` of them, or all if there are fewer, in the order in which
        they were measured.
    """
    slowness = np.log(np.median(samples_s, axis=2)).sum(axis=1)
    count = max(LEAST_UNDISTURBED, round(UNDISTURBED * len(samples_s)))
    return samples_s[np.sort(np.argsort(slowness, kind="stable")[:count])]
