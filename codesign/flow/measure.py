"""What `codesign measure` does: an artefact's folder and a target in, latencies or a count of instructions out."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from codesign.backend.artifact_folder import open_artifact
from codesign.backend.base import Artifact, InstructionCount, MeasurementSettings
from codesign.backend.instruction_counter import InstructionCounter
from codesign.backend.kernel_timing import KernelTimingSettings
from codesign.backend.layer_times import LayerTime, layer_times
from codesign.backend.manifest import Manifest
from codesign.backend.shared_library import machine_of_triple
from codesign.errors import InputError
from codesign.flow.runners import kernel_runner_of, runner_of
from codesign.hardware.catalog import load_target
from codesign.hardware.target import Target
from codesign.progress import Progress


@dataclass(frozen=True)
class MeasureRequest:
    """The command's arguments.

    Attributes:
        artifact: Folder that `codesign compile` wrote.
        target: Name or path of a target.
        threads: Threads of the measured program; None for the target's.
        warm_up: Runs that are not counted.
        repeats: Samples.
        runs_per_sample: Runs whose mean is one sample.
        timeout_s: Time limit.
        layers: Whether each layer is timed as well.
    """

    artifact: Path
    target: str
    threads: int | None = None
    warm_up: int = 20
    repeats: int = 50
    runs_per_sample: int = 10
    timeout_s: float = 300.0
    layers: bool = False


@dataclass(frozen=True)
class MeasuredArtifact:
    """What was found.

    Attributes:
        folder: The artefact.
        manifest: What it is.
        target: Where it ran.
        threads: Threads it ran with.
        latencies_s: Samples, empty where instructions were counted.
        energy_j: Joules for one run, None where nothing measures it.
        energy_source: Which meter, or why there is none.
        instructions: The count, None where time was measured.
        layers: Each layer's share of the median latency, empty unless it was asked for.
    """

    folder: Path
    manifest: Manifest
    target: str
    threads: int
    latencies_s: tuple[float, ...]
    energy_j: float | None
    energy_source: str
    instructions: InstructionCount | None
    layers: tuple[LayerTime, ...]

    @property
    def median_s(self) -> float:
        """Median latency."""
        return statistics.median(self.latencies_s)

    def to_json(self) -> dict[str, object]:
        """For programs; every number stands beside its provenance."""
        found: dict[str, object] = {
            "artifact": str(self.folder),
            "plan_digest": self.manifest.plan_digest,
            "compiled_for": self.manifest.target.name,
            "target": self.target,
            "threads": self.threads,
            "versions": self.manifest.versions,
            "bfloat16_layers": self.manifest.bfloat16_layers,
        }
        if self.instructions is not None:
            count = {"value": self.instructions.instructions, "runs": self.instructions.runs}
            return {**found, "instructions": {**count, "provenance": f"counted by {self.instructions.emulator}"}}
        latency = {"median_s": self.median_s, "minimum_s": min(self.latencies_s), "samples_s": list(self.latencies_s)}
        layers = [
            {"layer": t.layer, "kernels": list(t.kernels), "latency_s": t.seconds, "alone_s": t.alone_s}
            for t in self.layers
        ]
        energy = {"energy_j": self.energy_j, "source": self.energy_source}
        return {**found, "latency": {**latency, "provenance": "measured"}, "energy": energy, "layers": layers}


def measure_artifact(request: MeasureRequest, progress: Progress) -> MeasuredArtifact:
    """Measures.

    Args:
        request: The command's arguments.
        progress: Told what is done.

    Returns:
        What was found.

    Raises:
        InputError: The artefact is damaged or for another kind of device, or nothing can be measured on the target.
    """
    target = load_target(request.target)
    manifest, artifact = open_artifact(request.artifact)
    _refuse_other_target(request.artifact, manifest, target)
    if target.qemu is not None:
        if request.layers:
            raise InputError("--layers: the emulator counts whole runs only; leave it out, or measure on a device")
        progress.note("counting instructions, on one thread; they are no measure of time")
        count = InstructionCounter(target.qemu).count(artifact, request.timeout_s)
        return MeasuredArtifact(request.artifact, manifest, target.name, 1, (), None, "", count, ())
    threads = request.threads or target.threads
    settings = MeasurementSettings(
        threads, request.warm_up, request.repeats, request.runs_per_sample, request.timeout_s
    )
    found = runner_of(target).measure(artifact, settings, None)
    return MeasuredArtifact(
        request.artifact,
        manifest,
        target.name,
        threads,
        found.latencies_s,
        found.energy_j,
        found.energy_source,
        None,
        _layers(artifact, target, settings, statistics.median(found.latencies_s)) if request.layers else (),
    )


def _layers(
    artifact: Artifact, target: Target, settings: MeasurementSettings, median_s: float
) -> tuple[LayerTime, ...]:
    timing = KernelTimingSettings(threads=settings.threads, timeout_s=settings.timeout_s)
    return layer_times(artifact, median_s, kernel_runner_of(target), timing)


def _refuse_other_target(folder: Path, manifest: Manifest, target: Target) -> None:
    """An artefact and a target that plainly do not belong together; a runner looks at the device itself."""
    if target.tvm is None:
        raise InputError(f"target {target.name!r} has no [tvm] section, so no artefact runs there; choose another one")
    made_for = manifest.target
    machine = None if target.tvm.mtriple is None else machine_of_triple(target.tvm.mtriple)
    if machine is not None and machine != made_for.machine:
        raise InputError(
            f"{folder}: is compiled for {made_for.machine} (target {made_for.name!r}), target {target.name!r} is "
            f"{machine}; compile it for that target"
        )
