"""Compiles ONNX files with TVM: own integer and float kernels, everything else legalised by Relax."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from codesign.backend.base import Artifact
from codesign.backend.kernel_table import kernel_calls, write_kernel_calls
from codesign.backend.kernels.parameters import KernelParameters
from codesign.backend.qdq_graph import Network, read_network
from codesign.backend.shared_library import architecture_of_triple
from codesign.backend.sidecar import Sidecar
from codesign.errors import CompileError, closest
from codesign.files import replacing
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.target import Products, Target, TvmTarget

if TYPE_CHECKING:
    import tvm

LINKERS = ("g++", "c++", "clang++")
"""Programs that link the exported library, in order of preference."""
KERNELS_SUFFIX = ".kernels.so"
"""Of a second library with the kernels alone, for RPC: a server's timing loop finds functions of the outer module only,
and in a network's library that is the interpreter's."""


@dataclass(frozen=True)
class TvmCompiler:
    """Writes a shared library and, beside it, JSON files with what a runner must know and which kernels are called.

    QDQ patterns are executed in integers: uint8 activations times int8 or packed weights, summed in int32. Kernels
    are scheduled for the target's processor and number of threads, and shared by all layers of one shape.

    Attributes:
        choices: Loops by the identity of a kernel, as a tuner found them; the rules choose those of all others.
    """

    choices: Mapping[str, KernelParameters] = field(default_factory=dict, kw_only=True)

    name: ClassVar[str] = "tvm"

    def unsupported(self, graph_path: Path) -> tuple[str, ...]:
        """What cannot be compiled.

        Args:
            graph_path: The ONNX file.

        Returns:
            One line `OpType (node name): why` for each such node.
        """
        return read_network(graph_path).problems

    def compile(self, graph_path: Path, target: Target, plan_digest: str, work_dir: Path) -> Artifact:
        """Compiles.

        Args:
            graph_path: The ONNX file.
            target: Where it shall run; it must say what TVM compiles for.
            plan_digest: Recorded in the artefact.
            work_dir: Folder for the artefact.

        Returns:
            The artefact; its path is the library.

        Raises:
            CompileError: It cannot; the message names the nodes.
        """
        if target.tvm is None:
            raise CompileError(f"target {target.name!r} has no [tvm] section, so TVM cannot compile for it; add one")
        network = read_network(graph_path)
        if network.problems:
            listed = "; ".join(network.problems)
            raise CompileError(f"{graph_path}: TVM cannot compile {len(network.problems)} nodes: {listed}")
        library = self.library_path(target, plan_digest, work_dir)
        kernels = library.with_suffix(KERNELS_SUFFIX) if target.runner == "rpc" else None
        machine, linker = tvm_target(target.tvm, target.threads), find_linker(target.tvm.mtriple)
        outputs = _Outputs(library, kernels, linker)
        built = _build(network, machine, target.tvm.float_products, self.choices, outputs, graph_path)
        Sidecar(
            self.name,
            target.name,
            plan_digest,
            network.input.shape,
            network.output.shape,
            target.threads,
            built.weight_bytes,
            str(machine.attrs["mcpu"]),
            built.arena_bytes,
            built.bfloat16_layers,
        ).write(library)
        return Artifact(library, self.name, target.name, plan_digest, built.weight_bytes)

    def library_path(self, target: Target, plan_digest: str, work_dir: Path) -> Path:
        """Where the library is written.

        Args:
            target: Where it shall run.
            plan_digest: Recorded in the artefact.
            work_dir: Folder for the artefact.

        Returns:
            A `.so` file.
        """
        return work_dir / f"{self.name}-{target.name}-{plan_digest}.so"


@dataclass(frozen=True)
class _Outputs:
    """Files that are written: the network, its kernels alone where a server needs them; and what links them."""

    library: Path
    kernels: Path | None
    linker: str


@dataclass(frozen=True)
class _Built:
    """What is known of a library that was written.

    Attributes:
        weight_bytes: As stored.
        arena_bytes: Memory for intermediate results.
        bfloat16_layers: Layers in float32 that multiply operands rounded to bfloat16.
    """

    weight_bytes: int
    arena_bytes: int
    bfloat16_layers: int


def _build(
    network: Network,
    target: "tvm.target.Target",
    float_products: Products,
    choices: Mapping[str, KernelParameters],
    outputs: _Outputs,
    graph_path: Path,
) -> _Built:
    """Writes the library."""
    import tvm
    from tvm import relax

    from codesign.backend.fused_kernels import keep_views, schedule_fused_kernels
    from codesign.backend.kernels.instruction_set import instruction_set
    from codesign.backend.network_function import PIPELINE, RELAX_PIPELINE, one_function
    from codesign.backend.relax_builder import build_module

    threads = int(target.attrs["num-cores"])
    try:
        with target:
            built = build_module(network, instruction_set(target, float_products), threads, choices)
            passes = relax.transform
            steps = [passes.FastMathTransform(), passes.LegalizeOps(), passes.AnnotateTIROpPattern()]
            legal = keep_views(tvm.transform.Sequential(steps)(built.module))
            fused = tvm.transform.Sequential([passes.FuseOps(), passes.FuseTIR()])(legal)
            single = one_function(schedule_fused_kernels(fused, threads), built.streams, built.row_kernels)
            executable = relax.build(single.module, target, relax_pipeline=RELAX_PIPELINE, tir_pipeline=PIPELINE)
    except CompileError as error:
        raise CompileError(f"{graph_path}: {error}") from error
    except Exception as error:  # TVM raises a dozen classes without a common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CompileError(f"{graph_path}: TVM failed ({reason}); compile with another compiler") from error
    export(executable.mod, outputs.library, outputs.linker)
    if outputs.kernels is not None:
        export(executable.mod.imports[0], outputs.kernels, outputs.linker)
    write_kernel_calls(outputs.library, kernel_calls(fused["main"], built.calls, network.operations))
    return _Built(built.weight_bytes, single.arena_bytes, built.bfloat16_layers)


def export(module: "tvm.runtime.Module", library: Path, linker: str) -> None:
    """Writes machine code.

    Args:
        module: The compiled module.
        library: A `.so` file, written at once or not at all.
        linker: Program that links it.

    Raises:
        CompileError: It cannot be linked.
    """
    with replacing(library) as temporary:
        try:
            module.export_library(str(temporary), cc=linker)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise CompileError(f"{library}: {linker} cannot link it ({reason}); check that linker") from error


def tvm_target(settings: TvmTarget, threads: int) -> "tvm.target.Target":
    """The TVM target of a section `[tvm]`.

    Args:
        settings: The section.
        threads: Threads to compile for.

    Returns:
        The target; `native` has become the name of this machine's processor.

    Raises:
        CompileError: LLVM does not know the processor or the architecture.
    """
    import tvm

    codegen = tvm.target.codegen
    mcpu = codegen.llvm_get_system_cpu() if settings.mcpu == "native" else settings.mcpu
    machine = {} if settings.mtriple is None else {"mtriple": settings.mtriple}
    known = [str(name) for name in codegen.llvm_get_targets()]
    if settings.mtriple is not None and architecture_of_triple(settings.mtriple) not in known:
        raise CompileError(
            f"mtriple {settings.mtriple!r}: LLVM has no architecture {settings.mtriple.partition('-')[0]!r}"
            f"{closest(settings.mtriple.partition('-')[0], known)}"
        )
    processors = [str(name) for name in codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm", **machine}))]
    if mcpu not in processors:
        raise CompileError(
            f"mcpu {mcpu!r} is unknown to LLVM for {settings.mtriple or 'this machine'}{closest(mcpu, processors)}"
        )
    description = {"kind": settings.kind, "mcpu": mcpu, "num-cores": threads, "opt-level": 3, **machine}
    if settings.mcpu == "native" and not request_amx():  # a virtual machine may hide what its processor's name promises
        description["mattr"] = ["-amx-tile", "-amx-int8", "-amx-bf16"]
    return tvm.target.Target(description)


def find_linker(mtriple: str | None) -> str:
    """What links libraries for a machine.

    Args:
        mtriple: LLVM's target triple, None for this machine.

    Returns:
        Path of the program.

    Raises:
        CompileError: None is installed; the message names a package.
    """
    names = LINKERS if mtriple is None else tuple(f"{mtriple}-{name}" for name in LINKERS)
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    package = "g++" if mtriple is None else f"g++-{mtriple.replace('_', '-')}"
    raise CompileError(f"no linker was found (looked for {', '.join(names)}); install one, in Debian {package}")
