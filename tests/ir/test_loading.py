import re
import zipfile
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
from safetensors.torch import save_file
from torch import Tensor, nn

from codesign.architecture.resnet_cifar import resnet20
from codesign.errors import InputError, UnsupportedOperatorError
from codesign.ir.annotation import annotate, find
from codesign.ir.annotations import Work
from codesign.ir.loading import load_exported, load_module, load_onnx, load_program
from codesign.ir.lowering import relative_difference
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.ir.serialization import save_graph
from codesign.ir.weights_file import read_weights
from codesign.testing.networks import PlainNet, SmallMobileNet, randomize

Lowered = Callable[[str], Program]
SHARED = Path(__file__).parents[2] / ".." / "shared"
CHECKPOINT = SHARED / "models" / "cifar10" / "resnet20-12fca82f.th"
PLAIN = "codesign.testing.networks:PlainNet"
NETWORK_FILE = """
from torch import nn
from beside import WIDTH

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, WIDTH))

def needs(width):
    return nn.Linear(4, width)

def breaks():
    raise OSError("no such device")

def text():
    return "a network"
"""


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    path = tmp_path / "nets" / "mine.py"
    path.parent.mkdir()
    path.write_text(NETWORK_FILE)
    (path.parent / "beside.py").write_text("WIDTH = 3\n")
    return path


# --- modules


def test_a_factory_in_a_package(tmp_path: Path) -> None:
    module = load_module(PLAIN, None, tmp_path)
    assert isinstance(module, PlainNet)
    assert not module.training


def test_a_factory_in_a_file_beside_others(network_file: Path) -> None:
    module = load_module("nets/mine.py:make", None, network_file.parents[1])
    assert module(torch.zeros(2, 4)).shape == (2, 3)
    assert isinstance(load_module(f"{network_file}:make", None, Path("/nowhere")), nn.Module)


