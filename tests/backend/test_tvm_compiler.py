"""Whole small networks, compiled and compared with onnxruntime on the same file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from numpy.typing import NDArray
from onnx import TensorProto
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
from codesign.testing.written_networks import LOGIT_SCALE, WRITTEN_NETWORKS, NetworkWriter, residual_net

HOST = Target(name="host", description="this machine", profile="host", runner="local", tvm=TvmTarget())


PORTABLE = HOST.model_copy(update={"name": "portable", "tvm": TvmTarget(mcpu="x86-64-v3")})


ROUNDED = HOST.model_copy(update={"name": "rounded", "tvm": TvmTarget(float_products="bfloat16")})


@pytest.fixture(scope="module", autouse=True)
def _amx_for_small_layers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amx_tiles, "MINIMUM_AMX_MACS", 0)
        patch.setattr(amx_tiles, "MINIMUM_BFLOAT16_MACS", 0)
        yield


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
    [("residual", 8), ("residual", 3), ("squeeze", 6), ("mobile", 5), ("mobile", 8), ("transformer_net", 4)],
)
def test_quantized_networks_equal_onnxruntime(name: str, bits: int, tmp_path: Path) -> None:
    net = NetworkWriter((1, 3, 16, 16), bits)
    path = net.save(tmp_path / "net.onnx", WRITTEN_NETWORKS[name](net))
    got, expected = _run_both(_widened(path, tmp_path), _compile(path, tmp_path))
    steps = np.rint(np.abs(got - expected) / LOGIT_SCALE)
    print(
        name, bits, "largest difference", steps.max(), "of", expected.std() / LOGIT_SCALE, "exact", (steps == 0).mean()
    )
    assert expected.std() > 3 * LOGIT_SCALE
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.9


@pytest.mark.parametrize("name", WRITTEN_NETWORKS)
def test_float_networks_equal_onnxruntime(name: str, tmp_path: Path) -> None:
    net = NetworkWriter((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", WRITTEN_NETWORKS[name](net))
    got, expected = _run_both(path, _compile(path, tmp_path))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(
    not request_amx() or "amx_bf16" not in detect_host().flags,
    reason="this processor or operating system has no AMX-BF16",
)
@pytest.mark.parametrize(("name", "layers"), [("residual", 5), ("squeeze", 7)])
def test_products_of_bfloat16_are_stated_and_near(name: str, layers: int, tmp_path: Path) -> None:
    net = NetworkWriter((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", WRITTEN_NETWORKS[name](net))
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
    net = NetworkWriter((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", residual_net(net))
    old = ROUNDED.model_copy(update={"tvm": TvmTarget(mcpu="cascadelake", float_products="bfloat16")})
    with pytest.raises(CompileError, match=r"net\.onnx: float_products = 'bfloat16' .* processor cascadelake"):
        _compile(path, tmp_path, old)


def float_zoo(net: NetworkWriter) -> str:
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
    net = NetworkWriter((1, 3, 16, 16), quantized=False)
    path = net.save(tmp_path / "net.onnx", float_zoo(net))
    got, expected = _run_both(path, _compile(path, tmp_path), images=3)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_processors_without_vnni(tmp_path: Path) -> None:
    net = NetworkWriter((1, 3, 16, 16), bits=5)
    path = net.save(tmp_path / "net.onnx", residual_net(net))
    got, expected = _run_both(path, _compile(path, tmp_path, PORTABLE))
    assert np.abs(got - expected).max() <= LOGIT_SCALE * 1.01


def test_two_threads_compute_the_same(tmp_path: Path) -> None:
    net = NetworkWriter((1, 16, 64, 64))
    x = net.q(net.add("Relu", net.conv(net.q("x", 0.03, 110), 32, 16, x_scale=0.03)))
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(x, 16, 32), LOGIT_SCALE, 128))
    artifact = _compile(path, tmp_path, HOST.model_copy(update={"threads": 2}))
    assert read_sidecar(artifact.path).threads == 2
    got, expected = _run_both(path, artifact, images=2)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_weights_are_stored_at_their_width(bits: int, tmp_path: Path) -> None:
    net = NetworkWriter((1, 64, 1, 1), bits)
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
    net = NetworkWriter((1, 16, 8, 8))
    x = net.q("x")
    for _ in range(4):
        x = net.q(net.add("Relu", net.conv(x, 16, 16)))
    path = net.save(tmp_path / "net.onnx", x)
    module = build_module(read_network(path), InstructionSet(True, 31), 1).module
    names = [str(variable.name_hint) for variable in module.get_global_vars()]
    assert sum(name.startswith("conv_i8") for name in names) == 1


def test_every_unsupported_node_is_named(tmp_path: Path) -> None:
    net = NetworkWriter((1, 4, 8, 8), quantized=False)
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
    net = NetworkWriter((1, 4, 8, 8))
    s, z = net.constant("s", np.float32(0.1)), net.constant("z", np.int8(0))
    x = net.add("DequantizeLinear", net.add("QuantizeLinear", "x", s, z), s, z)
    lines = TvmCompiler().unsupported(net.save(tmp_path / "net.onnx", x))
    assert lines[0].startswith("QuantizeLinear (quantizelinear0): activations are uint8")
    assert lines[1].startswith("DequantizeLinear (dequantizelinear1): activations are uint8")


def test_a_batch_is_refused(tmp_path: Path) -> None:
    net = NetworkWriter((2, 4, 8, 8), quantized=False)
    (line,) = TvmCompiler().unsupported(net.save(tmp_path / "net.onnx", net.add("Relu", "x")))
    assert "batch of 1" in line


def test_images_of_a_batch_inside_are_refused(tmp_path: Path) -> None:
    net = NetworkWriter((1, 8, 8, 8), quantized=False)
    x = net.add("Reshape", "x", net.constant("shape", np.array([2, 4, 8, 8], np.int64)))
    (line,) = TvmCompiler().unsupported(net.save(tmp_path / "net.onnx", net.conv(x, 4, 4)))
    assert line.startswith("Conv (conv1): batch of 2")


def test_weights_wider_than_said_are_refused(tmp_path: Path) -> None:
    net = NetworkWriter((1, 4, 8, 8))
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(net.q("x"), 4, 4)))
    model = onnx.load(path)
    next(n for n in model.graph.node if n.op_type == "Conv").metadata_props[0].value = "3"
    onnx.save(model, path)
    assert "do not fit the 3 bits" in TvmCompiler().unsupported(path)[0]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    net = NetworkWriter((1, 4, 8, 8))
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(net.q("x"), 4, 4)))
    path.write_bytes(path.read_bytes()[:200])
    for compiler in (TvmCompiler(), OnnxruntimeCompiler()):
        with pytest.raises(CompileError, match=r"net\.onnx"):
            compiler.compile(path, HOST, "digest", tmp_path)


def test_targets_that_cannot_be_compiled_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NetworkWriter((1, 4, 8, 8))
    path = net.save(tmp_path / "net.onnx", net.add("Relu", "x"))
    with pytest.raises(CompileError, match=r"no \[tvm\] section"):
        _compile(path, tmp_path, HOST.model_copy(update={"tvm": None}))
    with pytest.raises(CompileError, match="'pentium-17' is unknown"):
        _compile(path, tmp_path, HOST.model_copy(update={"tvm": TvmTarget(mcpu="pentium-17")}))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match="no linker"):
        _compile(path, tmp_path)


def test_onnxruntime_gets_wide_weights(tmp_path: Path) -> None:
    net = NetworkWriter((1, 4, 8, 8), bits=4)
    path = net.save(tmp_path / "net.onnx", net.q(net.conv(net.q("x"), 6, 4)))
    assert OnnxruntimeCompiler().unsupported(path) == ()
    artifact = OnnxruntimeCompiler().compile(path, HOST, "digest", tmp_path)
    kinds = {i.data_type for i in onnx.load(artifact.path).graph.initializer}
    assert TensorProto.INT4 not in kinds
    assert artifact.weight_bytes == 6 * 4 * 9 + 6 * 4 * 3
