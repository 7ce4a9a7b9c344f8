"""Whole small networks, compiled and compared with onnxruntime on the same file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from codesign.backend.base import Artifact
from codesign.backend.kernels import amx_tiles
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.layers import layer_constants
from codesign.backend.onnxruntime_compiler import OnnxruntimeCompiler
from codesign.backend.operations import Convolution
from codesign.backend.qdq_graph import read_network
from codesign.backend.relax_builder import build_module
from codesign.backend.sidecar import read_sidecar
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.errors import CompileError
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.host import detect_host
from codesign.hardware.target import Target, TvmTarget

HOST = Target(name="host", description="this machine", profile="host", runner="local", tvm=TvmTarget())
PORTABLE = HOST.model_copy(update={"name": "portable", "tvm": TvmTarget(mcpu="x86-64-v3")})
ROUNDED = HOST.model_copy(update={"name": "rounded", "tvm": TvmTarget(float_products="bfloat16")})
LOGIT_SCALE = 0.05
Attribute = int | float | str | list[int]


@pytest.fixture(scope="module", autouse=True)
def _amx_for_small_layers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amx_tiles, "MINIMUM_AMX_MACS", 0)
        patch.setattr(amx_tiles, "MINIMUM_BFLOAT16_MACS", 0)
        yield


def _node(op: str, inputs: tuple[str, ...], results: list[str], attributes: "dict[str, Attribute]") -> onnx.NodeProto:
    node = helper.make_node(op, list(inputs), results, name=results[0])
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


class Net:
    """Writes ONNX graphs, with QDQ nodes as the product writes them or without."""

    def __init__(self, shape: tuple[int, ...], bits: int = 8, quantized: bool = True, seed: int = 0) -> None:
        self.bits, self.quantized, self.random = bits, quantized, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = shape

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, outputs: Attribute = 1, **attributes: Attribute) -> str:
        assert isinstance(outputs, int)
        name = f"{op.lower()}{len(self.nodes)}"
        results = [name] + [f"{name}_{i}" for i in range(1, outputs)]
        self.nodes.append(_node(op, inputs, results, attributes))
        return name

    def q(self, x: str, scale: float = 0.05, zero: int = 0) -> str:
        if not self.quantized:
            return x
        name = f"q{len(self.nodes)}"
        s, z = self.constant(f"{name}_s", np.float32(scale)), self.constant(f"{name}_z", np.uint8(zero))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, s, z), s, z)

    def weighted(
        self, op: str, x: str, shape: tuple[int, ...], x_scale: float, axis: Attribute = 0, **attributes: Attribute
    ) -> str:
        assert isinstance(axis, int)
        channels = shape[axis]
        fan_in = int(np.prod(shape)) // channels
        real = self.random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        bias = self.random.standard_normal(channels).astype(np.float32) * np.float32(0.1)
        name = f"w{len(self.nodes)}"
        operands = [x]
        if self.quantized:
            top = (1 << (self.bits - 1)) - 1
            spread = tuple(-1 if i == axis else 1 for i in range(len(shape)))
            scale = np.abs(real).max(axis=tuple(i for i in range(len(shape)) if i != axis)) / np.float32(top)
            integers = np.rint(real / scale.reshape(spread)).astype(np.int8)
            stored = integers.astype(ml_dtypes.int4) if self.bits <= 4 else integers
            ws, wq = self.constant(f"{name}_s", scale), self.constant(name, stored)
            operands.append(self.add("DequantizeLinear", wq, ws, axis=axis))
            bs = self.constant(f"{name}_bs", scale * np.float32(x_scale))
            bq = self.constant(f"{name}_b", np.rint(bias / (scale * np.float32(x_scale))).astype(np.int32))
            bias_name = self.add("DequantizeLinear", bq, bs, axis=0)
        else:
            operands.append(self.constant(name, real))
            bias_name = self.constant(f"{name}_b", bias)
        if op != "MatMul":
            operands.append(bias_name)
        result = self.add(op, *operands, **attributes)
        if self.quantized:
            entry = self.nodes[-1].metadata_props.add()
            entry.key, entry.value = "codesign.weight-bits", str(self.bits)
        return result

    def conv(
        self, x: str, co: int, ci: int, kernel: tuple[int, int] = (3, 3), x_scale: float = 0.05, **attributes: Attribute
    ) -> str:
        groups = attributes.get("group", 1)
        assert isinstance(groups, int)
        if "auto_pad" not in attributes:
            attributes.setdefault("pads", [kernel[0] // 2, kernel[1] // 2] * 2)
        return self.weighted("Conv", x, (co, ci // groups, *kernel), x_scale, **attributes)

    def save(self, path: Path, output: str) -> Path:
        start = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        end = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "net", [start], [end], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.save(model, path)
        return path


def residual_net(net: Net) -> str:
    """Two blocks of a CIFAR ResNet, the second with an option A shortcut, and the head."""
    x = net.q(net.add("Relu", net.conv(net.q("x", 0.03, 110), 16, 3, x_scale=0.03)))
    y = net.q(net.conv(net.q(net.add("Relu", net.conv(x, 16, 16))), 16, 16), 0.04, 120)
    x = net.q(net.add("Relu", net.add("Add", y, x)), 0.06)
    y = net.q(net.add("Relu", net.conv(x, 32, 16, strides=[2, 2], x_scale=0.06)), 0.05)
    y = net.q(net.conv(y, 32, 32), 0.05, 100)
    ends = [net.constant(f"slice{i}", np.array(v, np.int64)) for i, v in enumerate(([0, 0], [99, 99], [2, 3], [2, 2]))]
    short = net.q(net.add("Slice", x, *ends), 0.06)
    pads = net.constant("pads", np.array([0, 8, 0, 0, 0, 8, 0, 0], np.int64))
    short = net.q(net.add("Pad", short, pads), 0.06)
    x = net.q(net.add("Relu", net.add("Add", short, y)), 0.07)
    x = net.q(net.add("Flatten", net.q(net.add("GlobalAveragePool", x), 0.03)), 0.03)
    return net.q(net.weighted("Gemm", x, (10, 32), 0.03, transB=1), LOGIT_SCALE, 128)


def squeeze_net(net: Net) -> str:
    """Separable 1x3 and 3x1 convolutions, channels that are no multiples of 16, pooling and concatenation."""
    x = net.q(net.add("Relu", net.conv(net.q("x", 0.03, 110), 23, 3, (5, 5), 0.03, strides=[2, 2])))
    x = net.q(net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1))
    y = net.q(net.add("Relu", net.conv(x, 11, 23, (1, 1))))
    y = net.q(net.add("Relu", net.conv(y, 12, 11, (1, 3))))
    y = net.q(net.add("Relu", net.conv(y, 12, 12, (3, 1))))
    y = net.q(net.add("Relu", net.conv(y, 23, 12, (1, 1))), 0.04)
    x = net.q(net.add("Add", x, y), 0.06)
    left = net.q(net.add("Relu", net.conv(x, 7, 23, (1, 1), 0.06)), 0.03)
    right = net.q(net.add("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 0.05, 3)
    x = net.q(net.add("Concat", left, right, axis=1), 0.05)
    x = net.q(net.conv(x, 10, 30, (1, 1)), 0.04, 128)
    axes = net.constant("axes", np.array([2, 3], np.int64))
    return net.q(net.add("ReduceMean", x, axes, keepdims=0), LOGIT_SCALE, 128)


def mobile_net(net: Net) -> str:
    """Inverted residuals with ReLU6, a squeeze-and-excitation gate, HardSwish, grouped and dilated convolutions."""
    six = net.constant("zero", np.float32(0)), net.constant("six", np.float32(6))
    x = net.q(net.add("Clip", net.conv(net.q("x", 0.03, 110), 24, 3, x_scale=0.03, strides=[2, 2]), *six), 6 / 255)
    y = net.q(net.add("Clip", net.conv(x, 40, 24, (1, 1), 6 / 255), *six), 6 / 255)
    y = net.q(net.add("Clip", net.conv(y, 40, 40, (3, 3), 6 / 255, group=40), *six), 6 / 255)
    gate = net.q(net.add("GlobalAveragePool", y), 6 / 255)
    gate = net.q(net.add("HardSigmoid", net.conv(gate, 40, 40, (1, 1), 6 / 255)), 1 / 255)
    y = net.q(net.add("Mul", y, gate), 6 / 255)
    y = net.q(net.conv(y, 24, 40, (1, 1), 6 / 255), 0.04, 128)
    x = net.q(net.add("Add", x, y), 0.07, 90)
    x = net.q(net.add("HardSwish", net.conv(x, 32, 24, (3, 3), 0.07, dilations=[2, 2], pads=[2, 2, 2, 2])), 0.05, 8)
    x = net.q(net.add("Relu", net.conv(x, 12, 32, (3, 3), 0.05, group=4, auto_pad="SAME_UPPER")))
    shape = net.constant("shape", np.array([1, -1], np.int64))
    x = net.q(net.add("Reshape", x, shape))
    return net.q(net.weighted("Gemm", x, (12 * 64, 10), 0.05, axis=1), LOGIT_SCALE, 128)


def transformer(net: Net) -> str:
    """One encoder block on 16 patches, dense layers in integers and the rest in floating point."""

    def linear(x: str, n: int, k: int, scale: float) -> str:
        y = net.weighted("MatMul", x, (k, n), scale, axis=1)
        return net.add("Add", y, net.constant(f"bias{len(net.nodes)}", np.linspace(-0.1, 0.1, n, dtype=np.float32)))

    def vector(name: str, n: int, value: float) -> str:
        return net.constant(f"{name}{len(net.nodes)}", np.full(n, value, np.float32))

    width, heads = 24, 2
    shapes = {
        n: net.constant(n, np.array(v, np.int64))
        for n, v in (("tokens", [1, width, 16]), ("split", [1, 16, 3, heads, -1]), ("join", [1, 16, width]))
    }
    x = net.conv(net.q("x", 0.03, 110), width, 3, (4, 4), 0.03, strides=[4, 4], pads=[0] * 4)
    x = net.add("Transpose", net.add("Reshape", net.q(x, 0.04, 128), shapes["tokens"]), perm=[0, 2, 1])
    x = net.add(
        "Add", x, net.constant("position", np.linspace(-1, 1, 16 * width, dtype=np.float32).reshape(1, 16, width))
    )
    y = net.add("LayerNormalization", x, vector("g", width, 1.1), vector("b", width, 0.1), axis=-1)
    y = net.q(linear(net.q(y, 0.04, 128), 3 * width, width, 0.04), 0.04, 128)
    y = net.add("Transpose", net.add("Reshape", y, shapes["split"]), perm=[2, 0, 3, 1, 4])
    parts = [net.add("Gather", y, net.constant(f"part{i}", np.array(i, np.int64)), axis=0) for i in range(3)]
    scores = net.add("MatMul", parts[0], net.add("Transpose", parts[1], perm=[0, 1, 3, 2]))
    scores = net.add("Softmax", net.add("Div", scores, net.constant("root", np.float32(3.46))), axis=-1)
    y = net.add("Transpose", net.add("MatMul", scores, parts[2]), perm=[0, 2, 1, 3])
    y = net.q(net.add("Reshape", y, shapes["join"]), 0.03, 128)
    x = net.add("Add", x, net.q(linear(y, width, width, 0.03), 0.03, 128))
    y = net.add("LayerNormalization", x, vector("g", width, 0.9), axis=-1)
    y = net.q(net.add("Gelu", net.q(linear(net.q(y, 0.04, 128), 48, width, 0.04), 0.04, 128)), 0.03, 6)
    x = net.add("Add", x, net.q(linear(y, width, 48, 0.03), 0.03, 128))
    x = net.q(net.add("ReduceMean", x, net.constant("axes", np.array([1], np.int64)), keepdims=0), 0.03, 128)
    return net.q(net.weighted("Gemm", x, (10, width), 0.03, transB=1), LOGIT_SCALE, 128)


NETS: dict[str, Callable[[Net], str]] = {
    "residual": residual_net,
    "squeeze": squeeze_net,
    "mobile": mobile_net,
    "transformer": transformer,
}


def _compile(path: Path, folder: Path, target: Target = HOST) -> Artifact:
    return TvmCompiler().compile(path, target, "digest", folder)


def _run_both(path: Path, artifact: Artifact, images: int = 12) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(artifact.path)), tvm.cpu())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = read_sidecar(artifact.path).input_shape
    inputs = np.random.default_rng(5).standard_normal((images, *shape[1:])).astype(np.float32)
    got = [machine["main"](tvm.runtime.tensor(inputs[i : i + 1])).numpy() for i in range(images)]
    expected = [session.run(None, {"x": inputs[i : i + 1]})[0] for i in range(images)]
    return np.concatenate(got), np.concatenate(expected)


def _widened(path: Path, folder: Path) -> Path:
    return OnnxruntimeCompiler().compile(path, HOST, "digest", folder).path


@pytest.mark.parametrize(
    ("name", "bits"),
    [("residual", 8), ("residual", 3), ("squeeze", 6), ("mobile", 5), ("mobile", 8), ("transformer", 4)],
)
def test_quantized_networks_equal_onnxruntime(name: str, bits: int, tmp_path: Path) -> None:
    net = Net((1, 3, 16, 16), bits)
    path = net.save(tmp_path / "net.onnx", NETS[name](net))
    got, expected = _run_both(_widened(path, tmp_path), _compile(path, tmp_path))
    steps = np.rint(np.abs(got - expected) / LOGIT_SCALE)
    print(
        name, bits, "largest difference", steps.max(), "of", expected.std() / LOGIT_SCALE, "exact", (steps == 0).mean()
    )
    assert expected.std() > 3 * LOGIT_SCALE
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.9


@pytest.mark.parametrize("name", NETS)
def test_float_networks_equal_onnxruntime(name: str, tmp_path: Path) -> None:
    net = Net((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", NETS[name](net))
    got, expected = _run_both(path, _compile(path, tmp_path))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(
    not request_amx() or "amx_bf16" not in detect_host().flags,
    reason="this processor or operating system has no AMX-BF16",
)
@pytest.mark.parametrize(("name", "layers"), [("residual", 5), ("squeeze", 7)])
def test_products_of_bfloat16_are_stated_and_near(name: str, layers: int, tmp_path: Path) -> None:
    net = Net((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", NETS[name](net))
    real = _compile(path, tmp_path)
    rounded = _compile(path, tmp_path, ROUNDED)
    got, expected = _run_both(path, rounded)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    print(name, "largest difference of the largest output", error, rounded.weight_bytes, real.weight_bytes)
    assert 1e-5 < error < 2e-2
    assert read_sidecar(real.path).bfloat16_layers == 0
    assert read_sidecar(rounded.path).bfloat16_layers == layers
    assert rounded.weight_bytes < 0.7 * real.weight_bytes  # tiles also hold zeros for channels that are only stored


def test_products_of_bfloat16_need_amx(tmp_path: Path) -> None:
    net = Net((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", residual_net(net))
    old = ROUNDED.model_copy(update={"tvm": TvmTarget(mcpu="cascadelake", float_products="bfloat16")})
    with pytest.raises(CompileError, match=r"net\.onnx: float_products = 'bfloat16' .* processor cascadelake"):
        _compile(path, tmp_path, old)


def float_zoo(net: Net) -> str:
    """Operators that have no template, one after the other."""

    def ints(name: str, *values: int) -> str:
        return net.constant(name, np.array(values, np.int64))

    def real(name: str, *values: float) -> str:
        return net.constant(name, np.array(values, np.float32))

    channels = net.shape[1]
    norm = [real(f"bn{i}", *np.linspace(0.5, 1.5, channels)) for i in range(4)]
    x = net.add("BatchNormalization", net.add("Identity", "x"), *norm)
    x = net.add("Add", net.add("Tanh", x), net.add("Sigmoid", net.add("LeakyRelu", x, alpha=0.2)))
    x = net.add("Sub", net.add("Erf", x), net.add("Gelu", x, approximate="tanh"))
    x = net.add("Sqrt", net.add("Pow", x, net.constant("two", np.float32(2))))
    x = net.add("Div", x, net.add("Add", x, real("one", 1.0)))
    x = net.add("Pad", x, ints("pads", 0, 0, 1, 2, 0, 1, 0, 1), real("fill", 0.25))
    x = net.add("Slice", x, ints("from", -1, 1), ints("to", -99, 99), ints("over", 2, 3), ints("by", -2, 3))
    half = net.add("Split", x, ints("cut", 1, channels), outputs=2, axis=1)
    x = net.add("Mul", net.add("Unsqueeze", net.add("Squeeze", half, ints("first", 1)), ints("again", 1)), f"{half}_1")
    x = net.add("Where", net.constant("mask", np.arange(6).reshape(1, 1, 1, 6) % 2 == 0), x, net.add("Cast", x, to=1))
    x = net.add(
        "Concat",
        x,
        net.add("Expand", net.add("ReduceSum", x, ints("rows", 2)), ints("shape", 1, channels, 2, 6)),
        axis=2,
    )
    x = net.add("Clip", net.add("Softmax", x, axis=1), "", real("top", 0.4))
    return net.add("ReduceMean", net.add("Flatten", x), ints("none"), noop_with_empty_axes=1)


def test_operators_without_a_template(tmp_path: Path) -> None:
    net = Net((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", float_zoo(net))
    got, expected = _run_both(path, _compile(path, tmp_path), images=3)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_processors_without_vnni(tmp_path: Path) -> None:
    net = Net((1, 3, 16, 16), bits=5)
    path = net.save(tmp_path / "net.onnx", residual_net(net))
    got, expected = _run_both(path, _compile(path, tmp_path, PORTABLE))
    assert np.abs(got - expected).max() <= LOGIT_SCALE * 1.01


def test_two_threads_compute_the_same(tmp_path: Path) -> None:
    net = Net((1, 16, 64, 64))
    x = net.q(net.add("Relu", net.conv(net.q("x", 0.03, 110), 32, 16, x_scale=0.03)))
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(x, 16, 32), LOGIT_SCALE, 128))
    artifact = _compile(path, tmp_path, HOST.model_copy(update={"threads": 2}))
    assert read_sidecar(artifact.path).threads == 2
    got, expected = _run_both(path, artifact, images=2)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_weights_are_stored_at_their_width(bits: int, tmp_path: Path) -> None:
    net = Net((1, 64, 1, 1), bits)
    x = net.q(net.add("Flatten", net.q("x")))
    path = net.save(tmp_path / "net.onnx", net.q(net.weighted("Gemm", x, (48, 64), 0.05, transB=1), LOGIT_SCALE, 128))
    artifact = _compile(path, tmp_path)
    assert artifact.weight_bytes == 48 * 64 * bits // 8 + 48 * 8
    (layer,) = [op for op in read_network(path).operations if isinstance(op, Convolution)]
    (weight, *_) = layer_constants(layer, ConvolutionShape(1, 1, 64, 48), InstructionSet(True, 31)).stored
    (portable, *_) = layer_constants(layer, ConvolutionShape(1, 1, 64, 48), InstructionSet(False, 7)).stored
    assert weight.nbytes == portable.nbytes == 48 * 64 * bits // 8
    content = artifact.path.read_bytes()
    assert weight.tobytes() in content or portable.tobytes() in content


def test_kernels_are_shared_by_shape(tmp_path: Path) -> None:
    net = Net((1, 16, 8, 8))
    x = net.q("x")
    for _ in range(4):
        x = net.q(net.add("Relu", net.conv(x, 16, 16)))
    path = net.save(tmp_path / "net.onnx", x)
    module = build_module(read_network(path), InstructionSet(True, 31), 1).module
    names = [str(variable.name_hint) for variable in module.get_global_vars()]
    assert sum(name.startswith("conv_i8") for name in names) == 1


def test_every_unsupported_node_is_named(tmp_path: Path) -> None:
    net = Net((1, 4, 8, 8), quantized=False)
    x = net.add("Sin", "x")
    x = net.add("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = net.add("Add", x, net.add("TopK", x, net.constant("k", np.array([4], np.int64)), outputs=2))
    path = net.save(tmp_path / "net.onnx", net.add("Relu", x))
    lines = TvmCompiler().unsupported(path)
    assert [line.split(":")[0] for line in lines] == ["Sin (sin0)", "AveragePool (averagepool1)", "TopK (topk2)"]
    with pytest.raises(CompileError, match=r"3 nodes.*Sin \(sin0\).*ceil_mode.*TopK"):
        _compile(path, tmp_path)
    assert not list(tmp_path.glob("*.so"))


def test_signed_activations_are_refused(tmp_path: Path) -> None:
    net = Net((1, 4, 8, 8))
    s, z = net.constant("s", np.float32(0.1)), net.constant("z", np.int8(0))
    x = net.add("DequantizeLinear", net.add("QuantizeLinear", "x", s, z), s, z)
    lines = TvmCompiler().unsupported(net.save(tmp_path / "net.onnx", x))
    assert lines[0].startswith("QuantizeLinear (quantizelinear0): activations are uint8")
    assert lines[1].startswith("DequantizeLinear (dequantizelinear1): activations are uint8")


def test_a_batch_is_refused(tmp_path: Path) -> None:
    net = Net((2, 4, 8, 8), quantized=False)
    (line,) = TvmCompiler().unsupported(net.save(tmp_path / "net.onnx", net.add("Relu", "x")))
    assert "batch of 1" in line


def test_images_of_a_batch_inside_are_refused(tmp_path: Path) -> None:
    net = Net((1, 8, 8, 8), quantized=False)
    x = net.add("Reshape", "x", net.constant("shape", np.array([2, 4, 8, 8], np.int64)))
    (line,) = TvmCompiler().unsupported(net.save(tmp_path / "net.onnx", net.conv(x, 4, 4)))
    assert line.startswith("Conv (conv1): batch of 2")


def test_weights_wider_than_said_are_refused(tmp_path: Path) -> None:
    net = Net((1, 4, 8, 8))
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(net.q("x"), 4, 4)))
    model = onnx.load(path)
    next(n for n in model.graph.node if n.op_type == "Conv").metadata_props[0].value = "3"
    onnx.save(model, path)
    assert "do not fit the 3 bits" in TvmCompiler().unsupported(path)[0]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    net = Net((1, 4, 8, 8))
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(net.q("x"), 4, 4)))
    path.write_bytes(path.read_bytes()[:200])
    for compiler in (TvmCompiler(), OnnxruntimeCompiler()):
        with pytest.raises(CompileError, match=r"net\.onnx"):
            compiler.compile(path, HOST, "digest", tmp_path)


def test_targets_that_cannot_be_compiled_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net((1, 4, 8, 8))
    path = net.save(tmp_path / "net.onnx", net.add("Relu", "x"))
    with pytest.raises(CompileError, match=r"no \[tvm\] section"):
        _compile(path, tmp_path, HOST.model_copy(update={"tvm": None}))
    with pytest.raises(CompileError, match="'pentium-17' is unknown"):
        _compile(path, tmp_path, HOST.model_copy(update={"tvm": TvmTarget(mcpu="pentium-17")}))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match="no linker"):
        _compile(path, tmp_path)


def test_onnxruntime_gets_wide_weights(tmp_path: Path) -> None:
    net = Net((1, 4, 8, 8), bits=4)
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(net.q("x"), 6, 4)))
    assert OnnxruntimeCompiler().unsupported(path) == ()
    artifact = OnnxruntimeCompiler().compile(path, HOST, "digest", tmp_path)
    kinds = {i.data_type for i in onnx.load(artifact.path).graph.initializer}
    assert TensorProto.INT4 not in kinds
    assert artifact.weight_bytes == 6 * 4 * 9 + 6 * 4 * 3
