"""What a changed input makes out of date, and what stays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from codesign.flow.prepare import source_digest

Codesign = Callable[..., tuple[int, str]]


def _records(run: Path) -> dict[str, int]:
    return {str(p.relative_to(run / "steps")): p.stat().st_mtime_ns for p in (run / "steps").rglob("*.json")}


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("measure.repeats=4", {"measure"}),
        ("search.evaluations=1", {"search.json"}),
        ("quantization.hessian_samples=4", {"annotate.json", "search.json"}),
        ("quantization.bias_correction=false", {"annotate.json", "search.json", "apply"}),
        ("seed=1", {"annotate.json", "search.json"}),
    ],
)
def test_a_changed_option_redoes_what_depends_on_it(
    tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch, change: str, redone: set[str]
) -> None:
    monkeypatch.chdir(tiny)
    assert codesign("run", "run.toml")[0] == 0
    before = _records(tiny / "runs" / "tiny")
    code, printed = codesign("run", "run.toml", "--set", change)
    assert code == 0, printed
    after = _records(tiny / "runs" / "tiny")
    changed = {name.split("/")[0] for name, written in before.items() if after[name] != written}
    assert redone <= changed
    assert "lower.json" not in changed
    if redone == {"measure"}:
        assert changed == redone


def test_changed_test_data_is_measured_and_nothing_else(
    tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    assert codesign("run", "run.toml")[0] == 0
    before = _records(tiny / "runs" / "tiny")
    with np.load("test.npz") as archive:
        images, labels = archive["images"][:30], archive["labels"][:30]
    np.savez("test.npz", images=images, labels=labels)
    assert codesign("run", "run.toml")[0] == 0
    after = _records(tiny / "runs" / "tiny")
    assert {name.split("/")[0] for name, written in before.items() if after[name] != written} == {"measure"}


def test_a_factory_in_a_file_or_in_a_module_beside_the_run_file_is_noticed_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for source, file in (
        ("net.py:make", "net.py"),
        ("module:make", "module.py"),
        ("package:make", "package/__init__.py"),
        ("package.inner:make", "package/inner.py"),
        ("net.onnx", "net.onnx"),
    ):
        absent = source_digest(source, tmp_path)
        (tmp_path / file).write_text("first = 1\n")
        first = source_digest(source, tmp_path)
        assert first == source_digest(source, tmp_path)
        (tmp_path / file).write_text("second = 2\n")
        assert len({absent, first, source_digest(source, tmp_path)}) == 3, source


def test_an_installed_factory_has_the_digest_of_its_file(tmp_path: Path) -> None:
    found = source_digest("codesign.architecture.squeezenext:squeezenext_digits", tmp_path)
    assert found != source_digest("codesign.architecture.squeezenext:other", tmp_path)
    assert found == source_digest("codesign.architecture.squeezenext:squeezenext_digits", tmp_path / "elsewhere")


def test_weights_beside_an_onnx_file_are_noticed_when_they_change(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], weight.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, tmp_path / "n.onnx", save_as_external_data=True, location="n.data", size_threshold=0)
    first = source_digest("n.onnx", tmp_path)
    (tmp_path / "n.data").write_bytes((weight + 1).tobytes())
    assert source_digest("n.onnx", tmp_path) != first
