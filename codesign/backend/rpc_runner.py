"""Measures on a device that runs a TVM RPC server; whatever happens there, an answer comes within the time limits."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from codesign.backend.base import Artifact, Measurement, MeasurementSettings
from codesign.backend.images import check_images, check_outputs
from codesign.backend.kernel_table import KernelCall
from codesign.backend.kernel_timing import KernelTiming, KernelTimingSettings, ReferenceKernel
from codesign.backend.rpc_request import CHECK, CONNECT, RUN, UPLOAD, RunRequest, SessionRequest, TimeRequest
from codesign.backend.rpc_tracker import wait_for_server
from codesign.backend.shared_library import library_machine
from codesign.backend.sidecar import read_sidecar
from codesign.backend.staged_process import START, StageError, stream_results
from codesign.backend.tvm_compiler import KERNELS_SUFFIX
from codesign.errors import DeviceError, MeasurementError
from codesign.hardware.target import RpcServer

_DOING = {
    START: "starting the process that talks to it",
    CONNECT: "connecting",
    CHECK: "asking for its processor",
    UPLOAD: "uploading and loading the network",
    RUN: "running the network",
}


@dataclass(frozen=True)
class RpcRunner:
    """Uploads artefacts and times them in TVM's own loop on the device; the device's power is not measured.

    Attributes:
        server: How the device is reached.
    """

    server: RpcServer

    def measure(
        self, artifact: Artifact, settings: MeasurementSettings, images: NDArray[np.float32] | None
    ) -> Measurement:
        """Measures latency on the first image and computes the outputs of all images.

        Args:
            artifact: What to run, compiled by TVM.
            settings: How; `timeout_s` counts from the moment at which the network is loaded there.
            images: Inputs `[N, ...]`, run one at a time; None for latency on an input of zeros alone.

        Returns:
            The measurement, with the outputs `[N, ...]` if there are images.

        Raises:
            MeasurementError: The network crashed there, ran past its limit, or the connection broke meanwhile.
        """
        sidecar = read_sidecar(artifact.path)
        library_machine(artifact.path)
        check_images(images, sidecar, artifact)
        with tempfile.TemporaryDirectory(prefix="codesign-rpc-") as name:
            folder = Path(name)
            if images is not None:
                np.save(folder / "images.npy", images, allow_pickle=False)
            libraries = (artifact.path.absolute(),)
            request = RunRequest(
                SessionRequest(self.server, self._session_s(settings.timeout_s), libraries, settings.threads),
                sidecar.input_shape,
                settings.warm_up,
                settings.repeats,
                settings.runs_per_sample,
                None if images is None else folder / "images.npy",
                folder / "result.npz",
            )
            (folder / "request.json").write_bytes(TypeAdapter(RunRequest).dump_json(request))
            for _ in self._results("codesign.backend.rpc_worker", artifact, folder, settings.timeout_s):
                pass
            with np.load(folder / "result.npz", allow_pickle=False) as file:
                latencies, outputs = file["latencies_s"], file["outputs"] if images is not None else None
        if outputs is not None:
            check_outputs(outputs, images, sidecar, artifact)
        samples = tuple(float(t) for t in latencies)
        source = "not measured: the device's power is not read over RPC"
        return Measurement(samples, None, "measured", settings.threads, outputs, source)

    def time_kernels(
        self,
        artifact: Artifact,
        calls: Sequence[KernelCall],
        reference: ReferenceKernel,
        settings: KernelTimingSettings,
    ) -> Iterator[KernelTiming]:
        """Times kernels one after the other, in the device's own loop.

        Args:
            artifact: The library that holds them all, compiled for a target with the runner `rpc`.
            calls: What to time.
            reference: Timed before and after each.
            settings: How.

        Yields:
            One timing a kernel, as soon as it is there.
        """
        libraries = tuple(_kernels_of(a) for a in (artifact, reference.artifact))
        with tempfile.TemporaryDirectory(prefix="codesign-rpc-") as name:
            folder = Path(name)
            session = SessionRequest(self.server, self._session_s(settings.timeout_s), libraries, settings.threads)
            request = TimeRequest(
                session, tuple(calls), reference.call, settings.placements, settings.repeats, settings.sample_s
            )
            (folder / "request.json").write_bytes(TypeAdapter(TimeRequest).dump_json(request))
            module = "codesign.backend.rpc_kernel_worker"
            for row in self._results(module, artifact, folder, settings.timeout_s):
                yield TypeAdapter(KernelTiming).validate_python(row)

    def _session_s(self, timeout_s: float) -> int:
        """The server shall end a session by itself, for the case that nobody is left to close it."""
        return math.ceil(timeout_s + self.server.connect_timeout_s)

    def _results(
        self, module: str, artifact: Artifact, folder: Path, timeout_s: float
    ) -> Iterator[Mapping[str, object]]:
        if self.server.tracker is not None:
            wait_for_server(self.server.tracker, self.server.key, self.server.queue_timeout_s)
        steps = (CONNECT, CHECK, UPLOAD)
        limits_s = {**dict.fromkeys(steps, self.server.connect_timeout_s), RUN: timeout_s}
        try:
            yield from stream_results(module, folder / "request.json", {}, limits_s, folder / "log.txt")
        except StageError as error:
            self._explain(error, artifact)

    def _explain(self, error: StageError, artifact: Artifact) -> None:
        """Whether the device is gone, or this network alone failed there."""
        place = self.server.server or f"key {self.server.key!r} at the tracker {self.server.tracker}"
        doing = f"RPC server {place}: {_DOING[error.stage]}: {error.reason}"
        if error.stage != RUN:
            raise DeviceError(
                f"{doing}; look whether the server runs and hangs not, restart it, and repeat the command: what is "
                f"finished is kept"
            ) from None
        cure = "raise timeout_s" if error.expired else "the network crashed there, or the server was ended"
        raise MeasurementError(f"{artifact.path}: {doing}; {cure}") from None


def _kernels_of(artifact: Artifact) -> Path:
    kernels = artifact.path.absolute().with_suffix(KERNELS_SUFFIX)
    library_machine(kernels)
    return kernels
