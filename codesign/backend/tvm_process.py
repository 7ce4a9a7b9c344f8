"""The compiling process: `python -m codesign.backend.tvm_process REQUEST.json` compiles one network with TVM."""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from codesign.backend.base import Artifact
from codesign.backend.child_process import run_module
from codesign.backend.kernels.parameters import CHOICES
from codesign.backend.library_cache import LibraryCache, library_key
from codesign.backend.sidecar import read_sidecar
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.errors import CompileError
from codesign.hardware.target import Target


@dataclass(frozen=True)
class IsolatedTvmCompiler(TvmCompiler):
    """The same compiler in a process of its own: a crash of LLVM is one failed candidate, and several run at once.

    Attributes:
        cache: Libraries that need not be compiled again, None for none.
    """

    cache: LibraryCache | None = None

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
            CompileError: It cannot, or the process crashed.
        """
        library = self.library_path(target, plan_digest, work_dir)
        key = None if self.cache is None or target.tvm is None else library_key(graph_path, target, self.choices)
        if self.cache is None or key is None or not self.cache.fetch(key, library, target, plan_digest):
            self._compile_apart(graph_path, target, plan_digest, work_dir)
            if self.cache is not None and key is not None:
                self.cache.store(key, library)
        return Artifact(library, self.name, target.name, plan_digest, read_sidecar(library).weight_bytes)

    def _compile_apart(self, graph_path: Path, target: Target, plan_digest: str, work_dir: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="codesign-compile-") as name:
            request, log = Path(name) / "request.json", Path(name) / "log.txt"
            paths = {"graph_path": str(graph_path.absolute()), "work_dir": str(work_dir.absolute())}
            choices = CHOICES.dump_json(dict(self.choices)).decode()
            values = {**paths, "plan_digest": plan_digest, "target": target.model_dump_json(), "choices": choices}
            request.write_text(json.dumps(values))
            reason = run_module(__name__, request, {}, None, log)
        if reason is not None:
            raise CompileError(f"{graph_path}: compiling with TVM {reason}")


def main(path: str) -> None:
    """Carries out a request.

    Args:
        path: File that `IsolatedTvmCompiler` wrote.
    """
    request = json.loads(Path(path).read_text())
    target = Target.model_validate_json(request["target"])
    try:
        compiler = TvmCompiler(choices=CHOICES.validate_json(request["choices"]))
        compiler.compile(Path(request["graph_path"]), target, request["plan_digest"], Path(request["work_dir"]))
    except CompileError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1])
