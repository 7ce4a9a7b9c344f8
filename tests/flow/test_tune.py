"""`codesign compile --tune` and `measure.tune`, as a user calls them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.backend.kernels.parameters import PARAMETERS
from codesign.backend.sidecar import read_sidecar
from codesign.run_file import load_run_file
from codesign.tuning import comparison
from codesign.tuning.comparison import Comparison

Codesign = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def _the_last_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured, some other loops than the rules' are said to be twice as fast."""
    monkeypatch.setattr(comparison, "SCREENING_ROUNDS", 2)
    monkeypatch.setattr(
        comparison.Comparer,
        "best",
        lambda _self, library, default: (
            [way for way in library.calls if way != default][-1],
            Comparison((0.5,) * 8, 1e-6, 2e-6),
        ),
    )


def _records(folder: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(path.read_text()) for path in folder.glob("cache/codesign/tuning/*/*.json")]
    return {str(values["kernel"]): values for values in found if "kernel" in values}


@pytest.mark.usefixtures("_the_last_is_faster")
def test_a_network_is_tuned_and_says_so(tiny_graph: Path, tmp_path: Path, codesign: Codesign) -> None:
    code, printed = codesign("compile", "net.onnx", "--target", "host-cpu", "--out", "made", "--tune", "2m")
    assert code == 0, printed
    assert "3 of 3 kernels are tuned, 3 of them run faster than by the rules: together they take 3.0 us" in printed
    tuned = json.loads((tiny_graph / "made" / "manifest.json").read_text())["tuned"]
    records = _records(tmp_path)
    assert {entry["identity"] for entry in tuned} == set(records)
    assert {entry["kernel"] for entry in tuned} >= {"float32 3x3 8x8x1 -> 8x8x16"}
    for entry in tuned:
        assert entry["parameters"] == records[entry["identity"]]["parameters"]
        PARAMETERS.validate_python(entry["parameters"])
    code, printed = codesign("measure", "made", "--target", "host-cpu", "--repeats", "2", "--runs-per-sample", "1")
    assert code == 0
    # a plain compilation follows the rules; what is known is used when asked for, and nothing is measured
    assert codesign("compile", "net.onnx", "--target", "host-cpu", "--out", "plain")[0] == 0
    assert json.loads((tiny_graph / "plain" / "manifest.json").read_text())["tuned"] == []
    code, printed = codesign("compile", "net.onnx", "--target", "host-cpu", "--out", "known", "--tune", "cached")
    assert (code, "3 of 3 kernels are tuned" in printed) == (0, True)
    assert json.loads((tiny_graph / "known" / "manifest.json").read_text())["tuned"] == tuned
    libraries = [next((tiny_graph / name / "lib").glob("*.so")) for name in ("made", "known", "plain")]
    assert read_sidecar(libraries[0]) == read_sidecar(libraries[1])
    tables = [library.with_suffix(".kernels.json").read_text() for library in libraries]
    assert tables[0] == tables[1] == tables[2]  # the same kernels in other loops


def test_real_measurements_keep_to_the_budget_and_a_repeat_measures_nothing(
    tiny_graph: Path, tmp_path: Path, codesign: Codesign
) -> None:
    code, printed = codesign("compile", "net.onnx", "--target", "host-cpu", "--out", "made", "--tune", "cached")
    assert (code, "0 of 3 kernels are tuned, 0 of them" in printed, "3 are not tuned yet" in printed) == (0, True, True)
    assert _records(tmp_path) == {}


def test_mistakes(tiny_graph: Path, tmp_path: Path, codesign: Codesign) -> None:
    for target in ("raspberry-pi-4", "raspberry-pi-4-qemu"):
        code, printed = codesign("compile", "net.onnx", "--target", target, "--tune", "1m")
        assert (code, "so no kernel can be timed there" in printed) == (2, True), printed
    for text in ("soon", "0s", "-1", ""):
        code, printed = codesign("compile", "net.onnx", "--target", "host-cpu", "--tune", text)
        assert (code, f"--tune (or 'cached'): got {text!r}" in printed) == (2, True), printed
    assert not (tmp_path / "cache").exists()
    run = tiny_graph / "run.toml"
    cases = (
        ("measure.tune=soon", "run.toml (with --set): measure: Value error, tune (or 'cached'): got 'soon'"),
        ("measure.tune=5m", "tune needs 'tvm' as the first of compilers, got 'onnxruntime'"),
        ("measure.tuned=5m", "measure.tuned"),
    )
    for setting, words in cases:
        code, printed = codesign("run", str(run), "--set", setting)
        assert (code, words in printed) == (2, True), printed
    run.write_text(run.read_text().replace('compilers = ["onnxruntime"]', 'tune = "5m"'))
    code, printed = codesign("run", str(run), "--target", "squeezelerator-16x16")
    assert (code, "so no kernel can be timed there" in printed) == (2, True), printed
    code, printed = codesign("run", str(run), "--dry-run")
    assert (code, "tune      kernels of the chosen network: 5m" in printed) == (0, True), printed


@pytest.mark.usefixtures("_the_last_is_faster")
def test_the_product_of_a_run_is_tuned(tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny)
    run = tiny / "run.toml"
    run.write_text(run.read_text().replace('compilers = ["onnxruntime"]', 'compilers = ["tvm"]\ntune = "2m"'))
    assert load_run_file(run).measure.tune == "2m"
    code, printed = codesign("run", "run.toml", "--out", "out")
    assert code == 0, printed
    report = json.loads((tiny / "out" / "report.json").read_text())
    assert "kernels are tuned" in report["environment"]["kernels of the chosen network"]
    folder = tiny / "out" / "artifacts" / report["chosen"]["id"]
    assert (folder / "tvm-tuned" / "artifact.json").is_file()
    assert len(json.loads((folder / "tuning.json").read_text())["choices"]) == 3
    code, printed = codesign("run", "run.toml", "--out", "out")
    assert (code, "kernels are tuned" in printed) == (0, False), printed
