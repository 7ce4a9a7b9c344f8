"""What a user takes to a device, used as a user would."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from codesign.backend.artifact_folder import open_artifact, replace_folder
from codesign.backend.base import MeasurementSettings
from codesign.backend.local_runner import LocalRunner
from codesign.backend.manifest import TensorEntry, read_manifest
from codesign.errors import InputError

Images = NDArray[np.float32]


@pytest.fixture
def folder(artifact_folder: Path, tmp_path: Path) -> Path:
    """A copy, as on a device."""
    return Path(shutil.copytree(artifact_folder, tmp_path / "device"))


def _expected(folder: Path, images: Images) -> Images:
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": images[i : i + 1]})[0] for i in range(len(images))])


def test_the_manifest_says_what_goes_in_and_out(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.inputs == (TensorEntry("x", (1, 4, 6, 6), "float32", float(np.float32(0.04)), 100),)
    assert manifest.outputs == (TensorEntry("y", (1, 5, 6, 6), "float32", float(np.float32(0.1)), 3),)
    assert (manifest.plan_digest, manifest.target.name, manifest.target.threads) == ("plan", "rpc-host", 1)
    assert set(manifest.versions) == {"codesign", "apache-tvm", "apache-tvm-ffi"}
    assert {manifest.library, manifest.network} <= set(manifest.digests)
    assert "native" != manifest.target.mcpu != ""


def test_a_runner_of_codesign_takes_it(folder: Path, images: Images) -> None:
    _, artifact = open_artifact(folder)
    measured = LocalRunner().measure(artifact, MeasurementSettings(warm_up=0, repeats=2, runs_per_sample=1), images)
    assert measured.outputs is not None
    assert np.array_equal(measured.outputs, _expected(folder, images))


def test_the_python_runner_gives_what_onnxruntime_gives(folder: Path, images: Images, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", images)
    command: list[str | Path] = [sys.executable, folder / "run.py", tmp_path / "in.npy", tmp_path / "out.npy"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    assert np.array_equal(np.load(tmp_path / "out.npy"), _expected(folder, images))
    assert len((folder / "run.py").read_text().splitlines()) < 30


def _packages() -> Path:
    spec = find_spec("tvm_ffi")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def _build_with_compiler(folder: Path) -> Path:
    packages, runner = _packages(), folder / "cpp" / "runner"
    libraries = [packages / "tvm/lib/libtvm_runtime.so", packages / "tvm_ffi/lib/libtvm_ffi.so"]
    command: list[str | Path] = [
        "g++",
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        runner.with_suffix(".cc"),
        "-o",
        runner,
    ]
    command += ["-isystem", packages / "tvm_ffi/include", "-Wl,--no-as-needed", *libraries]
    command += [f"-Wl,-rpath,{libraries[0].parent}:{libraries[1].parent}"]
    subprocess.run(command, check=True, timeout=120)
    return runner


def _build_with_cmake(folder: Path) -> Path:
    build = folder / "build"
    subprocess.run(
        ["cmake", "-S", folder / "cpp", "-B", build, f"-DPython3_EXECUTABLE={sys.executable}"], check=True, timeout=120
    )
    subprocess.run(["cmake", "--build", build], check=True, timeout=120)
    return build / "runner"


@pytest.mark.parametrize(
    "build",
    [
        _build_with_compiler,
        pytest.param(
            _build_with_cmake, marks=pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
        ),
    ],
)
def test_the_cpp_runner_gives_what_onnxruntime_gives(
    folder: Path, images: Images, tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    runner, library = build(folder), folder / read_manifest(folder).library
    (tmp_path / "in").write_bytes(images.tobytes())
    command: list[str | Path] = [runner, library, tmp_path / "in", tmp_path / "out", "2"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert printed.startswith("3 images, 2 runs each, ")
    assert np.array_equal(np.fromfile(tmp_path / "out", np.float32).reshape(3, 5, 6, 6), _expected(folder, images))
    mistakes: tuple[tuple[list[str | Path], str], ...] = (
        ([library], "usage: runner LIBRARY INPUTS OUTPUTS [RUNS]"),
        ([library, tmp_path / "in", tmp_path / "out", "0"], "RUNS: got 0, allowed are whole numbers from 1"),
        ([library, tmp_path / "none", tmp_path / "out"], "none: cannot be read"),
        ([library, runner, tmp_path / "out"], "needed is a multiple of 576"),
        ([tmp_path / "none.so", tmp_path / "in", tmp_path / "out"], "none.so"),
    )
    for arguments, words in mistakes:
        command = [runner, *arguments]
        failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert failed.returncode in {1, 2}
        assert words in failed.stderr


def test_what_is_damaged_is_refused(folder: Path) -> None:
    manifest = read_manifest(folder)
    library, text = folder / manifest.library, (folder / "manifest.json").read_text()
    whole = library.read_bytes()
    library.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"\.so: is not what .*manifest\.json describes \(cut off or changed\)"):
        read_manifest(folder)
    library.unlink()
    with pytest.raises(InputError, match=r"\.so: is missing; copy the whole folder"):
        read_manifest(folder)
    library.write_bytes(whole)
    for change, message in (
        ("[]", "is damaged"),
        (text[:50], "is damaged"),
        (json.dumps({**json.loads(text), "format": 99}), "format is not 1"),
        (json.dumps({**json.loads(text), "weight_bytes": "many"}), "is damaged"),
        (json.dumps({**json.loads(text), "digests": {}}), "has no digest of"),
    ):
        (folder / "manifest.json").write_text(change)
        with pytest.raises(InputError, match=message):
            read_manifest(folder)
    with pytest.raises(InputError, match="name a folder that `codesign compile` wrote"):
        read_manifest(folder / "cpp")


def test_a_finished_folder_replaces_an_older_one(tmp_path: Path) -> None:
    for number in range(2):
        made = tmp_path / "made"
        made.mkdir()
        (made / str(number)).touch()
        replace_folder(made, tmp_path / "artifact")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    assert [path.name for path in (tmp_path / "artifact").iterdir()] == ["1"]
