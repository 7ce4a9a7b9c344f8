import copy
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.errors import InputError
from codesign.ir.lowering import lower_module, relative_difference
from codesign.ir.onnx_to_torch import Layout, TorchGraph
from codesign.ir.program import Program, name_of

Lowered = Callable[[str], Program]
BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d)


def _images(program: Program, count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, *program.input_shape[1:]), generator=generator, dtype=torch.float64).to(dtype)


def _loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])


def _double(program: Program) -> nn.Module:
    assert program.module is not None
    return copy.deepcopy(program.module).double()


def _normalized_after(module: nn.Module, x: Tensor) -> dict[str, nn.BatchNorm2d]:
    """Layer name to the BatchNorm that reads its output."""
    producer: dict[int, str] = {}
    found: dict[str, nn.BatchNorm2d] = {}
    kept: list[Tensor] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept.append(output)  # so that no id is used twice
            if isinstance(part, BatchNorm):
                found[producer[id(inputs[0])]] = part  # type: ignore[assignment] # both kinds have the same fields
            producer[id(output)] = name

        return note

    leaves = [(name, part) for name, part in module.named_modules() if not list(part.children())]
    handles = [part.register_forward_hook(hook(name)) for name, part in leaves]
    module(x)
    for handle in handles:
        handle.remove()
    return found


