"""The folder that a user takes to a device: library, manifest, ONNX file, and runners in Python and C++.

manifest.json       what is in here
network.onnx        the network, with QDQ nodes if it is quantised
lib/                what the compiler wrote: the library and JSON files about it
run.py              runs it with TVM's Python package
cpp/                runs it with TVM's runtime alone: runner.cc, network.h, CMakeLists.txt
"""

import importlib.metadata
import platform
import shutil
from importlib import resources
from pathlib import Path

from codesign import __version__
from codesign.backend.base import Artifact
from codesign.backend.manifest import FORMAT, CompiledFor, Manifest, TensorEntry, TunedKernel, read_manifest
from codesign.backend.onnx_graph import OnnxGraph, read_graph
from codesign.backend.operations import Quantization
from codesign.backend.shared_library import machine_of_triple
from codesign.backend.sidecar import read_sidecar
from codesign.files import digest_of, write_bytes
from codesign.hardware.target import Target

NETWORK, LIBRARIES, CPP = "network.onnx", "lib", "cpp"
DEPLOY = "codesign.backend.deploy"
_PACKAGES = ("apache-tvm", "apache-tvm-ffi")


def source_text(name: str) -> str:
    """A source file that goes to devices.

    Args:
        name: Such as `runner.cc`.

    Returns:
        Its text.
    """
    return (resources.files(DEPLOY) / name).read_text(encoding="utf-8")


def network_header(input_shape: tuple[int, ...], threads: int) -> str:
    """What `runner.cc` must know of a network.

    Args:
        input_shape: With a batch of one.
        threads: Threads to run with.

    Returns:
        Text of `network.h`.
    """
    shape = ", ".join(map(str, input_shape))
    return f"// Written by codesign.\n#define INPUT_SHAPE {shape}\n#define THREADS {threads}\n"


def complete_folder(folder: Path, artifact: Artifact, target: Target, tuned: tuple[TunedKernel, ...] = ()) -> Manifest:
    """Puts everything but the library and `network.onnx`, which are there, into an artefact's folder.

    Args:
        folder: The folder.
        artifact: What the compiler wrote into its `lib/`.
        target: What it was compiled for.
        tuned: Kernels whose loops a tuner chose.

    Returns:
        The manifest, written last.
    """
    assert target.tvm is not None
    graph = read_graph(folder / NETWORK)
    start, end = _entry(graph, graph.input_name), _entry(graph, graph.output_name)
    write_bytes(folder / "run.py", source_text("run.py").encode())
    for name in ("runner.cc", "CMakeLists.txt"):
        write_bytes(folder / CPP / name, source_text(name).encode())
    write_bytes(folder / CPP / "network.h", network_header(start.shape, target.threads).encode())
    kept = [folder / NETWORK, *sorted((folder / LIBRARIES).iterdir())]
    mtriple = target.tvm.mtriple
    machine = platform.machine() if mtriple is None else machine_of_triple(mtriple)
    sidecar = read_sidecar(artifact.path)
    manifest = Manifest(
        FORMAT,
        artifact.plan_digest,
        str(artifact.path.relative_to(folder)),
        NETWORK,
        {str(path.relative_to(folder)): digest_of(path) for path in kept},
        CompiledFor(target.name, machine, sidecar.processor, mtriple, target.threads),
        (start,),
        (end,),
        artifact.weight_bytes,
        {"codesign": __version__, **{name: importlib.metadata.version(name) for name in _PACKAGES}},
        tuned,
        sidecar.bfloat16_layers,
    )
    manifest.write(folder)
    return manifest


def _entry(graph: OnnxGraph, name: str) -> TensorEntry:
    scale = _quantization(graph, name)
    step, zero = (None, None) if scale is None else (scale.scale, scale.zero_point)
    return TensorEntry(name, graph.shape(name), "float32", step, zero)


def _quantization(graph: OnnxGraph, name: str) -> Quantization | None:
    """What an input is rounded to before anything else reads it, or what an output is made of."""
    made = graph.quantized(name)
    if made is not None:
        return made.quantization
    readers = graph.readers.get(name, [])
    if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
        return graph.quantization(readers[0])
    return None


def open_artifact(folder: Path) -> tuple[Manifest, Artifact]:
    """An artefact that `complete_folder` finished.

    Args:
        folder: The folder.

    Returns:
        The manifest and what a runner takes.
    """
    manifest = read_manifest(folder)
    target = manifest.target.name
    return manifest, Artifact(folder / manifest.library, "tvm", target, manifest.plan_digest, manifest.weight_bytes)


def replace_folder(finished: Path, destination: Path) -> None:
    """Puts a finished folder where another one may be, which is removed.

    Args:
        finished: On the same disk as the destination.
        destination: May hold an older artefact.
    """
    old = destination.with_name(f".{destination.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if destination.exists():
        destination.rename(old)
    finished.rename(destination)
    shutil.rmtree(old, ignore_errors=True)
