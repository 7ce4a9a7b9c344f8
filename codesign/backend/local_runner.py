"""Runs artefacts on this machine, each measurement in a process of its own."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.backend.base import Artifact, Measurement, MeasurementSettings
from codesign.backend.child_process import run_module
from codesign.backend.sidecar import Sidecar, read_sidecar
from codesign.backend.worker import Request
from codesign.errors import InputError, MeasurementError
from codesign.hardware.power import SYSFS


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
        _check_images(images, sidecar, artifact)
        with tempfile.TemporaryDirectory(prefix="codesign-measure-") as name:
            folder = Path(name)
            request = _write_request(artifact, settings, images, sidecar, folder, self.sysfs)
            _run_worker(request, settings, artifact, folder)
            try:
                with np.load(folder / "result.npz", allow_pickle=False) as file:
                    latencies = file["latencies_s"]
                    energy_j, energy_source = float(file["energy_j"]), str(file["energy_source"])
                    outputs = file["outputs"] if images is not None else None
            except (OSError, ValueError, KeyError) as error:
                raise MeasurementError(f"{artifact.path}: the measured process wrote no result ({error})") from error
        if outputs is not None:
            _check_outputs(outputs, images, sidecar, artifact)
        return Measurement(
            tuple(float(t) for t in latencies),
            None if math.isnan(energy_j) else energy_j,
            "measured",
            settings.threads,
            outputs,
            energy_source,
        )


def _check_images(images: NDArray[np.float32] | None, sidecar: Sidecar, artifact: Artifact) -> None:
    if images is None:
        return
    if images.ndim < 1 or len(images) == 0 or images.shape[1:] != sidecar.input_shape[1:]:
        allowed = ", ".join(map(str, sidecar.input_shape[1:]))
        raise InputError(f"{artifact.path}: images have shape {images.shape}, allowed is [N, {allowed}] with N > 0")
    if images.dtype != np.float32 or not np.isfinite(images).all():
        raise InputError(f"{artifact.path}: images must be finite float32, got {images.dtype}; clean the data")


def _check_outputs(
    outputs: NDArray[np.float32], images: NDArray[np.float32] | None, sidecar: Sidecar, artifact: Artifact
) -> None:
    assert images is not None
    expected = (len(images), *sidecar.output_shape[1:])
    if outputs.shape != expected:
        raise MeasurementError(f"{artifact.path}: outputs have shape {outputs.shape}, expected {expected}")
    if not np.isfinite(outputs).all():
        bad = int(np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))[0])
        raise MeasurementError(f"{artifact.path}: outputs of image {bad} are not finite; check the network's weights")


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


def _run_worker(request: Path, settings: MeasurementSettings, artifact: Artifact, folder: Path) -> None:
    threads = {"TVM_NUM_THREADS": str(settings.threads), "OMP_NUM_THREADS": str(settings.threads)}
    reason = run_module("codesign.backend.worker", request, threads, settings.timeout_s, folder / "log.txt")
    if reason is not None:
        raise MeasurementError(f"{artifact.path}: the measured process {reason}")
