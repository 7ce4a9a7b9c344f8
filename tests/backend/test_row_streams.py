"""Convolutions and poolings in turns: the turns compute each row once, and networks give what they gave without."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from codesign.backend import row_streams
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.row_streams import are_aligned, turns
from codesign.backend.sidecar import read_sidecar
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.calibration.quantized_probe import probe_facts, quantized_copy
from codesign.hardware.target import Target, TvmTarget
from codesign.ir.serialization import save_graph
from codesign.quantization.scheme import BitWidths

HOST = Target(name="host", description="this machine", profile="host", runner="local", tvm=TvmTarget())
Values = NDArray[np.float64]


def _rows(shape: ConvolutionShape, x: Values, weights: Values) -> Values:
    """A convolution of one column of one channel; padding is 0."""
    padded = np.pad(x, (shape.pads[0], shape.pads[2]))
    starts = range(0, shape.out_height * shape.stride[0], shape.stride[0])
    return np.array([padded[start : start + shape.kernel[0]] @ weights for start in starts])


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(30, 90),
    kernels=st.tuples(st.integers(1, 7), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)),
    buffer_rows=st.integers(3, 12),
)
def test_turns_compute_what_the_whole_computes(
    height: int,
    kernels: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    buffer_rows: int,
) -> None:
    first = ConvolutionShape(
        height, 20, 3, 16, (kernels[0], 1), (strides[0], 1), (1, 1),
        (min(pads[0], kernels[0] - 1), 0, min(pads[1], kernels[0] - 1), 0),
    )  # fmt: skip
    second = ConvolutionShape(
        first.out_height, 20, 16, 16, (kernels[1], 1), (strides[1], 1), (1, 1),
        (min(pads[2], kernels[1] - 1), 0, min(pads[3], kernels[1] - 1), 0),
    )  # fmt: skip
    random = np.random.default_rng(height)
    x, taps = random.standard_normal(height), [random.standard_normal(size) for size in kernels]
    expected = _rows(second, _rows(first, x, taps[0]), taps[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_streams, "STREAMED_BYTES", 0)
        patch.setattr(row_streams, "BUFFER_BYTES", buffer_rows * 20 * 16)
        cut = turns(first, second, 1)
    if not cut:
        return
    buffer, computed = np.full(max(turn.pooling.height for turn in cut), np.nan), 0
    got: list[float] = []
    for turn in cut:
        buffer[: turn.kept] = buffer[turn.kept_from : turn.kept_from + turn.kept].copy()
        assert turn.kept <= turn.kept_from or 0 in {
            turn.kept,
            turn.kept_from,
        }  # what is moved does not overlap where it goes
        new = _rows(turn.convolution, x[turn.first_input : turn.first_input + turn.convolution.height], taps[0])
        buffer[turn.kept : turn.kept + len(new)] = new
        assert turn.first_output == len(got)
        got += _rows(turn.pooling, buffer[: turn.pooling.height], taps[1]).tolist()
        computed += len(new)
    assert len(got) == second.out_height
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert computed <= first.out_height


def test_small_images_are_computed_at_once() -> None:
    convolution = ConvolutionShape(64, 64, 16, 64, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    pooling = ConvolutionShape(64, 64, 64, 64, (3, 3), (2, 2))
    assert turns(convolution, pooling, 1) == ()  # 256 kB
    cut = turns(convolution, pooling, 4)
    assert cut
    assert are_aligned(cut, (4, 4), reads_singly=False)


def test_rows_that_begin_inside_a_cache_line_are_not_streamed() -> None:
    convolution = ConvolutionShape(227, 227, 3, 64, (7, 7), (2, 2))
    pooling = ConvolutionShape(111, 111, 64, 64, (3, 3), (2, 2))
    cut = turns(convolution, pooling, 4)
    assert [turn.pooling.out_height for turn in cut] == [5] * 11
    assert are_aligned(cut, (4, 4), reads_singly=True)
    assert not are_aligned(cut, (4, 4), reads_singly=False)
    padded = ConvolutionShape(227, 227, 3, 64, (7, 7), (2, 2), (1, 1), (3, 3, 3, 3))
    pooling = ConvolutionShape(114, 114, 64, 64, (3, 3), (2, 2))
    assert not are_aligned(turns(padded, pooling, 4), (4, 4), reads_singly=True)  # a copy is made in vectors


def _network(kind: str, size: int, pads: tuple[int, int], two_readers: bool) -> ir.Model:
    random = np.random.default_rng(1)
    constants = [
        numpy_helper.from_array(random.normal(0, 0.2, (24, 4, 5, 5)).astype(np.float32), "w0"),
        numpy_helper.from_array(random.normal(0, 0.2, 24).astype(np.float32), "b0"),
        numpy_helper.from_array(random.normal(0, 0.3, (10, 24, 1, 1)).astype(np.float32), "w1"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c"], "conv", pads=[pads[0]] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node(kind, ["r"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[pads[1]] * 4),
        helper.make_node("Conv", ["p", "w1"], ["h"], "head"),
        helper.make_node("GlobalAveragePool", ["h"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["y"], "flat"),
    ]
    if two_readers:
        nodes[4] = helper.make_node("GlobalAveragePool", ["r"], ["g2"], "other")
        nodes[5:] = [
            helper.make_node("Conv", ["g2", "w1"], ["o"], "more"),
            helper.make_node("Add", ["h", "o"], ["a"], "sum"),
            helper.make_node("GlobalAveragePool", ["a"], ["g"], "mean"),
            helper.make_node("Flatten", ["g"], ["y"], "flat"),
        ]
    start = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, size, size])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "net", [start], [end], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def _outputs(model: ir.Model, folder: Path) -> tuple[NDArray[np.float32], int]:
    folder.mkdir()
    save_graph(model, folder / "net.onnx")
    artifact = TvmCompiler().compile(folder / "net.onnx", HOST, "digest", folder)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(artifact.path)), tvm.cpu())
    sidecar = read_sidecar(artifact.path)
    images = np.random.default_rng(2).standard_normal((3, *sidecar.input_shape[1:])).astype(np.float32)
    results = [machine["main"](tvm.runtime.tensor(images[i : i + 1])).numpy() for i in range(3)]
    return np.concatenate(results), sidecar.arena_bytes


@pytest.mark.parametrize("is_float", [True, False])
@pytest.mark.parametrize(("kind", "pads"), [("MaxPool", (0, 0)), ("MaxPool", (2, 1)), ("AveragePool", (2, 1))])
def test_networks_in_turns_give_the_same(kind: str, pads: tuple[int, int], is_float: bool, tmp_path: Path) -> None:
    model = _network(kind, 96, pads, two_readers=False)
    if not is_float:
        model = quantized_copy(model, {node.name: BitWidths(8, 8) for node in probe_facts(model).weighted})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_streams, "STREAMED_BYTES", 1 << 30)
        whole, whole_bytes = _outputs(model, tmp_path / "whole")
        patch.setattr(row_streams, "STREAMED_BYTES", 1 << 10)
        patch.setattr(row_streams, "BUFFER_BYTES", 1 << 14)
        streamed, streamed_bytes = _outputs(model, tmp_path / "streamed")
    assert whole.std() > 0
    assert np.array_equal(streamed, whole)
    assert streamed_bytes < 0.8 * whole_bytes or not is_float  # of bytes, the image as it comes in takes most


def test_an_image_that_is_read_twice_stays_whole(tmp_path: Path) -> None:
    model = _network("MaxPool", 96, (0, 0), two_readers=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_streams, "STREAMED_BYTES", 1 << 30)
        whole, whole_bytes = _outputs(model, tmp_path / "whole")
        patch.setattr(row_streams, "STREAMED_BYTES", 1 << 10)
        streamed, streamed_bytes = _outputs(model, tmp_path / "streamed")
    assert np.array_equal(streamed, whole)
    assert streamed_bytes == whole_bytes
