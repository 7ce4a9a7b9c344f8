"""What `codesign compile` does: a network or a plan in, an artefact's folder out."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from codesign.backend.artifact_folder import LIBRARIES, NETWORK, complete_folder, replace_folder
from codesign.backend.library_cache import LibraryCache, cache_folder
from codesign.backend.manifest import MANIFEST, Manifest
from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.errors import CompileError, InputError, UnsupportedOperatorError
from codesign.files import digest_of, remove_leftovers
from codesign.flow.prepare import GRAPH
from codesign.flow.tune import Tuned, refuse_to_tune, tune_network
from codesign.hardware.catalog import load_target
from codesign.hardware.target import Target
from codesign.ir.loading import load_program
from codesign.ir.program import Program
from codesign.ir.serialization import load_graph, save_graph
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.passes.apply_bit_widths import ApplyBitWidthsPass
from codesign.progress import Progress
from codesign.tuning.budget import tuning_budget_s

_PLANS, _ARTIFACTS = "plans", "artifacts"
_DIGEST_LENGTH = 12


@dataclass(frozen=True)
class CompileRequest:
    """The command's arguments.

    Attributes:
        source: A network (`.onnx`, with QDQ nodes or without, `.pt2` or a factory), or `plans/ID.json` of a run.
        target: Name or path of a target.
        out: The artefact's folder; None for `NAME-TARGET` in the current folder.
        weights: For a factory.
        input_shape: For a factory.
        tune: Time for tuning kernels, such as `5m`, or `cached` for what was found before; None for the rules' loops.
    """

    source: str
    target: str
    out: Path | None = None
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    tune: str | None = None


@dataclass(frozen=True)
class CompiledFolder:
    """What came out.

    Attributes:
        path: The artefact's folder.
        manifest: What is in it.
    """

    path: Path
    manifest: Manifest


def compile_artifact(request: CompileRequest, progress: Progress) -> CompiledFolder:
    """Compiles, and puts everything that a device needs into one folder, at once or not at all.

    Args:
        request: The command's arguments.
        progress: Told what is done.

    Returns:
        The folder.

    Raises:
        InputError: An argument is wrong, or the folder holds something else.
        UnsupportedOperatorError: The network holds operators that cannot be compiled; all are listed.
    """
    target = load_target(request.target)
    if target.tvm is None:
        raise InputError(
            f"target {target.name!r} has no [tvm] section, so there is nothing to compile for; choose another target"
        )
    if request.tune is not None:
        tuning_budget_s(request.tune, "--tune")
        refuse_to_tune(target)
    out = request.out or Path(f"{_name_of(request.source)}-{target.name}")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is no artefact; give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out.parent)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        work = Path(name) / "artifact"
        work.mkdir()
        digest = _write_network(request, work / NETWORK, progress)
        manifest = _compile(request, target, digest, work, progress)
        replace_folder(work, out)
    return CompiledFolder(out, manifest)


def _name_of(source: str) -> str:
    stem = source.rpartition(":")[2] if ":" in source else Path(source).stem
    return re.sub(r"[^A-Za-z0-9_.-]", "-", stem) or "network"


def _write_network(request: CompileRequest, network: Path, progress: Progress) -> str:
    """Writes the network that will be compiled; returns the plan's digest, or one of the network."""
    source = Path(request.source)
    if source.suffix == ".json":
        _write_planned(source, network, progress)
        return source.stem
    if source.suffix == ".onnx" and source.is_file() and _is_quantized(program := Program(load_graph(source))):
        if request.weights is not None:
            raise InputError(f"{source}: holds its own weights, got {request.weights} beside it; remove one of the two")
        save_graph(program.graph, network)  # as it is: folding constants would undo its quantisation
    else:
        save_graph(load_program(request.source, request.weights, request.input_shape, Path()).graph, network)
    return digest_of(network)[:_DIGEST_LENGTH]


def _is_quantized(program: Program) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in program.graph.graph)


def _write_planned(plan: Path, network: Path, progress: Progress) -> None:
    """The network of a run with a plan's widths: the one that was measured, or a new one for a plan that was not."""
    if not plan.is_file():
        raise InputError(f"{plan}: no such file; name a file from {_PLANS}/ of a run's folder")
    run = plan.absolute().parent.parent
    measured = run / _ARTIFACTS / plan.stem / NETWORK
    if measured.is_file():
        save_graph(load_graph(measured), network)
        return
    if not (run / GRAPH).is_file():
        raise InputError(f"{run / GRAPH}: is missing; a plan belongs into {_PLANS}/ of a run's folder")
    progress.note(f"{plan}: was not measured in that run; its widths are written into {run / GRAPH} now")
    program = Program(load_graph(run / GRAPH))
    PassManager([ApplyBitWidthsPass(plan=str(plan))]).run(program, PassContext())
    save_graph(program.graph, network)


def _compile(request: CompileRequest, target: Target, digest: str, work: Path, progress: Progress) -> Manifest:
    lines = IsolatedTvmCompiler().unsupported(work / NETWORK)
    if lines:
        raise UnsupportedOperatorError(
            f"{request.source}: {len(lines)} node(s) cannot be compiled: {'; '.join(lines)}; change the network"
        )
    tuned = Tuned({}, {})
    try:
        if request.tune is not None:
            tuned = tune_network(work / NETWORK, target, tuning_budget_s(request.tune, "--tune"), progress)
            progress.note(tuned.summary)
        cache = None if request.tune is None else LibraryCache(cache_folder())
        compiler = IsolatedTvmCompiler(cache, choices=tuned.choices)
        artifact = compiler.compile(work / NETWORK, target, digest, work / LIBRARIES)
    except CompileError as error:
        raise CompileError(str(error).replace(str(work / NETWORK), request.source)) from error
    return complete_folder(work, artifact, target, tuned.entries)
