"""Measures on a device that runs a TVM RPC server; whatever happens there, an answer comes within the time limits."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

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
from codesign.backend.start import RUNTIME_ALONE
from codesign.backend.tvm_compiler import KERNELS_SUFFIX
from codesign.errors import DeviceError, InputError, MeasurementError
from codesign.hardware.target import RpcServer

_SESSION_ENDED, _SHUT_DOWN = "RPCSessionTimeoutError", "kShutdown"
"""In what TVM says where a server ended the session after its time, and where it vanished."""
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
            settings: How. The server ends the session after `timeout_s`, rounded up to seconds; one that hangs and
                does not is given up `connect_timeout_s` later.
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
                SessionRequest(self.server, math.ceil(settings.timeout_s), libraries, settings.threads),
                sidecar.input_shape,
                settings.warm_up,
                settings.repeats,
                settings.runs_per_sample,
                None if images is None else folder / "images.npy",
                folder / "result.npz",
            )
            (folder / "request.json").write_bytes(TypeAdapter(RunRequest).dump_json(request))
            try:
                for _ in self._results("codesign.backend.rpc_worker", artifact, folder, settings.timeout_s):
                    pass
            except MeasurementError:
                if not request.result.is_file():  # else only the good-bye failed
                    raise
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
        libraries = (*(_kernels_of(a) for a in (artifact, reference.artifact)), artifact.path.absolute())
        with tempfile.TemporaryDirectory(prefix="codesign-rpc-") as name:
            folder = Path(name)
            session = SessionRequest(self.server, math.ceil(settings.timeout_s), libraries, settings.threads)
            request = TimeRequest(
                session,
                tuple(calls),
                reference.call,
                settings.placements,
                settings.repeats,
                settings.sample_s,
                settings.usual_reference_s,
            )
            (folder / "request.json").write_bytes(TypeAdapter(TimeRequest).dump_json(request))
            module = "codesign.backend.rpc_kernel_worker"
            for row in self._results(module, artifact, folder, settings.timeout_s):
                yield TypeAdapter(KernelTiming).validate_python(row)

    def _results(
        self, module: str, artifact: Artifact, folder: Path, timeout_s: float
    ) -> Iterator[Mapping[str, object]]:
        if self.server.tracker is not None:
            wait_for_server(self.server.tracker, self.server.key, self.server.queue_timeout_s)
        steps = (CONNECT, CHECK, UPLOAD)
        patience_s = self.server.connect_timeout_s
        limits_s = {**dict.fromkeys(steps, patience_s), RUN: timeout_s + patience_s}
        try:
            yield from stream_results(module, folder / "request.json", RUNTIME_ALONE, limits_s, folder / "log.txt")
        except StageError as error:
            self._explain(error, artifact)

    def _explain(self, error: StageError, artifact: Artifact) -> NoReturn:
        """Whether the device is gone, or this network alone failed there."""
        place = self.server.server or f"key {self.server.key!r} at the tracker {self.server.tracker}"
        reason = "the connection broke" if _SHUT_DOWN in error.reason else error.reason
        doing = f"RPC server {place}: {_DOING[error.stage]}: {reason}"
        if error.stage != RUN:
            raise DeviceError(
                f"{doing}; look whether the server runs and answers, restart it, and repeat the command: what is "
                f"finished is kept"
            ) from None
        if _SESSION_ENDED in error.reason:
            doing, cure = f"RPC server {place}: {_DOING[RUN]}: it ended the session after its time", "raise timeout_s"
        elif error.expired:
            cure = "restart the server if it hangs, or raise timeout_s"
        else:
            cure = "the network crashed there, or the server was ended; look into its output"
        raise MeasurementError(f"{artifact.path}: {doing}; {cure}") from None


def _kernels_of(artifact: Artifact) -> Path:
    kernels = artifact.path.absolute().with_suffix(KERNELS_SUFFIX)
    if not kernels.is_file():
        raise InputError(f"{kernels}: is missing; to time single kernels, compile for a target with runner = 'rpc'")
    library_machine(kernels)
    return kernels
