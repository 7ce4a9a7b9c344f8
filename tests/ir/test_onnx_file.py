from pathlib import Path

import numpy as np
import onnx
import pytest

from codesign.errors import InputError
from codesign.ir.onnx_file import read_onnx
from codesign.ir.serialization import save_graph
from codesign.testing.programs import GraphBuilder, small_program


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_graph(small_program().graph, tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def test_a_good_file_is_what_onnx_reads(path: Path) -> None:
    assert read_onnx(path) == onnx.load(path)


def test_damaged_names_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"branch.weight", b"branch.w\xffight"))
    with pytest.raises(InputError, match=r"g\.onnx: is damaged \(field onnx\.NodeProto\.input is not text\)"):
        read_onnx(path)


def test_values_that_nothing_defines_are_all_named(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = onnx.load(path)
    model.graph.node[1].input[0] = "ghost"
    model.graph.output[0].name = "phantom"
    onnx.save(model, path)
    with pytest.raises(InputError, match="values that nothing defines are used: 'ghost', 'phantom'"):
        read_onnx(path)
    assert caplog.records == []


def test_absent_operands_are_allowed(tmp_path: Path) -> None:
    build = GraphBuilder((1, 3))
    high = build.constant("high", np.array(6.0, np.float32))
    save_graph(build.finish(build.add("Clip", "clip", [build.input, None, high])).graph, tmp_path / "g.onnx")
    assert list(read_onnx(tmp_path / "g.onnx").graph.node[0].input) == ["input", "", "high"]
