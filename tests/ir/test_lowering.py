import copy
import logging
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.errors import InputError, UnsupportedOperatorError
from codesign.ir.annotations import is_weighted
from codesign.ir.lowering import lower_module
from codesign.ir.naming import name_nodes
from codesign.ir.normalization import normalize
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.testing.networks import PlainNet, SmallTransformer, randomize

Lowered = Callable[[str], Program]
Function = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Parts and a function that connects them."""

    def __init__(self, function: Function, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _kinds(program: Program) -> list[str]:
    return [node.op_type for node in program.graph.graph]


def test_graphs_have_the_agreed_form(program: Program) -> None:
    model = program.graph
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert model.opset_imports[""] == 21
    assert model.ir_version >= 10
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    assert not {"Constant", "BatchNormalization", "Identity", "Dropout"} & set(_kinds(program))
    for node in model.graph:
        assert not [key for key in node.metadata_props if not key.startswith("codesign.")]
        assert not all(value is None or value.const_value is not None for value in node.inputs), "a constant was left"
        for output in node.outputs:
            assert output.shape is not None
            assert all(isinstance(size, int) for size in output.shape)
            assert output.dtype is not None
    used = {value.name for node in model.graph for value in node.inputs if value is not None}
    assert set(model.graph.initializers) <= used
    assert program.input_shape[0] == 1


def test_shapes_equal_onnx_inference(program: Program) -> None:
    proto = ir.to_proto(program.graph)
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, True, True, True)
    expected = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    mine = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info}
    results = {name: shape for name, shape in mine.items() if name not in program.graph.graph.initializers}
    assert results == {name: expected[name] for name in results}
    assert set(expected) <= set(mine)


def test_every_weighted_node_knows_its_parameter(program: Program) -> None:
    assert program.module is not None
    parameters = dict(program.module.named_parameters())
    weighted = [node.name for node in program.weighted_nodes]
    assert list(program.parameter_of) == weighted
    matrices = [name for name, value in parameters.items() if value.dim() >= 2 and name not in {"token", "positions"}]
    assert sorted(program.parameter_of.values()) == sorted(matrices)
    for node in program.weighted_nodes:
        parameter = program.parameter_of[node.name or ""]
        assert node.name in {parameter.removesuffix(".weight"), parameter.removesuffix("_weight")}
        assert node.inputs[1] is not None
        weight = node.inputs[1].const_value
        assert weight is not None
        assert sorted(weight.numpy().shape) == sorted(parameters[parameter].shape)


def test_weights_are_multiples_per_channel_of_their_parameters(lowered: Lowered) -> None:
    program = lowered("resnet20")
    assert program.module is not None
    for node in program.weighted_nodes:
        assert node.inputs[1] is not None
        assert node.inputs[1].const_value is not None
        folded = node.inputs[1].const_value.numpy().reshape(node.inputs[1].const_value.numpy().shape[0], -1)
        own = program.module.get_parameter(program.parameter_of[node.name or ""]).detach().numpy().reshape(folded.shape)
        cosine = (folded * own).sum(1) / np.linalg.norm(folded, axis=1) / np.linalg.norm(own, axis=1)
        np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-5)


def test_names_come_from_modules(lowered: Lowered) -> None:
    names = [node.name for node in lowered("resnet20").graph.graph]
    assert names[:5] == ["conv1", "relu", "layer1.0.conv1", "layer1.0.relu", "layer1.0.conv2"]
    assert "layer1.0.relu_1" in names
    assert "encoder.layers.1.self_attn.in_proj" in [n.name for n in lowered("transformer").graph.graph]


def test_lowering_twice_gives_the_same_file() -> None:
    first, second = (lower_module(randomize(PlainNet()), (1, 1, 8, 8)).graph for _ in range(2))
    assert ir.to_proto(first).SerializeToString(deterministic=True) == ir.to_proto(second).SerializeToString(
        deterministic=True
    )


def test_a_normal_graph_is_not_changed(program: Program) -> None:
    before = ir.to_proto(program.graph).SerializeToString(deterministic=True)
    again = ir.from_proto(ir.to_proto(program.graph))
    assert normalize(again) == {}
    assert ir.to_proto(again).SerializeToString(deterministic=True) == before


def test_equal_weights_of_different_layers_stay_apart() -> None:
    program = lower_module(SmallTransformer(), (1, 3, 16, 16))  # torch clones the first layer
    assert len(set(program.parameter_of.values())) == len(program.parameter_of) == 10
    weights = [node.inputs[1] for node in program.weighted_nodes]
    assert len({value.name for value in weights if value is not None}) == 10


def test_the_module_is_left_alone() -> None:
    module = randomize(PlainNet()).double()
    module.train()
    module.conv1.eval()  # type: ignore[union-attr] # a submodule
    before = copy.deepcopy(module.state_dict())
    levels = [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")]
    program = lower_module(module, (1, 1, 8, 8))
    assert module.training
    assert not module.conv1.training  # type: ignore[union-attr] # a submodule
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert program.module is not None
    assert not any(part.training for part in program.module.modules())
    assert {value.dtype for value in program.module.parameters()} == {torch.float32}
    assert [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")] == levels


def test_lowering_is_silent(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    lower_module(randomize(PlainNet()), (1, 1, 8, 8))
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
    assert [str(w.message) for w in recwarn.list if "torch.jit" not in str(w.message)] == []


def _shuffle(_: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _attention(net: Net, x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    attended: Tensor = net.parts[6](tokens, tokens, tokens)[0]
    return attended


REARRANGING: tuple[Function, ...] = (
    lambda _, x: torch.cat([part * 2 for part in x.chunk(2, 1)][::-1], 1),
    lambda _, x: torch.cat(x.split_with_sizes([1, 3], 1)[::-1], 1),
    lambda _, x: sum(x.unbind(1), torch.zeros(())),
    _shuffle,
    lambda _, x: x[:, [0, 2]] + x[:, :2].roll(1, 1) + x.flip(1)[:, 1:3] + x[:, 1:2],
    lambda _, x: F.pad(x, (1, 2, 1, 0), "reflect") + F.pad(x, (1, 2, 1, 0), "replicate"),
    lambda _, x: F.pad(x, (1, 2, 1, 0), "circular") + F.pad(x, (1, 2, 1, 0), value=0.5),
)
CALCULATING: tuple[Function, ...] = (
    lambda _, x: x * F.hardsigmoid(F.adaptive_avg_pool2d(x, 1)) + F.silu(x) + F.hardswish(x) + F.mish(x),
    lambda _, x: F.relu6(x) + x.clamp(-1, 1) + F.elu(x) + F.softplus(x) + F.gelu(x, approximate="tanh"),
    lambda _, x: torch.einsum("nchw,nkhw->nck", x, x),
    lambda _, x: (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt(),
    lambda _, x: F.normalize(x, dim=1) - F.leaky_relu(x, 0.2) ** 2,
    lambda _, x: torch.where(x > 0, x, x * 0.5).amax((2, 3)).log_softmax(1),
    lambda _, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True) + F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    lambda _, x: F.adaptive_avg_pool2d(x, 2).flatten(1) + F.adaptive_max_pool2d(x, 1).flatten(1).repeat(1, 4),
)
LAYERS: tuple[Function, ...] = (
    lambda net, x: net.parts[0](x) + net.parts[1](x),
    lambda net, x: net.parts[3](net.parts[2](x.flatten(2))),
    lambda net, x: net.parts[5](net.parts[4](x.flatten(1))),
    _attention,
)


def _together(functions: tuple[Function, ...], *parts: nn.Module) -> Net:
    return Net(lambda net, x: torch.cat([function(net, x).flatten(1) for function in functions], 1), *parts)


def _layers() -> Net:
    parts: tuple[nn.Module, ...] = (nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True))
    parts += (nn.Conv1d(4, 8, 3, padding="same"), nn.BatchNorm1d(8), nn.Linear(256, 8), nn.BatchNorm1d(8))
    return _together(LAYERS, *parts, nn.MultiheadAttention(64, 4, batch_first=True))


@pytest.mark.parametrize(
    "net", [_together(REARRANGING), _together(CALCULATING), _layers()], ids=["move", "calculate", "layers"]
)
def test_common_operations_are_lowered(net: Net) -> None:
    """Lowering itself compares the graph with the module, on single samples and a batch."""
    program = lower_module(randomize(net), (1, 4, 8, 8))
    assert not {"SequenceAt", "SplitToSequence", "CastLike", "Shape", "Constant"} & set(_kinds(program))
    onnx.checker.check_model(ir.to_proto(program.graph), full_check=True)


def test_relu6_is_one_clip(lowered: Lowered) -> None:
    kinds = _kinds(lowered("mobilenet"))
    assert kinds.count("Clip") == 9
    assert not {"Min", "Max"} & set(kinds)


def test_batch_norm_without_a_layer_before_it_stays() -> None:
    net = Net(lambda net, x: net.parts[1](F.relu(net.parts[0](x))), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    program = lower_module(randomize(net), (1, 4, 8, 8))
    assert _kinds(program) == ["BatchNormalization", "Relu", "Conv"]


def test_computed_weights_have_no_parameter() -> None:
    net = Net(lambda net, x: net.parts[0](x), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    program = lower_module(randomize(net), (1, 4, 8, 8))
    assert [node.name for node in program.weighted_nodes] == ["parts.0"]
    assert program.parameter_of == {}


def test_one_parameter_used_twice_names_both_nodes() -> None:
    net = Net(lambda net, x: net.parts[0](F.relu(net.parts[0](x))), nn.Conv2d(4, 4, 3, padding=1))
    program = lower_module(randomize(net), (1, 4, 8, 8))
    assert program.parameter_of == {"parts.0": "parts.0.weight", "parts.0_1": "parts.0.weight"}


def test_nodes_without_names_are_counted() -> None:
    graph = ir.Graph(
        [],
        [],
        nodes=[
            ir.node(op, [], name=name)
            for op, name in (("Relu", None), ("Conv", "mine"), ("Relu", ""), ("Conv", "mine"), ("Conv", None))
        ],
    )
    name_nodes(graph)
    assert [node.name for node in graph] == ["relu_0", "mine", "relu_1", "conv_1", "conv_2"]


def _random(_: Net, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, training=True).flatten(1)


def _mixing(_: Net, x: Tensor) -> Tensor:
    return x.flatten(1) - x.mean(0).flatten()


def _branching(_: Net, x: Tensor) -> Tensor:
    return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


REFUSED: list[tuple[Function, str]] = [
    (lambda _, x: x.view(1, -1), "must not interact and its reshapes must keep the batch"),
    (_mixing, "gives other results than two single samples"),
    (_branching, r"cannot be traced \(.*control flow"),
    (lambda _, x: x.sum(), r"gives \[\] for an input of \[1, 4, 8, 8\]; it must give \[1, ..., classes\]"),
    (lambda _, x: x.argmax(1), "returns Tensor; a network must return one tensor of logits"),
    (lambda _, x: (x, x), "returns tuple; a network must return one tensor"),  # type: ignore[list-item,return-value] # wrong on purpose
    (
        lambda net, x: F.linear(x, torch.ones(3, 5)),
        r"fails on an input of \[1, 4, 8, 8\] \(.*set input_shape to what it takes",
    ),
]


@pytest.mark.parametrize(("function", "message"), REFUSED)
def test_bad_networks_are_refused(function: Function, message: str) -> None:
    with pytest.raises(InputError, match=rf"^Net: .*{message}"):
        lower_module(Net(function), (1, 4, 8, 8))


def test_randomness_is_refused() -> None:
    with pytest.raises(InputError, match=r"Net: .* drops at random; export the network in inference mode"):
        lower_module(Net(_random), (1, 4, 8, 8))


def test_all_unsupported_operators_are_named() -> None:
    net = Net(lambda net, x: net.parts[0](F.interpolate(x, scale_factor=2)), nn.ConvTranspose2d(4, 4, 2))
    with pytest.raises(
        UnsupportedOperatorError, match=r"Net: unsupported operators: ConvTranspose \(.+\), Resize \(.+\); replace"
    ):
        lower_module(net, (1, 4, 8, 8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(value: float) -> None:
    net = PlainNet()
    with torch.no_grad():
        net.conv2.weight[0, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"PlainNet: NaN or infinity in 'conv2\.weight'"):
        lower_module(net, (1, 1, 8, 8))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1,), (1, 0, 8, 8), (1, -1, 8, 8)])
def test_shapes_of_no_sample_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="input_shape: got"):
        lower_module(PlainNet(), shape)


def test_opsets_that_the_exporter_does_not_write_are_refused() -> None:
    with pytest.raises(InputError, match="opset: got 17, allowed are 18 to 23"):
        lower_module(PlainNet(), (1, 1, 8, 8), 17)


def test_programs_run_on_batches_with_shapes_of_one_sample(lowered: Lowered) -> None:
    program = lowered("transformer")
    assert any(node.op_type == "Reshape" for node in program.graph.graph)
    assert TorchGraph(program.graph).run(torch.zeros(6, 3, 16, 16)).shape == (6, 10)
    assert sum(is_weighted(node) for node in program.graph.graph) == 10
