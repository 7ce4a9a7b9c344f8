"""Runs artefacts on this machine, each measurement in a process of its own."""

import math
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.backend.base import Artifact, Measurement, MeasurementSettings
from codesign.backend.child_process import run_module
from codesign.backend.images import check_images, check_outputs
from codesign.backend.shared_library import refuse_other_machine
from codesign.backend.sidecar import Sidecar, read_sidecar
from codesign.backend.start import RUNTIME_ALONE
from codesign.backend.worker import Request
from codesign.errors import MeasurementError
from codesign.hardware.power import SYSFS

_ILLEGAL = "SIGILL"
"""Ends a process that meets an instruction which its processor lacks."""


@dataclass(frozen=True)
class LocalRunner:
    """Measures wall time and, with a power meter, energy; threads are fixed before the measured process loads anything.

    Attributes:
        sysfs: Where power meters are looked for.
    """

    sysfs: Path = SYSFS

    def measure(
        self, artifact: Artifact, settings: MeasurementSettings, images: NDArray[np.float32] | None
    ) -> Measurement:
        """Measures latency on the first image and computes the outputs of all images.

        Args:
            artifact: What to run.
            settings: How.
            images: Inputs `[N, ...]`, run one at a time; None for latency on an input of zeros alone.

        Returns:
            The measurement, with the outputs `[N, ...]` if there are images.

        Raises:
            MeasurementError: The program crashed, ran past its limit or returned nonsense.
        """
        sidecar = read_sidecar(artifact.path)
        if artifact.compiler == "tvm":
            refuse_other_machine(artifact.path, platform.machine())
        check_images(images, sidecar, artifact)
        with tempfile.TemporaryDirectory(prefix="codesign-measure-") as name:
            folder = Path(name)
            request = _write_request(artifact, settings, images, sidecar, folder, self.sysfs)
            _run_worker(request, settings, artifact, sidecar, folder)
            try:
                with np.load(folder / "result.npz", allow_pickle=False) as file:
                    latencies = file["latencies_s"]
                    energy_j, energy_source = float(file["energy_j"]), str(file["energy_source"])
                    outputs = file["outputs"] if images is not None else None
            except (OSError, ValueError, KeyError) as error:
                raise MeasurementError(f"{artifact.path}: the measured process wrote no result ({error})") from error
        if outputs is not None:
            check_outputs(outputs, images, sidecar, artifact)
        return Measurement(
            tuple(float(t) for t in latencies),
            None if math.isnan(energy_j) else energy_j,
            "measured",
            settings.threads,
            outputs,
            energy_source,
        )


def _write_request(
    artifact: Artifact,
    settings: MeasurementSettings,
    images: NDArray[np.float32] | None,
    sidecar: Sidecar,
    folder: Path,
    sysfs: Path,
) -> Path:
    if images is not None:
        np.save(folder / "images.npy", images, allow_pickle=False)
    path = folder / "request.json"
    Request(
        artifact=str(artifact.path.absolute()),
        compiler=artifact.compiler,
        input_shape=sidecar.input_shape,
        threads=settings.threads,
        warm_up=settings.warm_up,
        repeats=settings.repeats,
        runs_per_sample=settings.runs_per_sample,
        images=None if images is None else str(folder / "images.npy"),
        result=str(folder / "result.npz"),
        sysfs=str(sysfs),
    ).write(path)
    return path


def _run_worker(
    request: Path, settings: MeasurementSettings, artifact: Artifact, sidecar: Sidecar, folder: Path
) -> None:
    threads = RUNTIME_ALONE | {"TVM_NUM_THREADS": str(settings.threads), "OMP_NUM_THREADS": str(settings.threads)}
    reason = run_module("codesign.backend.worker", request, threads, settings.timeout_s, folder / "log.txt")
    if reason is not None:
        hint = (
            f"; it is compiled for {sidecar.processor}, look whether this machine is one" if _ILLEGAL in reason else ""
        )
        raise MeasurementError(f"{artifact.path}: the measured process {reason}{hint}")
