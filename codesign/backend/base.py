"""Compilers and runners: what they take, what they return."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from codesign.hardware.target import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.ir.annotations import Provenance


@dataclass(frozen=True)
class Artifact:
    """A compiled network on disk.

    Attributes:
        path: The file that a runner loads.
        compiler: Which compiler made it, such as `tvm` or `onnxruntime`.
        target: Name of the target it was compiled for.
        plan_digest: Which plan it executes; `baseline` for the network in floating point.
        weight_bytes: Bytes of all weights as stored in the artefact.
    """

    path: Path
    compiler: str
    target: str
    plan_digest: str
    weight_bytes: int


@dataclass(frozen=True)
class MeasurementSettings:
    """How latency is measured.

    Attributes:
        threads: Threads of the measured program, fixed before it starts.
        warm_up: Runs that are not counted, at least; more where a run is short.
        repeats: Samples taken.
        runs_per_sample: Consecutive runs whose mean is one sample, at least; more where a run is short.
        timeout_s: Seconds after which a candidate is ended and counts as failed.
    """

    threads: int = 1
    warm_up: int = 20
    repeats: int = 50
    runs_per_sample: int = 10
    timeout_s: float = 300.0


@dataclass(frozen=True)
class Measurement:
    """What was measured of one artefact.

    Attributes:
        latencies_s: Samples, in seconds for one run.
        energy_j: Joules for one run, None where nothing measures it.
        provenance: `measured` or `simulated`.
        threads: Threads it ran with.
        outputs: Logits `[N, ...]` for the inputs that were handed over, None if there were none.
        energy_source: Which meter or model gave the energy, or why there is none.
    """

    latencies_s: tuple[float, ...]
    energy_j: float | None
    provenance: "Provenance"
    threads: int
    outputs: "NDArray[np.float32] | None" = None
    energy_source: str = ""


@dataclass(frozen=True)
class InstructionCount:
    """Instructions that an emulator executed; says nothing of time, since instructions take different times.

    Attributes:
        instructions: Of one run.
        runs: Runs that were counted beyond the first.
        emulator: What counted.
        outputs: Logits `[N, ...]` for the inputs that were handed over, None if there were none.
    """

    instructions: float
    runs: int
    emulator: str
    outputs: "NDArray[np.float32] | None" = None


class Compiler(Protocol):
    """Turns an ONNX file, in floating point or with QDQ nodes, into an artefact."""

    name: ClassVar[str]

    def unsupported(self, graph_path: Path) -> tuple[str, ...]:
        """What it cannot compile.

        Args:
            graph_path: The ONNX file.

        Returns:
            One line `OpType (node name): why` for each node that it cannot compile; empty if it can compile all.
        """

    def compile(self, graph_path: Path, target: Target, plan_digest: str, work_dir: Path) -> Artifact:
        """Compiles.

        Args:
            graph_path: The ONNX file.
            target: Where it shall run.
            plan_digest: Recorded in the artefact.
            work_dir: Folder for the artefact, written atomically.

        Returns:
            The artefact.

        Raises:
            CompileError: It cannot; the message names the nodes.
        """


class Runner(Protocol):
    """Runs artefacts on a target."""

    def measure(
        self, artifact: Artifact, settings: MeasurementSettings, images: "NDArray[np.float32] | None"
    ) -> Measurement:
        """Measures latency on the first image and computes the outputs of all images.

        Args:
            artifact: What to run.
            settings: How.
            images: Inputs `[N, ...]`, run one at a time; None for latency on an input of zeros alone.

        Returns:
            The measurement.

        Raises:
            MeasurementError: The program crashed or ran past its limit.
        """