def _exact_constants(program: Program, module: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and biases folded in float64, where the graph holds them rounded to float32; and the folded factors."""
    graph = TorchGraph(program.graph, torch.float64)
    norms = _normalized_after(module, x)
    constants, factors = {}, {}
    for node in program.weighted_nodes:
        parameter = program.parameter_of[name_of(node)]
        norm = norms.get(parameter.removesuffix(".weight"))
        if norm is None:
            continue
        assert norm.running_var is not None
        assert norm.running_mean is not None
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = module.get_parameter(parameter)
        factors[name_of(node)] = factor.detach()
        constants[graph.weight_name_of[name_of(node)]] = (weight * factor.reshape(-1, 1, 1, 1)).detach()
        assert node.inputs[2] is not None
        constants[node.inputs[2].name or ""] = (norm.bias - factor * norm.running_mean).detach()
    return constants, factors


def test_runs_a_batch_like_the_module(program: Program) -> None:
    assert program.module is not None
    x = _images(program, 4)
    with torch.no_grad():
        assert relative_difference(TorchGraph(program.graph).run(x), program.module(x)) < 1e-5


def test_gradients_equal_the_modules(program: Program) -> None:
    graph, module = TorchGraph(program.graph, torch.float64), _double(program)
    x = _images(program, dtype=torch.float64).requires_grad_()
    exact, factors = _exact_constants(program, module, x)
    weights = {n: exact.get(c, graph.constants[c]).clone().requires_grad_() for n, c in graph.weight_name_of.items()}
    constants = {**exact, **{graph.weight_name_of[n]: w for n, w in weights.items()}}
    mine = torch.autograd.grad(_loss(graph.run(x, constants)), [x, *weights.values()])

    assert set(program.parameter_of) == {name_of(node) for node in program.weighted_nodes}
    parameters = [module.get_parameter(program.parameter_of[name]) for name in weights]
    theirs = torch.autograd.grad(_loss(module(x)), [x, *parameters])
    assert relative_difference(mine[0], theirs[0]) < 1e-9
    for (name, weight), parameter, got, expected in zip(weights.items(), parameters, mine[1:], theirs[1:], strict=True):
        if name in factors:
            aligned = got * factors[name].reshape(-1, 1, 1, 1)
        else:  # MatMul keeps its weight as [in, out], torch as [out, in]
            aligned = got if torch.equal(weight, parameter) else got.t()
            assert torch.equal(weight, parameter) or torch.equal(weight.t(), parameter)
        assert relative_difference(aligned, expected) < 1e-9, name


def test_forward_mode_and_second_derivatives(lowered: Lowered) -> None:
    program = lowered("transformer")
    graph, module = TorchGraph(program.graph, torch.float64), _double(program)
    x, direction = _images(program, dtype=torch.float64), _images(program, dtype=torch.float64).flip(0)

    def hessian_product(function: Callable[[Tensor], Tensor]) -> Tensor:
        def loss(images: Tensor) -> Tensor:
            return _loss(function(images))

        product: Tensor = torch.func.jvp(torch.func.grad(loss), (x,), (direction,))[1].detach()
        return product

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = hessian_product(lambda v: torch.func.functional_call(module, {}, (v,)))
    assert relative_difference(hessian_product(graph.run), expected) < 1e-9


def test_samples_do_not_interact(lowered: Lowered) -> None:
    program = lowered("transformer")
    graph, x = TorchGraph(program.graph, torch.float64), _images(program, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(graph.run(x)[1].sum(), x)
    assert gradient[1].abs().sum() > 0
    assert gradient[0].abs().sum() == gradient[2].abs().sum() == 0


def test_values_keep_samples_in_front(lowered: Lowered) -> None:
    program = lowered("transformer")
    layouts = set()
    for node, values in TorchGraph(program.graph).evaluate(_images(program, 5)):
        for value, output in zip(values, node.outputs, strict=False):
            assert value.data.shape[0] == 5
            assert list(value.sample_shape) == list(output.shape or ())
            layouts.add(value.layout)
    assert layouts == {Layout.MERGED, Layout.STACKED}


def test_resuming_before_any_layer_gives_the_same_output(program: Program) -> None:
    graph, x = TorchGraph(program.graph), _images(program)
    with torch.no_grad():
        expected = graph.run(x)
        names = []
        for snapshot in graph.prefixes(x):
            names.append(snapshot.node)
            assert torch.equal(graph.resume(snapshot), expected)
    assert names == [name_of(node) for node in program.weighted_nodes]
    assert torch.equal(graph.resume(graph.snapshot(x, names[-1])), expected)


def test_a_late_layer_runs_only_the_nodes_after_it(lowered: Lowered) -> None:
    program = lowered("resnet20")
    graph, x = TorchGraph(program.graph), _images(program, 1)
    seen: list[str] = []
    snapshot = graph.snapshot(x, "linear")
    graph.resume(snapshot, on_node=lambda node, _, __: seen.append(name_of(node)))
    assert seen == ["linear"]
    assert len(snapshot.values) == 1  # all other values have been freed


def test_an_override_before_the_suffix_equals_a_whole_run(lowered: Lowered) -> None:
    program = lowered("squeezenext")
    graph, x = TorchGraph(program.graph), _images(program)
    node = name_of(program.weighted_nodes[5])
    weight = graph.weight_name_of[node]
    changed = {weight: graph.constants[weight].round(decimals=1)}
    with torch.no_grad():
        whole = graph.run(x, changed)
        assert torch.equal(graph.resume(graph.snapshot(x, node), changed), whole)
        assert not torch.equal(whole, graph.run(x))


def test_on_node_observes_and_replaces(lowered: Lowered) -> None:
    program = lowered("plain")
    graph, x = TorchGraph(program.graph), _images(program)
    seen: dict[str, tuple[int, ...]] = {}

    def observe(node: ir.Node, operands: tuple[Tensor | None, ...], results: tuple[Tensor, ...]) -> None:
        first = operands[0]
        assert first is not None
        assert first.shape[0] == len(x)
        seen[name_of(node)] = tuple(results[0].shape)

    graph.run(x, on_node=observe)
    assert seen["conv1"] == (3, 4, 8, 8)
    assert seen["head"] == (3, 10)
    zeroed = graph.run(x, on_node=lambda node, _, results: (results[0] * 0,) if node.name == "hidden" else None)
    assert torch.allclose(zeroed, graph.constants["head.bias"].expand(3, -1))


def test_constants_are_leaves_that_require_no_gradient(lowered: Lowered) -> None:
    graph = TorchGraph(lowered("plain").graph, torch.float64)
    floats = [tensor for tensor in graph.constants.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float64}
    assert all(tensor.is_leaf and not tensor.requires_grad for tensor in floats)
    assert graph.weight_name_of["conv1"] == "conv1.weight"


def test_unknown_names_are_refused(lowered: Lowered) -> None:
    graph = TorchGraph(lowered("plain").graph)
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(InputError, match=r"no node 'conv'; did you mean 'conv\d'"):
        graph.snapshot(x, "conv")
    with pytest.raises(InputError, match=r"no constant 'conv1\.wait'; did you mean 'conv1\.weight'"):
        graph.run(x, {"conv1.wait": x})


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 3, 8, 8), (2, 8, 8), (0, 1, 8, 8)])
def test_inputs_of_other_sizes_are_refused(lowered: Lowered, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes inputs of \[N, 1, 8, 8\], got \[.*bring the data to that shape"):
        TorchGraph(lowered("plain").graph).run(torch.zeros(shape))


def test_old_graphs_are_refused(lowered: Lowered) -> None:
    model = ir.from_proto(ir.to_proto(lowered("plain").graph))
    model.opset_imports[""] = 12
    with pytest.raises(InputError, match="opset is 12, at least 13"):
        TorchGraph(model)


def _session(model: ir.Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _by_onnxruntime(model: ir.Model, x: Tensor) -> Tensor:
    session = _session(model)
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.concatenate([session.run(None, {name: sample[None]})[0] for sample in x.numpy()]))


def test_lowered_graphs_equal_onnxruntime(program: Program) -> None:
    x = _images(program)
    got = TorchGraph(program.graph).run(x).detach()
    assert relative_difference(got, _by_onnxruntime(program.graph, x)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("opset", [18, 20, 21, 23])
def test_graphs_as_exported_equal_onnxruntime(program: Program, opset: int, optimize: bool) -> None:
    """The interpreter on graphs that are not normalised: constants computed by nodes, or fused by the exporter."""
    assert program.module is not None
    x = _images(program)
    exported = torch.onnx.export(
        program.module, (x[:1],), dynamo=True, opset_version=opset, optimize=optimize, verbose=False
    )
    assert exported is not None
    got = TorchGraph(exported.model).run(x).detach()
    assert relative_difference(got, _by_onnxruntime(exported.model, x)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_graphs_lowered_from_other_opsets_equal_onnxruntime(program: Program, opset: int) -> None:
    assert program.module is not None
    other = lower_module(program.module, program.input_shape, opset)
    x = _images(program)
    got = TorchGraph(other.graph).run(x).detach()
    assert relative_difference(got, _by_onnxruntime(other.graph, x)) < 1e-4
    assert dict(other.parameter_of) == dict(program.parameter_of)


def test_quantized_graphs_equal_onnxruntime() -> None:
    weights: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "w": np.random.default_rng(0).integers(-127, 128, (4, 1, 3, 3)).astype(np.int8),
        "ws": np.array([0.01, 0.02, 0.005, 0.03], np.float32),
        "b": np.array([5, -9, 100, 0], np.int32),
        "bs": np.array([0.01, 0.02, 0.005, 0.03], np.float32) * np.float32(0.02),
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
        "o": np.array(0.05, np.float32),
        "p": np.array(0, np.uint8),
    }
    values = {name: ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in weights.items()}
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1, 1, 6, 6)))
    v = values
    q = ir.node("QuantizeLinear", [x, v["s"], v["z"]], name="q")
    dq = ir.node("DequantizeLinear", [q.outputs[0], v["s"], v["z"]], name="dq")
    dw = ir.node("DequantizeLinear", [v["w"], v["ws"]], {"axis": 0}, name="dw")
    db = ir.node("DequantizeLinear", [v["b"], v["bs"]], {"axis": 0}, name="db")
    conv = ir.node("Conv", [dq.outputs[0], dw.outputs[0], db.outputs[0]], {"pads": [1, 1, 1, 1]}, name="conv")
    relu = ir.node("Relu", [conv.outputs[0]], name="relu")
    oq = ir.node("QuantizeLinear", [relu.outputs[0], v["o"], v["p"]], name="oq")
    od = ir.node("DequantizeLinear", [oq.outputs[0], v["o"], v["p"]], name="od")
    nodes = [q, dq, dw, db, conv, relu, oq, od]
    for node in nodes:
        node.outputs[0].name = f"{node.name}_out"
    od.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], od.outputs, nodes=nodes, initializers=list(v.values()), opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    difference = (TorchGraph(model).run(images) - _by_onnxruntime(model, images)).abs()
    assert float(difference.max()) <= 0.05 + 1e-6  # one step of the output at most, where float rounding tips it
    assert float((difference > 1e-6).float().mean()) < 0.01
