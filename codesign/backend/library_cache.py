"""Compiled libraries on disk, keyed by all that they depend on and shared by runs."""

import importlib.metadata
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from codesign.backend.kernel_table import SUFFIX
from codesign.backend.kernels.parameters import CHOICES, KernelParameters
from codesign.backend.sidecar import read_sidecar
from codesign.errors import CodesignError
from codesign.files import digest_of, replacing
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.host import detect_host
from codesign.hardware.target import Target

LARGEST_CACHE_BYTES = 2 << 30
PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnx", "numpy")


def cache_folder(kind: str = "libraries") -> Path:
    """Where something is kept: `codesign/KIND` in the user's folder for caches.

    Args:
        kind: What is kept.

    Returns:
        The folder; it may not exist.
    """
    given = os.environ.get("XDG_CACHE_HOME")  # where systems with the XDG convention keep caches
    return (Path(given) if given else Path.home() / ".cache") / "codesign" / kind


def templates_digest() -> str:
    """Digest of the sources that kernels are compiled from.

    Returns:
        The digest; measurements of kernels hold for one version of them.
    """
    return digest_of(*sorted(Path(__file__).parent.rglob("*.py")))


def library_key(graph_path: Path, target: Target, choices: Mapping[str, KernelParameters] | None = None) -> str:
    """Digest of everything that a library depends on: network, target, processor, compiler, templates and choices.

    Args:
        graph_path: The ONNX file.
        target: What is compiled for.
        choices: Loops of kernels that were tuned.

    Returns:
        The digest.
    """
    assert target.tvm is not None
    host = detect_host()
    processor = (host.name, sorted(host.flags), request_amx()) if target.tvm.mcpu == "native" else ()
    versions = [importlib.metadata.version(package) for package in PACKAGES]
    chosen = CHOICES.dump_python(dict(choices or {}), mode="json")
    machine = (target.tvm.model_dump(mode="json"), target.threads, processor, versions)
    return digest_of(graph_path, *machine, chosen, templates_digest())


@dataclass(frozen=True)
class LibraryCache:
    """A folder of libraries, each with the files beside it.

    Attributes:
        folder: The folder.
        largest_bytes: Size that it is cut down to, the longest unused first.
    """

    folder: Path
    largest_bytes: int = LARGEST_CACHE_BYTES

    def fetch(self, key: str, library: Path, target: Target, plan_digest: str) -> bool:
        """Copies a library to where it is wanted.

        Args:
            key: What `library_key` returned.
            library: Where it shall stand.
            target: Recorded beside it.
            plan_digest: Recorded beside it.

        Returns:
            Whether it was there.
        """
        kept = self.folder / f"{key}.so"
        try:
            known = read_sidecar(kept)
            for suffix in (SUFFIX, ".so"):
                with replacing(library.with_suffix(suffix)) as temporary:
                    shutil.copyfile(kept.with_suffix(suffix), temporary)
            os.utime(kept)
        except (OSError, CodesignError):  # never stored, damaged, or removed by another run meanwhile
            return False
        replace(known, target=target.name, plan_digest=plan_digest).write(library)
        return True

    def store(self, key: str, library: Path) -> None:
        """Keeps a library; the file that makes it visible is written last.

        Args:
            key: What `library_key` returned.
            library: A complete library.
        """
        for suffix in (".so", SUFFIX, ".json"):
            with replacing((self.folder / key).with_suffix(suffix)) as temporary:
                shutil.copyfile(library.with_suffix(suffix), temporary)
        self._shrink()

    def _shrink(self) -> None:
        kept = sorted(self.folder.glob("*.so"), key=_last_use, reverse=True)
        total = 0
        for path in kept:
            total += _size(path)
            if total > self.largest_bytes:
                for suffix in (".json", SUFFIX, ".so"):
                    path.with_suffix(suffix).unlink(missing_ok=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed by another run
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed by another run
        return 0
