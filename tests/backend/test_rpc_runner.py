"""Measuring over RPC on this machine: what works, and each way in which a server fails."""

import dataclasses
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.backend.artifact_folder import open_artifact
from codesign.backend.base import Artifact, MeasurementSettings
from codesign.backend.kernel_table import KernelArgument, KernelCall, read_kernel_calls
from codesign.backend.kernel_timing import NETWORK, KernelTimingSettings, ReferenceKernel
from codesign.backend.layer_times import layer_times
from codesign.backend.local_runner import LocalRunner
from codesign.backend.rpc_runner import RpcRunner
from codesign.backend.sidecar import read_sidecar
from codesign.errors import DeviceError, InputError, MeasurementError
from codesign.hardware.target import RpcServer
from codesign.testing.rpc_processes import ServerProcess, TrackerProcess

QUICK = MeasurementSettings(warm_up=2, repeats=3, runs_per_sample=2, timeout_s=60)
ENDLESS = dataclasses.replace(QUICK, repeats=1000, runs_per_sample=10_000_000)
KERNELS = KernelTimingSettings(placements=2, repeats=2, sample_s=1e-4, timeout_s=60)


@pytest.fixture(scope="module")
def artifact(artifact_folder: Path) -> Artifact:
    return open_artifact(artifact_folder)[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that is reached directly and survives the module."""
    process = ServerProcess("edge", tmp_path_factory.mktemp("rpc") / "log.txt")
    process.start()
    yield process
    process.kill()


def _direct(server: ServerProcess, connect_timeout_s: float = 30.0) -> RpcRunner:
    return RpcRunner(RpcServer(server=server.address, key="edge", connect_timeout_s=connect_timeout_s))


def test_outputs_are_those_of_this_machine(
    artifact: Artifact, server: ServerProcess, images: NDArray[np.float32]
) -> None:
    measured = _direct(server).measure(artifact, QUICK, images)
    local = LocalRunner().measure(artifact, QUICK, images)
    assert measured.outputs is not None
    assert local.outputs is not None
    assert np.array_equal(measured.outputs, local.outputs)
    assert len(measured.latencies_s) == 3
    assert all(0 < t < 1 for t in measured.latencies_s)
    assert (measured.provenance, measured.threads, measured.energy_j) == ("measured", 1, None)


def test_kernels_are_timed_on_the_device_and_add_up_to_the_network(artifact: Artifact, server: ServerProcess) -> None:
    missing = KernelCall("no_such_kernel", "", ())
    calls = read_kernel_calls(artifact.path)
    layer = next(call for call in calls if call.operation == "layer")
    shape = read_sidecar(artifact.path).input_shape
    network = KernelCall(NETWORK, "", (KernelArgument(shape, "float32"),))
    asked = [missing, *calls, network]
    timings = list(_direct(server).time_kernels(artifact, asked, ReferenceKernel(artifact, layer), KERNELS))
    assert {timing.kernel for timing in timings} == {call.kernel for call in calls} | {NETWORK}
    assert all(2 <= len(timing.samples_s) <= 4 for timing in timings)
    assert {len(row) for timing in timings for row in timing.samples_s} == {2}
    seconds = {timing.kernel: timing.seconds(1.0) for timing in timings}
    assert seconds[NETWORK] > seconds[layer.kernel]
    layers = layer_times(artifact, 1e-3, _direct(server), KERNELS)
    assert sum(time.seconds for time in layers) == pytest.approx(1e-3)
    assert "layer" in {time.layer for time in layers}


def test_a_library_of_another_machine_is_refused_before_it_is_sent(
    artifact: Artifact, server: ServerProcess, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(artifact.path.parent, tmp_path / "other"))
    other = dataclasses.replace(artifact, path=folder / artifact.path.name)
    whole = bytearray(artifact.path.read_bytes())
    whole[18:20] = (183).to_bytes(2, "little")
    other.path.write_bytes(whole)
    for runner in (_direct(server), LocalRunner()):
        with pytest.raises(InputError, match="is compiled for aarch64, this device is x86_64"):
            runner.measure(other, QUICK, None)
    other.path.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="is cut off, it has 1000 of"):
        _direct(server).measure(other, QUICK, None)


def test_a_measurement_that_lasts_too_long_ends_and_frees_the_server(artifact: Artifact, server: ServerProcess) -> None:
    start = time.monotonic()
    with pytest.raises(MeasurementError, match=r"it ended the session after its time; raise timeout_s"):
        _direct(server).measure(artifact, dataclasses.replace(ENDLESS, timeout_s=3), None)
    assert time.monotonic() - start < 90
    assert _direct(server).measure(artifact, QUICK, None).latencies_s


def test_a_wrong_key_is_a_mistake_and_no_hang(artifact: Artifact, server: ServerProcess) -> None:
    wrong = RpcRunner(RpcServer(server=server.address, key="phone", connect_timeout_s=30))
    with pytest.raises(DeviceError, match=r"connecting: .*key=client:phone"):
        wrong.measure(artifact, QUICK, None)


@contextmanager
def _killed_while_it_runs(server: ServerProcess) -> Iterator[None]:
    def kill() -> None:
        deadline = time.monotonic() + 60
        while "load_module" not in server.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        server.signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


def test_a_server_that_is_stopped_killed_and_started_again(artifact: Artifact, tmp_path: Path) -> None:
    server = ServerProcess("edge", tmp_path / "log.txt")
    runner = _direct(server, connect_timeout_s=3)
    with pytest.raises(
        DeviceError, match=r"connecting: .* restart it, and repeat the command: what is finished is kept"
    ):
        runner.measure(artifact, QUICK, None)
    try:
        server.start()
        server.signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(DeviceError, match="connecting: gave no answer within 3 s; look whether the server runs"):
            runner.measure(artifact, QUICK, None)
        assert time.monotonic() - start < 90
        server.kill()
        server.start()
        with _killed_while_it_runs(server), pytest.raises(MeasurementError, match=r"running .* broke; the network"):
            _direct(server).measure(artifact, ENDLESS, None)
    finally:
        server.kill()


def test_a_tracker_hands_out_servers(artifact: Artifact, tmp_path: Path) -> None:
    tracker = TrackerProcess(tmp_path / "tracker.txt")
    runner = RpcRunner(RpcServer(tracker=tracker.address, key="edge", queue_timeout_s=1))
    with pytest.raises(DeviceError, match="no RPC tracker answers"):
        runner.measure(artifact, QUICK, None)
    server = ServerProcess("edge", tmp_path / "server.txt", tracker.address)
    try:
        tracker.start()
        with pytest.raises(DeviceError, match="has no server with key 'edge'; start one on the device"):
            runner.measure(artifact, QUICK, None)
        server.start()
        assert runner.measure(artifact, QUICK, None).latencies_s
    finally:
        server.kill()
        tracker.kill()


def test_an_artefact_without_the_library_for_timing(artifact: Artifact, server: ServerProcess, tmp_path: Path) -> None:
    copied = Path(shutil.copy(artifact.path, tmp_path / artifact.path.name))
    lone = dataclasses.replace(artifact, path=copied)
    layer = next(call for call in read_kernel_calls(artifact.path) if call.operation == "layer")
    with pytest.raises(InputError, match=r"kernels\.so: is missing; .* compile for a target with runner = 'rpc'"):
        list(_direct(server).time_kernels(lone, [layer], ReferenceKernel(lone, layer), KERNELS))
