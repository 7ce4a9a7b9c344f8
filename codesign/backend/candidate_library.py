"""Candidates of one kernel in one library, so that they are timed side by side in one process."""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from codesign.backend.base import Artifact
from codesign.backend.child_process import run_module
from codesign.backend.kernel_table import KernelArgument, KernelCall, read_kernel_calls, write_kernel_calls
from codesign.backend.kernels.layer_kernel import LayerKernel, read_layer_kernel
from codesign.backend.kernels.parameters import PARAMETERS, KernelParameters
from codesign.backend.tvm_compiler import KERNELS_SUFFIX, export, find_linker, tvm_target
from codesign.errors import CompileError
from codesign.hardware.target import Target

if TYPE_CHECKING:
    from tvm import tirx


@dataclass(frozen=True)
class CandidateLibrary:
    """Kernels that compute the same.

    Attributes:
        artifact: The library; it may not exist where no candidate could be compiled.
        calls: By candidate.
        failures: Why the other candidates could not be compiled.
    """

    artifact: Artifact
    calls: dict[KernelParameters, KernelCall]
    failures: dict[KernelParameters, str]


class CandidateCompiler(Protocol):
    """Compiles candidates of a kernel."""

    def compile(self, kernel: LayerKernel, candidates: Sequence[KernelParameters], folder: Path) -> CandidateLibrary:
        """Compiles.

        Args:
            kernel: What they compute.
            candidates: Their loops, at least one.
            folder: For the library.

        Returns:
            The library with those that could be compiled.
        """


@dataclass(frozen=True)
class IsolatedCandidateCompiler:
    """Compiles in a process of its own, so that a candidate that crashes LLVM or takes for ever is only left out.

    Attributes:
        target: What is compiled for.
        timeout_s: Seconds for one candidate.
    """

    target: Target
    timeout_s: float = 30.0

    def compile(self, kernel: LayerKernel, candidates: Sequence[KernelParameters], folder: Path) -> CandidateLibrary:
        """Compiles all at once; where that fails, finds out which ones it were by halves.

        Args:
            kernel: What they compute.
            candidates: Their loops, at least one.
            folder: For the library.

        Returns:
            The library with those that could be compiled.
        """
        made = self._attempt(kernel, candidates, folder)
        if isinstance(made, CandidateLibrary):
            return made
        if len(candidates) == 1:
            return CandidateLibrary(self._artifact(folder), {}, {candidates[0]: made})
        middle = len(candidates) // 2
        halves = [self.compile(kernel, part, folder) for part in (candidates[:middle], candidates[middle:])]
        failures = halves[0].failures | halves[1].failures
        good = [parameters for parameters in candidates if parameters not in failures]
        made = self._attempt(kernel, good, folder) if good else ""
        if isinstance(made, CandidateLibrary):
            return CandidateLibrary(made.artifact, made.calls, made.failures | failures)
        return CandidateLibrary(self._artifact(folder), {}, dict.fromkeys(good, made) | failures)

    def _artifact(self, folder: Path) -> Artifact:
        return Artifact(folder / "candidates.so", "tvm", self.target.name, "candidates", 0)

    def _attempt(
        self, kernel: LayerKernel, candidates: Sequence[KernelParameters], folder: Path
    ) -> CandidateLibrary | str:
        """The library, or why there is none."""
        artifact = self._artifact(folder)
        with tempfile.TemporaryDirectory(prefix="codesign-candidates-") as name:
            request, log = Path(name) / "request.json", Path(name) / "log.txt"
            values = {
                "kernel": kernel.identity,
                "candidates": [PARAMETERS.dump_python(parameters, mode="json") for parameters in candidates],
                "target": self.target.model_dump_json(),
                "library": str(artifact.path.absolute()),
            }
            request.write_text(json.dumps(values))
            reason = run_module(__name__, request, {}, self.timeout_s * len(candidates), log)
        if reason is not None:
            return reason
        calls = {candidates[int(call.operation)]: call for call in read_kernel_calls(artifact.path)}
        missing = {parameters: "cannot be scheduled" for parameters in candidates if parameters not in calls}
        return CandidateLibrary(artifact, calls, missing)


def write_candidates(
    kernel: LayerKernel, candidates: Sequence[KernelParameters], target: Target, library: Path
) -> None:
    """Compiles candidates here; those that cannot be scheduled are left out.

    Args:
        kernel: What they compute.
        candidates: Their loops.
        target: What is compiled for.
        library: The file; beside it stands a table of kernels, in which a candidate's number is its operation.

    Raises:
        CompileError: TVM cannot compile them together.
    """
    from tvm import relax

    from codesign.backend.kernels.instruction_set import instruction_set
    from codesign.backend.layers import kernel_function
    from codesign.backend.network_function import PIPELINE, RELAX_PIPELINE, kernels_alone

    assert target.tvm is not None
    machine, linker = tvm_target(target.tvm, target.threads), find_linker(target.tvm.mtriple)
    isa = instruction_set(machine, target.tvm.float_products)
    functions: dict[str, tirx.PrimFunc] = {}
    calls = []
    with machine:
        for number, parameters in enumerate(candidates):
            asks = target.runner == "rpc"  # a timing process on this machine asks by itself
            _, make = kernel_function(kernel, parameters, isa, target.threads, asks)
            name = f"candidate_{number}"
            try:
                functions[name] = make().without_attr("global_symbol")
            except Exception as error:  # TVM raises a dozen classes without a common base
                print(f"{parameters}: {error}", file=sys.stderr)
                continue
            calls.append(KernelCall(name, str(number), _arguments(functions[name])))
        try:
            built = relax.build(kernels_alone(functions), machine, relax_pipeline=RELAX_PIPELINE, tir_pipeline=PIPELINE)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise CompileError(f"{kernel.words}: TVM failed ({reason})") from error
    export(built.mod, library, linker)
    if target.runner == "rpc":
        export(built.mod.imports[0], library.with_suffix(KERNELS_SUFFIX), linker)
    write_kernel_calls(library, calls)


def _arguments(function: "tirx.PrimFunc") -> tuple[KernelArgument, ...]:
    return tuple(
        KernelArgument(tuple(int(size) for size in buffer.shape), str(buffer.dtype)) for buffer in function.params
    )


def main(path: str) -> None:
    """Carries out a request.

    Args:
        path: File that `IsolatedCandidateCompiler` wrote.
    """
    request = json.loads(Path(path).read_text())
    candidates = [PARAMETERS.validate_python(values) for values in request["candidates"]]
    target = Target.model_validate_json(request["target"])
    try:
        write_candidates(read_layer_kernel(request["kernel"]), candidates, target, Path(request["library"]))
    except CompileError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1])