def test_a_package_beside_the_run_file(tmp_path: Path) -> None:
    package = tmp_path / "own_networks_for_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "small.py").write_text("from torch import nn\nnet = lambda: nn.Linear(2, 2)\n")
    assert isinstance(load_module("own_networks_for_a_test.small:net", None, tmp_path), nn.Linear)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets/mine.py:mak", "has no 'mak'; did you mean 'make'"),
        ("nets/mine.py:needs", r"cannot be called without arguments \(missing a required argument: 'width'\)"),
        ("nets/mine.py:breaks", r"call failed \(OSError: no such device\)"),
        ("nets/mine.py:text", r"gives str; it must return a torch\.nn\.Module"),
        ("nets/other.py:make", r"other\.py: no such file; check the path"),
        ("no_such_package_at_all:make", "import failed .*No module named 'no_such_package_at_all'"),
        ("nets/mine.py", "is no network; name a factory"),
        ("network.tflite", r"is no network; name a factory as .* or a file that ends in \.onnx or \.pt2"),
    ],
)
def test_bad_factories_are_refused(network_file: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_program(spec, None, (1, 4), network_file.parents[1])


def test_a_file_that_fails_to_import(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(InputError, match=r"broken\.py: import failed \(ModuleNotFoundError: No module named"):
        load_module("broken.py:make", None, tmp_path)


# --- weights


def _save(path: Path, state: dict[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [None, "state_dict"])
@pytest.mark.parametrize("suffix", [".pth", ".th", ".pt", ".safetensors"])
def test_weights_are_loaded(tmp_path: Path, suffix: str, nested: str | None, prefix: str) -> None:
    source = randomize(SmallMobileNet(), seed=3)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if nested is None or suffix == ".safetensors":
        _save(path, state)
    else:
        torch.save({nested: state, "epoch": 7}, path)
    module = load_module("codesign.testing.networks:SmallMobileNet", path, tmp_path)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in module.state_dict().items())


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    state = {n: v for n, v in SmallMobileNet().state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    load_module("codesign.testing.networks:SmallMobileNet", tmp_path / "old.pth", tmp_path)


def _plain_state() -> dict[str, Tensor]:
    return dict(PlainNet().state_dict())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = _plain_state()
    state["extra.weight"] = state.pop("conv1.weight")
    _save(tmp_path / "w.pth", state)
    with pytest.raises(InputError, match=r"w\.pth: .* PlainNet \(missing: conv1\.weight; unexpected: extra\.weight\)"):
        load_module(PLAIN, tmp_path / "w.pth", tmp_path)


def test_many_mismatches_name_a_few(tmp_path: Path) -> None:
    _save(tmp_path / "w.pth", {f"layer{i}.weight": torch.zeros(1) for i in range(9)})
    with pytest.raises(InputError, match=r"missing: conv1\.weight, conv1\.bias, conv2\.weight and 5 more; unexp") as e:
        load_module(PLAIN, tmp_path / "w.pth", tmp_path)
    assert len(str(e.value)) < 400


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    _save(tmp_path / "w.pth", _plain_state() | {"head.weight": torch.zeros(5, 12)})
    with pytest.raises(InputError, match=r"shapes differ: head\.weight is \[5, 12\] instead of \[10, 12\]"):
        load_module(PLAIN, tmp_path / "w.pth", tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_with_nan_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    _save(path, _plain_state() | {"head.bias": torch.full((10,), torch.nan)})
    with pytest.raises(InputError, match=r"w\.\w+: NaN or infinity in 'head\.bias'"):
        load_module(PLAIN, path, tmp_path)


class _Dangerous:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch pickled",)


def test_python_objects_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Dangerous()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth: is not a file of tensors"):
        read_weights(tmp_path / "bad.pth")
    assert not (tmp_path / "pickled").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_weights_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    _save(path, _plain_state())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=rf"w{suffix}: is not a .*save it again"):
        read_weights(path)


def test_other_weight_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"w\.h5: weights must be one of \.pt, \.pth, \.safetensors, \.th"):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(InputError, match=r"none\.pth: no such file"):
        read_weights(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list\.pth: holds no state dict"):
        read_weights(tmp_path / "list.pth")


@pytest.mark.skipif(not CHECKPOINT.exists(), reason=f"{CHECKPOINT.name} is not there")
def test_the_published_resnet20() -> None:
    program = load_program(
        "codesign.architecture.resnet_cifar:resnet20", str(CHECKPOINT.resolve()), (1, 3, 32, 32), Path()
    )
    assert len(program.weighted_nodes) == 20
    data = np.load(SHARED / "data" / "cifar10" / "lossless_test.npz")
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = TorchGraph(program.graph).run((images - mean[:, None, None]) / std[:, None, None])
    accuracy = float((logits.argmax(1).numpy() == data["labels"]).mean())
    assert abs(accuracy - 0.916) < 0.003


def test_a_module_needs_an_input_shape(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"PlainNet: a module does not tell its input_shape; give it"):
        load_program(PLAIN, None, None, tmp_path)


def test_weights_beside_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights: net\.onnx holds its own, got w\.pth beside it"):
        load_program("net.onnx", "w.pth", None, tmp_path)


# --- ONNX files


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


# --- exported programs


def _export(path: Path, module: nn.Module, batch: int, dynamic: bool) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    exported = torch.export.export(module.eval(), (torch.randn(batch, 1, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(exported, path)
    return path


@pytest.mark.parametrize("dynamic", [True, False])
def test_exported_programs(lowered: Lowered, tmp_path: Path, dynamic: bool) -> None:
    _export(tmp_path / "net.pt2", randomize(PlainNet()), 2 if dynamic else 1, dynamic)
    program, ours = load_program("net.pt2", None, None, tmp_path), lowered("plain")
    assert [node.name for node in program.weighted_nodes] == ["conv1", "conv2", "hidden", "head"]
    x = _images(program.input_shape)
    assert relative_difference(TorchGraph(program.graph).run(x), TorchGraph(ours.graph).run(x)) < 1e-6
    if dynamic:
        assert program.parameter_of == ours.parameter_of
        assert program.module is not None
        assert program.module(x).shape == (3, 10)
    else:
        assert program.module is None


def test_an_exported_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.pt2: input 'x' has a fixed batch of 4"):
        load_exported(_export(tmp_path / "net.pt2", PlainNet(), 4, dynamic=False))


def test_damaged_exported_programs_are_refused(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.pt2", PlainNet(), 1, dynamic=False)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"net\.pt2: is not a whole file of torch\.export\.save"):
        load_exported(path)
    with pytest.raises(InputError, match=r"none\.pt2: no such file"):
        load_exported(tmp_path / "none.pt2")
    torch.save(PlainNet().state_dict(), path)
    with pytest.raises(InputError, match=r"net\.pt2: is not a whole file of torch\.export\.save"):
        load_exported(path)


def _rewrite(path: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if re.search(part, name))
    entries[name] = change(entries[name])
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "weights_config",
            lambda data: data.replace(b'"use_pickle": false', b'"use_pickle": true', 1),
            "holds pickled Python objects",
        ),
        (
            r"models/model\.json",
            lambda data: re.sub(rb"Symbol\('(\w+)'", rb"exec('\1'", data, count=1),
            "where a size should stand",
        ),
    ],
)
def test_code_in_exported_programs_is_refused(
    tmp_path: Path, part: str, change: Callable[[bytes], bytes], message: str
) -> None:
    path = _export(tmp_path / "net.pt2", PlainNet(), 2, dynamic=True)
    _rewrite(path, part, change)
    with pytest.raises(InputError, match=message):
        load_exported(path)


def test_resnet20_is_found_by_name() -> None:
    assert isinstance(load_module("codesign.architecture.resnet_cifar:resnet20", None, Path()), type(resnet20()))
