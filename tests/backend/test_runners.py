"""Measured processes that work, crash, hang and return nonsense."""

import _thread
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.backend.base import Artifact, Compiler, Measurement, MeasurementSettings
from codesign.backend.local_runner import LocalRunner
from codesign.backend.onnxruntime_compiler import OnnxruntimeCompiler
from codesign.backend.sidecar import Sidecar
from codesign.backend.simulated_runner import SimulatedRunner
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.errors import InputError, MeasurementError
from codesign.hardware.target import Target, TvmTarget
from codesign.plan.plan import Cost

HOST = Target(name="host", description="this machine", profile="host", runner="local", tvm=TvmTarget())
QUICK = MeasurementSettings(warm_up=1, repeats=3, runs_per_sample=2, timeout_s=120)


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements leave nothing behind: each test looks at the folder that they work in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def _left_behind(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary").iterdir())


def _scaling_net(path: Path, factor: float = 2.0) -> Path:
    """y = max(factor x, 0) for x [1, 2, 4, 4]."""
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[0, 0] = weight[1, 1] = factor
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="c"), helper.make_node("Relu", ["c"], ["y"], name="r")]
    start = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])
    graph = helper.make_graph(nodes, "net", [start], [end], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _native(folder: Path, body: str) -> Artifact:
    """A library that runs C code when it is loaded."""
    source, library = folder / "bad.c", folder / "bad.so"
    source.write_text(
        "#include <stdio.h>\n#include <signal.h>\n#include <unistd.h>\n"
        f"__attribute__((constructor)) static void start(void) {{ {body} }}\n"
    )
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "a C compiler is needed, as TVM itself needs one"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    Sidecar("tvm", "host", "digest", (1, 2, 4, 4), (1, 2, 4, 4), 1, 0).write(library)
    return Artifact(library, "tvm", "host", "digest", 0)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_energy_of_one_run_comes_from_the_meter_that_there_is(tmp_path: Path) -> None:
    artifact = OnnxruntimeCompiler().compile(_scaling_net(tmp_path / "net.onnx"), HOST, "digest", tmp_path)
    settings = MeasurementSettings(warm_up=1, repeats=20, runs_per_sample=50, timeout_s=120)
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    nothing = LocalRunner(sysfs=tmp_path / "sys").measure(artifact, settings, None)
    assert nothing.energy_j is None
    assert "not measured: RAPL: no package" in nothing.energy_source
    chip.mkdir(parents=True)
    for name, text in (("name", "ina226"), ("power1_input", "2000000")):
        (chip / name).write_text(text)
    metered = LocalRunner(sysfs=tmp_path / "sys").measure(artifact, settings, None)
    assert metered.energy_j is not None
    assert metered.energy_j == pytest.approx(2.0 * float(np.mean(metered.latencies_s)), rel=0.5)
    assert "INA sensor" in metered.energy_source


@pytest.mark.parametrize("compiler", [TvmCompiler(), OnnxruntimeCompiler()])
def test_latencies_and_outputs(compiler: Compiler, tmp_path: Path) -> None:
    artifact = compiler.compile(_scaling_net(tmp_path / "net.onnx"), HOST, "digest", tmp_path)
    images = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    measured = LocalRunner().measure(artifact, QUICK, images)
    assert measured.outputs is not None
    np.testing.assert_allclose(measured.outputs, np.maximum(2 * images, 0), rtol=1e-6)
    assert len(measured.latencies_s) == 3
    assert all(0 < t < 0.1 for t in measured.latencies_s)
    assert (measured.provenance, measured.energy_j, measured.threads) == ("measured", None, 1)
    assert LocalRunner().measure(artifact, QUICK, None).outputs is None
    assert _left_behind(tmp_path) == []


def test_a_segmentation_fault_is_one_failed_measurement(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"bad\.so: the measured process was killed by SIGSEGV"):
        LocalRunner().measure(_native(tmp_path, "raise(SIGSEGV);"), QUICK, None)
    assert _left_behind(tmp_path) == []


def test_an_instruction_that_this_processor_lacks(tmp_path: Path) -> None:
    artifact = _native(tmp_path, "raise(SIGILL);")
    Sidecar("tvm", "host", "digest", (1, 2, 4, 4), (1, 2, 4, 4), 1, 0, "znver9").write(artifact.path)
    with pytest.raises(MeasurementError, match=r"killed by SIGILL; it is compiled for znver9, look whether"):
        LocalRunner().measure(artifact, QUICK, None)


def _hanging(folder: Path) -> tuple[Artifact, Callable[[], int]]:
    """A library that forks a child and hangs, and how to find the child."""
    note = folder / "pid"
    body = (
        f'if (!fork()) {{ FILE *f = fopen("{note}", "w"); fprintf(f, "%d", getpid()); fclose(f); }} for (;;) sleep(1);'
    )
    return _native(folder, body), lambda: int(note.read_text())


def test_a_time_limit_ends_the_whole_process_group(tmp_path: Path) -> None:
    artifact, child = _hanging(tmp_path)
    limited = MeasurementSettings(timeout_s=10)
    start = time.monotonic()
    with pytest.raises(MeasurementError, match=r"bad\.so: the measured process ran past its limit of 10 s"):
        LocalRunner().measure(artifact, limited, None)
    assert time.monotonic() - start < 20
    time.sleep(0.2)
    assert not _alive(child())
    assert _left_behind(tmp_path) == []


def test_an_interrupt_ends_the_measured_process(tmp_path: Path) -> None:
    artifact, child = _hanging(tmp_path)

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.2)
        _thread.interrupt_main(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        LocalRunner().measure(artifact, QUICK, None)
    time.sleep(0.2)
    assert not _alive(child())
    assert _left_behind(tmp_path) == []


def test_a_truncated_library(tmp_path: Path) -> None:
    artifact = TvmCompiler().compile(_scaling_net(tmp_path / "net.onnx"), HOST, "digest", tmp_path)
    artifact.path.write_bytes(artifact.path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"tvm-host-digest\.so: is cut off, it has 1000 of \d+ bytes"):
        LocalRunner().measure(artifact, QUICK, None)


def test_an_artefact_without_its_facts(tmp_path: Path) -> None:
    artifact = OnnxruntimeCompiler().compile(_scaling_net(tmp_path / "net.onnx"), HOST, "digest", tmp_path)
    artifact.path.with_suffix(".json").write_text('{"compiler": "onnxruntime"}')
    with pytest.raises(MeasurementError, match="missing or damaged"):
        LocalRunner().measure(artifact, QUICK, None)


def test_outputs_that_are_not_finite(tmp_path: Path) -> None:
    artifact = OnnxruntimeCompiler().compile(_scaling_net(tmp_path / "net.onnx", np.inf), HOST, "digest", tmp_path)
    with pytest.raises(MeasurementError, match="outputs of image 0 are not finite"):
        LocalRunner().measure(artifact, QUICK, np.ones((2, 2, 4, 4), np.float32))


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    artifact = OnnxruntimeCompiler().compile(_scaling_net(tmp_path / "net.onnx"), HOST, "digest", tmp_path)
    with pytest.raises(InputError, match=r"shape \(2, 3, 4, 4\), allowed is \[N, 2, 4, 4\]"):
        LocalRunner().measure(artifact, QUICK, np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match="finite"):
        LocalRunner().measure(artifact, QUICK, np.full((1, 2, 4, 4), np.nan, np.float32))


def test_a_wrong_output_shape_is_noticed(tmp_path: Path) -> None:
    artifact = OnnxruntimeCompiler().compile(_scaling_net(tmp_path / "net.onnx"), HOST, "digest", tmp_path)
    Sidecar("onnxruntime", "host", "digest", (1, 2, 4, 4), (1, 5), 1, 0).write(artifact.path)
    with pytest.raises(MeasurementError, match=r"outputs have shape \(1, 2, 4, 4\), expected \(1, 5\)"):
        LocalRunner().measure(artifact, QUICK, np.zeros((1, 2, 4, 4), np.float32))


def test_simulated_costs_with_real_outputs(tmp_path: Path) -> None:
    artifact = OnnxruntimeCompiler().compile(_scaling_net(tmp_path / "net.onnx"), HOST, "digest", tmp_path)
    runner = SimulatedRunner(Cost(0.25, 0.5, 100, 200, 0.0), LocalRunner())
    measured = runner.measure(artifact, QUICK, np.ones((2, 2, 4, 4), np.float32))
    assert (measured.latencies_s, measured.energy_j, measured.provenance) == ((0.25,), 0.5, "simulated")
    assert measured.outputs is not None
    assert np.array_equal(measured.outputs, np.full((2, 2, 4, 4), 2, np.float32))
    assert runner.measure(artifact, QUICK, None) == Measurement((0.25,), 0.5, "simulated", 1, None, "cost model")
