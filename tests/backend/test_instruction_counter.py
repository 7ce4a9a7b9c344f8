"""Counting instructions in qemu; what is not installed is named, here as for a user."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.backend import instruction_counter
from codesign.backend.artifact_folder import NETWORK, open_artifact, source_text
from codesign.backend.base import Artifact, MeasurementSettings
from codesign.backend.instruction_counter import COMPILER, CROSS_COMPILER, QEMU, InstructionCounter, wheels_command
from codesign.backend.local_runner import LocalRunner
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.errors import InputError
from codesign.hardware.target import Emulator, Target, TvmTarget

WHEELS = Path(__file__).parents[2] / "aarch64-wheels"
PI = Target(
    name="pi",
    description="a Raspberry Pi 4 in qemu",
    profile="pi",
    runner="qemu-aarch64",
    tvm=TvmTarget(mcpu="cortex-a72", mtriple="aarch64-linux-gnu"),
    qemu=Emulator(wheels=str(WHEELS)),
)
needs_cross_compiler = pytest.mark.skipif(
    shutil.which(CROSS_COMPILER) is None, reason=f"{CROSS_COMPILER} is not installed (Debian: g++-aarch64-linux-gnu)"
)
needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed (Debian: qemu-user)")
needs_wheels = pytest.mark.skipif(not WHEELS.is_dir(), reason=f"no {WHEELS.name}/: {wheels_command(WHEELS.name)}")


@pytest.fixture
def artifact(artifact_folder: Path, tmp_path: Path) -> Artifact:
    return TvmCompiler().compile(artifact_folder / NETWORK, PI, "plan", tmp_path)


@needs_cross_compiler
@needs_qemu
def test_the_plugin_counts_each_instruction_of_a_loop(tmp_path: Path) -> None:
    loop = (
        "int main(int n, char **v) {\n"
        '  for (long i = 100000L * n; i; --i) __asm__ volatile("nop\\nnop\\nnop\\nnop\\nnop\\nnop\\nnop\\nnop");\n'
        "  return 0;\n}\n"
    )
    (tmp_path / "loop.cc").write_text(loop)
    (tmp_path / "plugin.c").write_text(source_text("count_instructions.c"))
    subprocess.run([CROSS_COMPILER, "-O2", "-static", tmp_path / "loop.cc", "-o", tmp_path / "loop"], check=True)
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = [COMPILER, "-shared", "-fPIC", *warnings, str(tmp_path / "plugin.c"), "-o", str(tmp_path / "plugin.so")]
    subprocess.run(command, check=True)

    def count(*arguments: str) -> int:
        option = f"{tmp_path / 'plugin.so'},out={tmp_path / 'count'}"
        subprocess.run([QEMU, "-plugin", option, str(tmp_path / "loop"), *arguments], check=True, timeout=60)
        return int((tmp_path / "count").read_text())

    once, twice = count(), count("a")
    # 8 and the loop's own 2, in each turn; starting the program takes some tens more or less each time
    assert twice - once == pytest.approx(1_000_000, abs=300)
    assert count() == pytest.approx(once, abs=50)
    refused = subprocess.run(
        [QEMU, "-plugin", str(tmp_path / "plugin.so"), str(tmp_path / "loop")], capture_output=True, check=False
    )
    assert refused.returncode != 0
    assert b"option out=FILE is missing" in refused.stderr


@needs_cross_compiler
@needs_qemu
@needs_wheels
def test_a_network_is_counted_and_computes_what_this_machine_computes(
    artifact: Artifact, artifact_folder: Path, images: NDArray[np.float32]
) -> None:
    counter = InstructionCounter(Emulator(wheels=str(WHEELS)))
    found = counter.count(artifact, 120, images)
    alone = counter.count(artifact, 120)
    settings = MeasurementSettings(warm_up=0, repeats=1, runs_per_sample=1)
    here = LocalRunner().measure(open_artifact(artifact_folder)[1], settings, images)
    assert found.outputs is not None
    assert here.outputs is not None
    assert np.array_equal(found.outputs, here.outputs)
    macs = 5 * 6 * 6 * 4 * 9
    assert macs / 16 < alone.instructions < 20 * macs
    assert found.instructions == pytest.approx(alone.instructions, rel=0.05)
    assert (found.runs, alone.runs, alone.outputs) == (6, 2, None)


@needs_cross_compiler
def test_what_is_missing_is_named(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = InstructionCounter(Emulator(wheels=str(tmp_path)))
    monkeypatch.setattr(instruction_counter, "_tool", lambda name: name)
    with pytest.raises(
        InputError, match=r"has no aarch64 wheels .* pip download .*manylinux_2_28_aarch64 .*apache-tvm"
    ):
        counter.count(artifact, 60)
    (tmp_path / "apache_tvm-aarch64.whl").write_bytes(b"PK not a wheel")
    with pytest.raises(InputError, match=r"aarch64\.whl: is no complete wheel"):
        counter.count(artifact, 60)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match="qemu-aarch64 was not found; install it, in Debian: apt-get install qemu-user"
    ):
        counter.count(artifact, 60)


def test_a_library_for_this_machine_is_refused(artifact_folder: Path) -> None:
    with pytest.raises(InputError, match="is compiled for x86_64, this device is aarch64"):
        InstructionCounter(Emulator()).count(open_artifact(artifact_folder)[1], 60)
