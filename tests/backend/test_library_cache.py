"""Libraries that are kept: complete or not there at all."""

from pathlib import Path

import pytest

from codesign.backend.kernel_table import SUFFIX
from codesign.backend.library_cache import LibraryCache, cache_folder, library_key
from codesign.backend.sidecar import Sidecar, read_sidecar
from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.hardware.target import Target, TvmTarget

TARGET = Target(name="host", description="", profile="host", runner="local", tvm=TvmTarget())


def _library(folder: Path, size: int = 10) -> Path:
    path = folder / "made.so"
    path.write_bytes(b"x" * size)
    path.with_suffix(SUFFIX).write_text("[]")
    Sidecar("tvm", "elsewhere", "old", (1, 3), (1, 2), 1, 77).write(path)
    return path


def test_what_was_stored_comes_back_under_another_name(tmp_path: Path) -> None:
    cache, wanted = LibraryCache(tmp_path / "cache"), tmp_path / "work" / "wanted.so"
    assert not cache.fetch("key", wanted, TARGET, "plan")
    assert not wanted.exists()
    cache.store("key", _library(tmp_path))
    assert cache.fetch("key", wanted, TARGET, "plan")
    assert wanted.read_bytes() == b"x" * 10
    assert wanted.with_suffix(SUFFIX).read_text() == "[]"
    assert read_sidecar(wanted) == Sidecar("tvm", "host", "plan", (1, 3), (1, 2), 1, 77)


@pytest.mark.parametrize("suffix", [".so", SUFFIX, ".json"])
def test_a_half_removed_library_counts_as_missing(tmp_path: Path, suffix: str) -> None:
    cache = LibraryCache(tmp_path / "cache")
    cache.store("key", _library(tmp_path))
    (tmp_path / "cache" / "key").with_suffix(suffix).unlink()
    assert not cache.fetch("key", tmp_path / "wanted.so", TARGET, "plan")


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = LibraryCache(tmp_path / "cache", largest_bytes=25)
    for key in ("a", "b"):
        cache.store(key, _library(tmp_path))
    assert cache.fetch("a", tmp_path / "wanted.so", TARGET, "plan")
    cache.store("c", _library(tmp_path))
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.so")) == ["a.so", "c.so"]


def test_the_key_depends_on_network_and_target(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    first.write_bytes(b"a")
    second.write_bytes(b"b")
    keys = {
        library_key(first, TARGET),
        library_key(second, TARGET),
        library_key(first, TARGET.model_copy(update={"threads": 2})),
        library_key(first, TARGET.model_copy(update={"tvm": TvmTarget(mcpu="x86-64-v3")})),
    }
    assert len(keys) == 4
    assert library_key(first, TARGET.model_copy(update={"name": "same"})) in keys


def test_a_kept_library_is_not_compiled_again(tmp_path: Path) -> None:
    graph, cache = tmp_path / "no.onnx", LibraryCache(tmp_path / "cache")
    graph.write_bytes(b"no network at all")
    cache.store(library_key(graph, TARGET), _library(tmp_path))
    artifact = IsolatedTvmCompiler(cache).compile(graph, TARGET, "plan", tmp_path / "work")
    assert artifact.weight_bytes == 77
    assert artifact.path.read_bytes() == b"x" * 10


def test_the_folder_follows_the_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "codesign" / "libraries"
