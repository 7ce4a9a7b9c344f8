"""`codesign compile --tune` and `measure.tune`, as a user calls them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.backend import kernel_candidates
from codesign.backend.candidate_library import CandidateLibrary
from codesign.backend.kernel_candidates import candidates
from codesign.backend.kernel_table import read_kernel_calls
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.layer_kernel import LayerKernel
from codesign.backend.kernels.parameters import PARAMETERS, KernelParameters, VectorTiling
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.flow.run import open_run
from codesign.flow.tune import Tuned
from codesign.flow.tuned_product import tuned_product
from codesign.hardware.target import Target
from codesign.progress import Progress, Silent
from codesign.run_file import load_run_file
from codesign.tuning.comparison import Comparer, Comparison, Outcome
from codesign.tuning.database import TuningRecord

KERNEL = "float32 3x3 stride 2x2 8x8x16 -> 4x4x16"
Codesign = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def _another_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one kernel has candidates; the one that is not the rules' is said to be twice as fast."""

    def two(kernel: LayerKernel, isa: InstructionSet, threads: int) -> tuple[KernelParameters, ...]:
        return candidates(kernel, isa, threads)[: 2 if kernel.words == KERNEL else 1]

    def best(_self: Comparer, library: CandidateLibrary, default: KernelParameters) -> Outcome:
        (winner,) = set(library.calls) - {default}
        return Outcome(winner, Comparison((0.5,) * 8, 1e-6, 2e-6), ())

    monkeypatch.setattr(kernel_candidates, "candidates", two)
    monkeypatch.setattr(Comparer, "best", best)


def _records(folder: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(path.read_text()) for path in folder.glob("cache/codesign/tuning/*/*.json")]
    return {str(values["kernel"]): values for values in found if "kernel" in values}


@pytest.mark.usefixtures("_another_is_faster")
def test_a_network_is_tuned_and_says_so(tiny_graph: Path, tmp_path: Path, codesign: Codesign) -> None:
    def compiled(out: str, *tune: str) -> tuple[str, list[dict[str, object]], Path]:
        code, printed = codesign("compile", "net.onnx", "--target", "host-cpu", "--out", out, "--tune", *tune)
        assert code == 0, printed
        tuned = json.loads((tiny_graph / out / "manifest.json").read_text())["tuned"]
        return printed, tuned, next((tiny_graph / out / "lib").glob("*.so"))

    printed, tuned, by_the_rules = compiled("rules", "cached")
    assert "0 of 1 kernels are tuned, 0 of them run faster than by the rules; 1 are not tuned yet" in printed
    assert (tuned, _records(tmp_path)) == ([], {})
    printed, tuned, library = compiled("made", "2m")
    assert "1 of 1 kernels are tuned, 1 of them run faster than by the rules: together they take 1.0 us" in printed
    (entry,), records = tuned, _records(tmp_path)
    assert entry["kernel"] == KERNEL
    assert entry["parameters"] == records[str(entry["identity"])]["parameters"]
    PARAMETERS.validate_python(entry["parameters"])
    assert library.read_bytes() != by_the_rules.read_bytes()
    table, other = (path.with_suffix(".kernels.json").read_text() for path in (library, by_the_rules))
    assert table == other  # the same kernels in other loops
    printed, again, known = compiled("known", "cached")
    assert ("1 of 1 kernels are tuned" in printed, again) == (True, tuned)
    assert known.read_bytes() == library.read_bytes()


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


def test_the_product_of_a_run_is_tuned(tiny_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_graph / "run.toml"
    run.write_text(run.read_text().replace('compilers = ["onnxruntime"]', 'tune = "2m"'))
    notes: list[str] = []
    context = open_run(load_run_file(run), tiny_graph, tiny_graph / "out", Silent(notes.append))
    artifact = TvmCompiler().compile(tiny_graph / "net.onnx", context.target, "a-plan", tiny_graph / "compiled")
    call = next(call for call in read_kernel_calls(artifact.path) if call.identity)
    faster = TuningRecord(call.identity, VectorTiling(1, 1), 1e-6, 2e-6, 3, 0, "2026-11-26")
    budgets: list[float] = []

    def tuned(_graph: Path, _target: Target, budget_s: float, _progress: Progress) -> Tuned:
        budgets.append(budget_s)
        return Tuned({call.identity: faster}, {call.identity: 1})

    monkeypatch.setattr("codesign.flow.tuned_product.tune_network", tuned)
    for _ in range(2):  # the second time everything is there
        product, words = tuned_product(context, (tiny_graph / "net.onnx", (artifact,)))
        assert not isinstance(product, str)
        assert product[1][0].path.parent == tiny_graph / "out" / "artifacts" / "a-plan" / "tvm-tuned"
        assert product[1][0].path.read_bytes() != artifact.path.read_bytes()
        assert "1 of 1 kernels are tuned" in words
    assert (budgets, len(notes)) == ([120.0], 1)
    assert tuned_product(context, "it failed") == ("it failed", "")
