"""ONNX files of users: what is loaded as it is, converted, and refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from codesign.errors import InputError, UnsupportedOperatorError
from codesign.ir.annotation import annotate, find
from codesign.ir.annotations import Work
from codesign.ir.loading import load_onnx, load_program
from codesign.ir.lowering import relative_difference
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.ir.serialization import save_graph

Lowered = Callable[[str], Program]


def _images(shape: tuple[int, ...], count: int = 3) -> Tensor:
    return torch.randn((count, *shape[1:]), generator=torch.Generator().manual_seed(1))


def _onnxruntime(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.concatenate([session.run(None, {name: sample[None]})[0] for sample in x.numpy()]))


WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def _dense(
    path: Path,
    shape: tuple[int | str, ...] = (1, 4),
    nodes: Sequence[onnx.NodeProto] = (helper.make_node("MatMul", ["x", "w"], ["y"], name="mm"),),
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    weight: NDArray[np.floating[Any]] = WEIGHT,
) -> Path:
    if inputs is None:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if outputs is None:
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=8), path)
    return path


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_exported_file_gives_what_lowering_gives(lowered: Lowered, tmp_path: Path, dynamic: bool) -> None:
    module, shape = lowered("mobilenet").module, lowered("mobilenet").input_shape
    assert module is not None
    exported = torch.onnx.export(
        module,
        (torch.zeros(2 if dynamic else 1, *shape[1:]),),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) if dynamic else None,
        verbose=False,
    )
    assert exported is not None
    exported.save(tmp_path / "net.onnx")
    program = load_program("net.onnx", None, None, tmp_path)
    assert program.input_shape == shape
    assert program.module is None
    assert program.parameter_of == {}
    ours = lowered("mobilenet")
    assert [n.name for n in program.weighted_nodes] == [n.name for n in ours.weighted_nodes]
    x = _images(shape)
    got = TorchGraph(program.graph).run(x).detach()
    assert relative_difference(got, TorchGraph(ours.graph).run(x).detach()) < 1e-5
    assert relative_difference(got, _onnxruntime(tmp_path / "net.onnx", x)) < 1e-4


def test_facts_in_a_file_survive(lowered: Lowered, tmp_path: Path) -> None:
    model = ir.from_proto(ir.to_proto(lowered("plain").graph))
    work = Work(
        macs=1, weight_elements=2, input_elements=3, output_elements=4, weight_bytes=5, input_bytes=6, output_bytes=7
    )
    annotate(next(iter(model.graph)), work)
    next(iter(model.graph)).metadata_props["codesign.weight-bits"] = "3"
    save_graph(model, tmp_path / "g.onnx")
    node = next(iter(load_onnx(tmp_path / "g.onnx").graph.graph))
    assert find(node, Work) == work
    assert node.metadata_props["codesign.weight-bits"] == "3"


def test_operators_of_old_opsets_are_converted(tmp_path: Path) -> None:
    """What exporters wrote in 2019: attributes that have become operands, initialisers among the inputs."""
    draw = np.random.default_rng(0).standard_normal
    weights = {"w": draw((4, 2, 3, 3)), "m": draw((16, 5)), "scale": np.abs(draw(4)), "shift": draw(4)}
    weights |= {"mean": draw(4), "variance": np.abs(draw(4)) + 0.1}
    nodes = [
        helper.make_node("Pad", ["x"], ["p"], name="/pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.0),
        helper.make_node("Conv", ["p", "w"], ["c"], name="/conv"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["b"], name="/bn"),
        helper.make_node("Clip", ["b"], ["k"], name="/clip", min=0.0, max=6.0),
        helper.make_node("Dropout", ["k"], ["d"], name="/drop"),
        helper.make_node("MaxPool", ["d"], ["l"], kernel_shape=[2, 2], strides=[2, 2], name="/pool"),
        helper.make_node("ReduceSum", ["l"], ["r"], axes=[3], keepdims=0, name="/sum"),
        helper.make_node("Unsqueeze", ["r"], ["u"], axes=[3], name="/unsqueeze"),
        helper.make_node("Squeeze", ["u"], ["q"], axes=[3], name="/squeeze"),
        helper.make_node("Slice", ["q"], ["s"], starts=[0], ends=[9], axes=[2], name="/slice"),
        helper.make_node("Flatten", ["s"], ["f"], name="/flatten"),
        helper.make_node("MatMul", ["f", "m"], ["t"], name="/mm"),
        helper.make_node("Softmax", ["t"], ["y"], name="/softmax"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 8, 8))]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in weights.items()]
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    path = tmp_path / "old.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3), path)
    program = load_onnx(path)
    assert program.graph.opset_imports[""] == 21
    x = _images((1, 2, 8, 8))
    assert relative_difference(TorchGraph(program.graph).run(x).detach(), _onnxruntime(path, x)) < 1e-4
    names = [node.name for node in program.graph.graph]
    assert names[:4] == ["/conv", "/clip", "/pool", "/sum"]
    assert names[4:] == ["/unsqueeze", "/squeeze", "/flatten", "/mm", "/softmax"]


def test_quantized_weights_stay_quantized(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], name="dq"),
        helper.make_node("Transpose", ["f"], ["t"], name="turn"),
        helper.make_node("MatMul", ["x", "t"], ["y"], name="mm"),
    ]
    initializers = [
        helper.make_tensor("w", TensorProto.INT4, (3, 4), range(-6, 6)),
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 4))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 3))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    path = tmp_path / "quantized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    program = load_onnx(path)
    assert [node.name for node in program.graph.graph] == ["dq", "turn", "mm"]
    assert program.graph.graph.initializers["w"].dtype == ir.DataType.INT4
    x = _images((1, 4))
    assert torch.allclose(TorchGraph(program.graph).run(x), _onnxruntime(path, x))


@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, kept: float) -> None:
    path = _dense(tmp_path / "net.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    with pytest.raises(InputError, match=r"net\.onnx: .*(truncated|malformed|not valid)"):
        load_onnx(path)


def test_missing_files_and_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: no such file"):
        load_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("this is not a graph")
    with pytest.raises(InputError, match=r"text\.onnx: "):
        load_onnx(tmp_path / "text.onnx")


def test_a_dynamic_batch_becomes_one(tmp_path: Path) -> None:
    assert load_onnx(_dense(tmp_path / "net.onnx", ("batch", 4))).input_shape == (1, 4)


def test_other_dynamic_dimensions_are_refused_until_they_are_given(tmp_path: Path) -> None:
    path = _dense(tmp_path / "net.onnx", ("batch", "time", 4))
    with pytest.raises(InputError, match=r"input 'x' has dynamic dimensions 'time' \(axis 1\); set input_shape"):
        load_onnx(path)
    program = load_onnx(path, (1, 7, 4))
    assert program.input_shape == (1, 7, 4)
    assert program.graph.graph.outputs[0].shape == ir.Shape((1, 7, 3))


@pytest.mark.parametrize("shape", [(1, 5), (1, 4, 4), (2, 4)])
def test_shapes_that_contradict_the_file_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="input_shape: got"):
        load_onnx(_dense(tmp_path / "net.onnx"), shape)


def test_a_given_shape_that_does_not_fit_names_the_node(tmp_path: Path) -> None:
    path = _dense(tmp_path / "net.onnx", ("n", "features"))
    with pytest.raises(InputError, match=r"net\.onnx: node 'mm' \(MatMul\): fails on inputs of shape \[\[1, 5\]\]"):
        load_onnx(path, (1, 5))


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"input 'x' has a fixed batch of 8; export it with a batch of 1 or a dynamic"):
        load_onnx(_dense(tmp_path / "net.onnx", (8, 4)))


def test_several_inputs_or_outputs_are_refused(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("x", "x2")]
    with pytest.raises(InputError, match="has 2 inputs and 1 outputs; one of each is needed"):
        load_onnx(_dense(tmp_path / "net.onnx", inputs=inputs))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    with pytest.raises(InputError, match="has 1 inputs and 2 outputs"):
        load_onnx(_dense(tmp_path / "net.onnx", outputs=outputs, nodes=nodes))


def test_other_types_are_refused(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, (1, 4))]
    half = np.zeros((4, 3), np.float16)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)]
    with pytest.raises(InputError, match="input 'x' has type FLOAT16, FLOAT is needed"):
        load_onnx(_dense(tmp_path / "net.onnx", inputs=inputs, weight=half, outputs=outputs))


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.onnx: NaN or infinity in 'w'"):
        load_onnx(_dense(tmp_path / "net.onnx", weight=np.full((4, 3), np.inf, np.float32)))


def test_unsupported_operators_are_refused_before_anything_else(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Loop", ["", "", "x"], ["l"]),
        helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft"),
    ]
    path = _dense(tmp_path / "net.onnx", (8, "any"), nodes=nodes)
    with pytest.raises(
        UnsupportedOperatorError, match=r"unsupported operators: Loop, NonZero, com\.microsoft\.FusedMatMul; replace"
    ):
        load_onnx(path)


def test_networks_that_mix_samples_are_refused_or_cannot(tmp_path: Path) -> None:
    """A reduction over the batch of one is done for each sample alone, as the file says for one sample."""
    axes = helper.make_node("Constant", [], ["a"], value_ints=[0])
    nodes = [axes, helper.make_node("ReduceMean", ["x", "a"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    program = load_onnx(_dense(tmp_path / "net.onnx", nodes=nodes))
    x = _images((1, 4))
    graph = TorchGraph(program.graph)
    assert torch.allclose(graph.run(x), torch.cat([graph.run(sample[None]) for sample in x]))


def test_an_output_without_a_batch_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Transpose", ["m"], ["y"])]
    with pytest.raises(InputError, match=r"its output is \[3,1\]; it must be \[1, \.\.\., classes\]"):
        load_onnx(_dense(tmp_path / "net.onnx", nodes=nodes))


def test_an_output_that_ignores_the_input_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["w"], ["y"])]
    with pytest.raises(InputError, match=r"net\.onnx: graph: its output does not depend on its input"):
        load_onnx(_dense(tmp_path / "net.onnx", nodes=nodes))
