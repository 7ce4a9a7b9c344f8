"""Counts the instructions of a network for aarch64 in qemu's user-mode emulation.

The network runs under the same C++ runner that goes to devices, cross-compiled, with TVM's runtime for aarch64. It runs
on one thread: threads that wait for work would be counted, too. What starting takes drops out as a difference.
"""

import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.backend.artifact_folder import network_header, source_text
from codesign.backend.base import Artifact, InstructionCount
from codesign.backend.child_process import run_command
from codesign.backend.images import check_images, check_outputs
from codesign.backend.shared_library import refuse_other_machine
from codesign.backend.sidecar import Sidecar, read_sidecar
from codesign.errors import InputError, MeasurementError
from codesign.hardware.target import Emulator

MACHINE = "aarch64"
QEMU, CROSS_COMPILER, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-g++", "gcc"
_PACKAGE_OF = {QEMU: "qemu-user", CROSS_COMPILER: "g++-aarch64-linux-gnu", COMPILER: "gcc"}
_LIBRARIES = ("tvm/lib/libtvm_runtime.so", "tvm_ffi/lib/libtvm_ffi.so")
_HEADERS = "tvm_ffi/include/"
_FEW, _MORE = 1, 3
_BUILD_S = 300.0
_ONE_THREAD = "TVM_NUM_THREADS=1"


def wheels_command(folder: str) -> str:
    """The command that fetches TVM's runtime for aarch64.

    Args:
        folder: Where to.

    Returns:
        A shell command.
    """
    packages = " ".join(f"{name}=={version(name)}" for name in ("apache-tvm", "apache-tvm-ffi"))
    return f"pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 -d {folder} {packages}"


@dataclass(frozen=True)
class InstructionCounter:
    """Builds the runner and the counting plugin, and runs networks with them.

    Attributes:
        emulator: What it runs with.
    """

    emulator: Emulator

    def count(
        self, artifact: Artifact, timeout_s: float, images: NDArray[np.float32] | None = None
    ) -> InstructionCount:
        """Counts the instructions of one run, and computes the outputs of all images.

        Args:
            artifact: What to run, compiled by TVM for aarch64.
            timeout_s: Seconds for each of the emulator's runs.
            images: Inputs `[N, ...]`; None for the count on an input of zeros alone.

        Returns:
            The count, with the outputs `[N, ...]` if there are images.

        Raises:
            MeasurementError: The network crashed or ran past its limit.
        """
        sidecar = read_sidecar(artifact.path)
        refuse_other_machine(artifact.path, MACHINE)
        check_images(images, sidecar, artifact)
        tools = {name: _tool(name) for name in _PACKAGE_OF}
        with tempfile.TemporaryDirectory(prefix="codesign-qemu-") as name:
            folder = Path(name)
            self._build(folder, tools, sidecar)
            few, outputs = self._run(folder, tools[QEMU], artifact, images, sidecar, _FEW, timeout_s)
            more, _ = self._run(folder, tools[QEMU], artifact, images, sidecar, _MORE, timeout_s)
        runs = (_MORE - _FEW) * (1 if images is None else len(images))
        if images is not None:
            check_outputs(outputs, images, sidecar, artifact)
        return InstructionCount((more - few) / runs, runs, QEMU, None if images is None else outputs)

    def _build(self, folder: Path, tools: dict[str, str], sidecar: Sidecar) -> None:
        """Unpacks the runtime, cross-compiles the runner, compiles the plugin."""
        self._unpack(folder)
        for name in ("runner.cc", "count_instructions.c"):
            (folder / name).write_text(source_text(name))
        (folder / "network.h").write_text(network_header(sidecar.input_shape, 1))
        libraries = [str(folder / name) for name in _LIBRARIES]
        runner = [tools[CROSS_COMPILER], "-std=c++17", "-O2", "-isystem", str(folder / _HEADERS)]
        runner += [str(folder / "runner.cc"), "-o", str(folder / "runner"), "-Wl,--no-as-needed", *libraries]
        plugin = [tools[COMPILER], "-shared", "-fPIC", "-O2", str(folder / "count_instructions.c")]
        plugin += ["-o", str(folder / "plugin.so")]
        for command in (runner, plugin):
            reason = run_command(command, {}, _BUILD_S, folder / "log.txt")
            if reason is not None:
                raise MeasurementError(
                    f"{command[0]}: building what runs in the emulator {reason}; check that compiler"
                )

    def _unpack(self, folder: Path) -> None:
        wheels = Path(self.emulator.wheels)
        found = sorted(wheels.glob(f"*{MACHINE}*.whl")) if wheels.is_dir() else []
        for path in found:
            try:
                with zipfile.ZipFile(path) as wheel:
                    wanted = [n for n in wheel.namelist() if n in _LIBRARIES or n.startswith(_HEADERS)]
                    wheel.extractall(folder, wanted)
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(f"{path}: is no complete wheel ({error}); fetch it again") from None
        missing = [name for name in _LIBRARIES if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"qemu.wheels: {wheels} has no aarch64 wheels with {' and '.join(missing)}; fetch them: "
                f"{wheels_command(self.emulator.wheels)}"
            )

    def _run(
        self,
        folder: Path,
        qemu: str,
        artifact: Artifact,
        images: NDArray[np.float32] | None,
        sidecar: Sidecar,
        runs: int,
        timeout_s: float,
    ) -> tuple[int, NDArray[np.float32]]:
        """Instructions of the whole program, and its outputs."""
        inputs = np.zeros(sidecar.input_shape, np.float32) if images is None else images
        (folder / "inputs").write_bytes(np.ascontiguousarray(inputs).tobytes())
        paths = ":".join(str((folder / name).parent) for name in _LIBRARIES)
        command = [qemu, "-L", self.emulator.sysroot, "-E", _ONE_THREAD, "-E", f"LD_LIBRARY_PATH={paths}"]
        command += ["-plugin", f"{folder / 'plugin.so'},out={folder / 'count'}", str(folder / "runner")]
        command += [str(artifact.path.absolute()), str(folder / "inputs"), str(folder / "outputs"), str(runs)]
        reason = run_command(command, {}, timeout_s, folder / "log.txt")
        if reason is not None:
            raise MeasurementError(f"{artifact.path}: in the emulator {reason}")
        try:
            count = int((folder / "count").read_text())
        except (OSError, ValueError) as error:
            raise MeasurementError(
                f"{qemu}: its plugin wrote nothing ({error}); install Debian's qemu-user: the static one has no plugins"
            ) from None
        outputs = np.frombuffer((folder / "outputs").read_bytes(), np.float32)
        return count, outputs.reshape(len(inputs), *sidecar.output_shape[1:])


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise InputError(f"{name} was not found; install it, in Debian: apt-get install {_PACKAGE_OF[name]}")
    return path
