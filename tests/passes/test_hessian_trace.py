import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.architecture.resnet_cifar import resnet20
from codesign.errors import InputError
from codesign.ir.annotation import find, read
from codesign.ir.annotations import HessianTrace
from codesign.ir.lowering import lower_module
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.passes.hessian_trace import HessianTracePass, trace_blocks
from codesign.testing.networks import SmallMobileNet, SmallTransformer, randomize
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder

SHARED = Path(__file__).parents[2] / ".." / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared (CIFAR-10 weights, data and reference) is absent"
)
WeightsOf = Literal["folded", "module"]
EXACT = HessianTracePass(dtype="float64", drop=0)


class TinyNet(nn.Module):
    """Grouped, strided and asymmetric layers, BatchNorm; behind a curved head `last` alone is exact."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, (2, 3), stride=(1, 2), padding=(1, 0), groups=2)
        self.hidden = nn.Linear(32, 3)
        self.head = head
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(F.relu(self.second(x)), (2, 1), (1, 1))
        logits: Tensor = self.last(self.head(self.hidden(x.flatten(1))))
        return logits


class SharedConvolution(nn.Module):
    """One convolution before two BatchNorms: folding makes two weights of it."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(2))
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = F.relu(norm(self.twice(x)))
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


class TiedLayers(nn.Module):
    """Two layers that hold the same parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.other(F.relu(self.one(x)))))
        return logits


class HiddenUse(nn.Module):
    """A parameter that is a layer's weight, and scales the logits as well; the graph holds the scale as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.seen(x))) * self.seen.weight.square().sum()
        return logits


class PerPosition(nn.Module):
    """A 1-D convolution and logits at every position, `[N, T, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(3, 4, 3, padding=1, dilation=1)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.mix(x)).transpose(1, 2))
        return logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: TinyNet(nn.ReLU()), (2, 4, 5)),
    "tanh": (lambda: TinyNet(nn.Tanh()), (2, 4, 5)),
    "shared": (SharedConvolution, (2, 4, 4)),
    "tied": (TiedLayers, (4,)),
    "hidden_use": (HiddenUse, (4,)),
    "positions": (PerPosition, (3, 5)),
    "mobilenet": (SmallMobileNet, (3, 16, 16)),
    "transformer": (SmallTransformer, (3, 16, 16)),
}


@cache
def _lowered(name: str) -> Program:
    factory, shape = NETWORKS[name]
    return lower_module(randomize(factory()), (1, *shape))


def _program(name: str) -> Program:
    program = _lowered(name)
    return Program(program.graph.clone(), copy.deepcopy(program.module), program.parameter_of)


def _data(name: str, samples: int = 8, labelled: bool = True) -> CalibrationData:
    random = np.random.default_rng(0)
    images = random.normal(size=(samples, *NETWORKS[name][1])).astype(np.float32)
    labels = random.integers(0, 3, (samples, 5) if name == "positions" else samples)
    return CalibrationData(images, labels if labelled else None)


def _dense(forward: Callable[[Tensor], Tensor], weight: Tensor, labels: Tensor) -> Tensor:
    def loss(value: Tensor) -> Tensor:
        return F.cross_entropy(forward(value).flatten(0, -2), labels.flatten())

    hessian: Tensor = torch.autograd.functional.hessian(loss, weight)  # type: ignore[no-untyped-call] # torch has no types
    return hessian.reshape(weight.numel(), weight.numel())


def _dense_folded(program: Program, data: CalibrationData, node: str) -> Tensor:
    graph = TorchGraph(program.graph, torch.float64)
    name = graph.weight_name_of[node]
    images = torch.from_numpy(data.images).double()
    assert data.labels is not None
    return _dense(lambda w: graph.run(images, {name: w}), graph.constants[name], torch.from_numpy(data.labels))


def _dense_module(program: Program, data: CalibrationData, node: str) -> Tensor:
    assert program.module is not None and data.labels is not None
    module, name = copy.deepcopy(program.module).double(), program.parameter_of[node]
    images = torch.from_numpy(data.images).double()
    weight = module.get_parameter(name).detach()
    labels = torch.from_numpy(data.labels)
    return _dense(lambda w: torch.func.functional_call(module, {name: w}, (images,)), weight, labels)


@pytest.mark.parametrize("weights_of", ["folded", "module"])
@pytest.mark.parametrize("name", ["relu", "positions"])
def test_exact_blocks_equal_the_dense_hessian(name: str, weights_of: WeightsOf) -> None:
    program, data = _program(name), _data(name)
    dense = _dense_folded if weights_of == "folded" else _dense_module
    pass_ = HessianTracePass(dtype="float64", drop=0, weights_of=weights_of, eigenvalues=3)
    pass_.run(program, PassContext(CalibrationData(data.images)))
    for node in program.weighted_nodes:
        fact, hessian = read(node, HessianTrace), dense(program, data, name_of(node))
        assert fact.trace == pytest.approx(float(hessian.trace()), rel=1e-10)
        assert fact.top_eigenvalues == pytest.approx(torch.linalg.eigvalsh(hessian).flip(0)[:3].tolist(), rel=1e-9)
        assert (fact.exact, fact.standard_error, fact.method) == (True, 0.0, "packed-gauss-newton")
        assert (fact.weights_of, fact.samples, fact.parameters) == (weights_of, 8, len(hessian))
        assert (fact.matrix, fact.parameter) == ("hessian", f"{node.name}.weight")


def test_folded_and_module_weights_have_different_traces() -> None:
    facts = []
    for pass_ in (EXACT, replace(EXACT, weights_of="module")):
        program = _program("relu")
        pass_.run(program, PassContext(_data("relu")))
        facts.append({name_of(node): read(node, HessianTrace) for node in program.weighted_nodes})
    folded, module = facts
    assert folded["first"].trace != pytest.approx(module["first"].trace, rel=1e-4)  # BatchNorm follows
    assert folded["second"].trace == pytest.approx(module["second"].trace, rel=1e-5)


def _is_close_to(fact: HessianTrace, hessian: Tensor, probes: int) -> bool:
    variance = 2 * float(hessian.square().sum() - hessian.diagonal().square().sum()) / probes
    return abs(fact.trace - float(hessian.trace())) < 4 * math.sqrt(variance)


def test_curved_layers_are_estimated_and_say_so() -> None:
    program, data = _program("tanh"), _data("tanh")
    HessianTracePass(dtype="float64", drop=0, probes=40, relative_error=0).run(program, PassContext(data))
    for node in program.weighted_nodes:
        fact, hessian = read(node, HessianTrace), _dense_folded(program, data, name_of(node))
        if node.name == "last":
            assert fact.exact
            assert fact.trace == pytest.approx(float(hessian.trace()), rel=1e-10)
        else:
            assert (fact.exact, fact.method, fact.matrix) == (False, "hutchinson", "hessian")
            assert fact.standard_error > 0
            assert _is_close_to(fact, hessian, 40)


@pytest.mark.parametrize(("name", "shared"), [("shared", {"twice"}), ("tied", {"one", "other"})])
def test_shared_parameters_are_estimated(name: str, shared: set[str]) -> None:
    program, data = _program(name), _data(name)
    options = HessianTracePass(dtype="float64", drop=0, probes=12, relative_error=0, weights_of="module")
    options.run(program, PassContext(data))
    facts = {name_of(node): read(node, HessianTrace) for node in program.weighted_nodes}
    estimated = {node for node, fact in facts.items() if not fact.exact}
    assert {program.parameter_of[node].removesuffix(".weight") for node in estimated} <= shared
    assert len(estimated) == 2
    traces = {facts[node].trace for node in estimated}
    assert len(traces) == 1  # both nodes carry the block of the one parameter
    for node in estimated:
        assert _is_close_to(facts[node], _dense_module(program, data, node), 12)


def test_weights_that_folding_made_apart_are_exact_each() -> None:
    program, data = _program("shared"), _data("shared")
    EXACT.run(program, PassContext(data))
    for node in program.weighted_nodes:
        fact = read(node, HessianTrace)
        assert fact.exact
        assert fact.trace == pytest.approx(float(_dense_folded(program, data, name_of(node)).trace()), rel=1e-10)


def test_a_use_of_a_parameter_that_only_the_module_shows_is_noticed() -> None:
    program, data = _program("hidden_use"), _data("hidden_use")
    wanted = float(_dense_module(program, data, "seen").trace())
    facts = trace_blocks(program, PassContext(data), replace(EXACT, weights_of="module")).facts
    assert (facts["seen"].method, facts["last"].method) == ("unit-vectors", "packed-gauss-newton")
    assert facts["seen"].trace == pytest.approx(wanted, rel=1e-9)
    options = replace(EXACT, weights_of="module", method="gauss-newton")
    labelled = trace_blocks(program, PassContext(data), options).facts["seen"]
    assert (labelled.matrix, labelled.exact) == ("gauss-newton", False)
    assert labelled.trace != pytest.approx(wanted, rel=1e-3)
    folded = trace_blocks(program, PassContext(data), EXACT).facts["seen"]  # there the scale is a constant
    assert folded.exact
    assert folded.trace == pytest.approx(float(_dense_folded(program, data, "seen").trace()), rel=1e-10)


def test_a_mobile_network_is_exact_everywhere() -> None:
    program, data = _program("mobilenet"), _data("mobilenet", samples=3)
    EXACT.run(program, PassContext(data))
    facts = {name_of(node): read(node, HessianTrace) for node in program.weighted_nodes}
    assert len(facts) == 14
    assert all(fact.exact for fact in facts.values())
    for node in ("stem.0", "blocks.1.layers.3"):
        assert facts[node].trace == pytest.approx(float(_dense_folded(program, data, node).trace()), rel=1e-10)


def test_a_transformer_is_exact_behind_its_last_curve_only() -> None:
    program, data = _program("transformer"), _data("transformer", samples=2)
    HessianTracePass(dtype="float64", drop=0, probes=6).run(program, PassContext(data))
    facts = {name_of(node): read(node, HessianTrace) for node in program.weighted_nodes}
    assert {node for node, fact in facts.items() if fact.exact} == {"head"}
    assert facts["head"].trace == pytest.approx(float(_dense_folded(program, data, "head").trace()), rel=1e-10)
    assert all(fact.standard_error > 0 for node, fact in facts.items() if node != "head")


def test_a_sampled_tail_is_not_called_exact() -> None:
    program, data = _program("relu"), _data("relu", samples=200)
    EXACT.run(program, PassContext(data))
    exact = {name_of(node): read(node, HessianTrace).trace for node in program.weighted_nodes}
    HessianTracePass(dtype="float64", drop=0.4).run(program, PassContext(data))
    for node in program.weighted_nodes:
        fact = read(node, HessianTrace)
        assert not fact.exact
        assert fact.standard_error > 0
        assert abs(fact.trace - exact[name_of(node)]) < 4 * fact.standard_error


def test_float32_is_close_to_float64() -> None:
    program, data = _program("mobilenet"), _data("mobilenet", samples=3)
    EXACT.run(program, PassContext(data))
    exact = {name_of(node): read(node, HessianTrace).trace for node in program.weighted_nodes}
    HessianTracePass(drop=0).run(program, PassContext(data))
    for node in program.weighted_nodes:
        assert read(node, HessianTrace).trace == pytest.approx(exact[name_of(node)], rel=1e-4)


def test_only_the_first_samples_are_used() -> None:
    program, data = _program("relu"), _data("relu", samples=8)
    HessianTracePass(drop=0, samples=3).run(program, PassContext(data))
    some = read(program.weighted_nodes[0], HessianTrace)
    assert some.samples == 3
    EXACT.run(program, PassContext(CalibrationData(data.images[:3])))
    assert some.trace == pytest.approx(read(program.weighted_nodes[0], HessianTrace).trace, rel=1e-4)


def test_small_curved_blocks_are_multiplied_with_all_unit_vectors() -> None:
    program, data = _program("tanh"), _data("tanh")
    HessianTracePass(dtype="float64", drop=0, eigenvalues=2).run(program, PassContext(data))
    for node in program.weighted_nodes[:3]:
        fact, hessian = read(node, HessianTrace), _dense_folded(program, data, name_of(node))
        assert (fact.exact, fact.standard_error, fact.method, fact.matrix) == (True, 0.0, "unit-vectors", "hessian")
        assert fact.trace == pytest.approx(float(hessian.trace()), rel=1e-10)
        values = torch.linalg.eigvalsh(hessian)
        wanted = values[values.abs().argsort(descending=True)][:2].tolist()
        assert fact.top_eigenvalues == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_an_estimator_takes_the_hessian_of_every_layer(method: Literal["hutchinson", "hutch++", "xtrace"]) -> None:
    program, data = _program("tanh"), _data("tanh")
    options = HessianTracePass(dtype="float64", probes=40, method=method)
    for node, fact in trace_blocks(program, PassContext(data, seed=5), options).facts.items():
        wanted = float(_dense_folded(program, data, node).trace())
        small = node == "last"  # 9 elements, fewer than probes
        assert (fact.method, fact.matrix, fact.exact) == ("unit-vectors" if small else method, "hessian", small)
        assert abs(fact.trace - wanted) <= 4 * fact.standard_error + 1e-10 * abs(wanted)


def test_gauss_newton_is_labelled_where_it_is_not_the_hessian() -> None:
    program = _program("tanh")
    unlabelled = PassContext(_data("tanh", labelled=False))
    facts = trace_blocks(program, unlabelled, replace(EXACT, method="gauss-newton")).facts
    assert {fact.method for fact in facts.values()} == {"packed-gauss-newton"}
    assert {node: fact.matrix for node, fact in facts.items()} == {
        **dict.fromkeys(("first", "second", "hidden"), "gauss-newton"),
        "last": "hessian",
    }
    assert {node for node, fact in facts.items() if fact.exact} == {"last"}


def test_gauss_newton_of_a_shared_weight_needs_no_labels() -> None:
    program, data = _program("tied"), _data("tied")
    options = replace(EXACT, method="gauss-newton", weights_of="module")
    found = trace_blocks(program, PassContext(_data("tied", labelled=False)), options).facts
    labelled = trace_blocks(program, PassContext(data), options).facts
    assert [fact.method for fact in found.values()] == ["unit-vectors", "unit-vectors", "packed-gauss-newton"]
    assert [fact.matrix for fact in found.values()] == ["gauss-newton", "gauss-newton", "hessian"]
    assert [fact.exact for fact in found.values()] == [False, False, True]
    for node, fact in found.items():
        assert fact.trace == pytest.approx(labelled[node].trace, rel=1e-12)


def test_the_result_tells_its_cost_and_leaves_the_graph_alone() -> None:
    program = _program("relu")
    result = trace_blocks(program, PassContext(_data("relu")), EXACT)
    assert set(result.facts) == {"first", "second", "hidden", "last"}
    assert 2 <= result.passes_over_data <= 6  # two forwards, and a backward for each of two eigenvectors
    assert all(find(node, HessianTrace) is None for node in program.weighted_nodes)
    curved = trace_blocks(_program("tanh"), PassContext(_data("tanh")), EXACT)
    assert curved.passes_over_data > 2 * 96  # a product with each unit vector


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_the_memory_limit_changes_nothing_but_memory(name: str) -> None:
    options = HessianTracePass(dtype="float64", drop=0.2, probes=20, eigenvalues=1)
    data = _data(name, samples=20)
    wide = trace_blocks(_program(name), PassContext(data), options).facts
    narrow = trace_blocks(_program(name), PassContext(data, memory_bytes=2**20), options).facts
    for node, fact in wide.items():
        assert narrow[node].trace == pytest.approx(fact.trace, rel=1e-9)
        assert narrow[node].top_eigenvalues == pytest.approx(fact.top_eigenvalues, rel=1e-6)


def test_a_time_limit_still_gives_an_error_bar() -> None:
    options = HessianTracePass(probes=10_000, relative_error=0, seconds=0.01)
    for fact in trace_blocks(_program("tanh"), PassContext(_data("tanh")), options).facts.values():
        assert fact.standard_error > 0 or fact.exact


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_conforms(name: str) -> None:
    context = PassContext(_data(name), seed=3)
    check_pass(lambda: HessianTracePass(samples=6, drop=0.2, probes=20), lambda: _program(name), context)


def test_the_module_is_left_alone() -> None:
    program = _program("relu")
    assert program.module is not None
    before = {name: value.clone() for name, value in program.module.state_dict().items()}
    HessianTracePass(weights_of="module", dtype="float64").run(program, PassContext(_data("relu")))
    after = program.module.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


def test_no_data_is_refused() -> None:
    with pytest.raises(InputError, match="needs calibration data"):
        EXACT.run(_program("relu"), PassContext())


def test_curved_layers_without_labels_are_refused_by_name() -> None:
    program = _program("tanh")
    with pytest.raises(InputError, match=r"'first'.*Tanh.*labels.*give labelled data"):
        EXACT.run(program, PassContext(_data("tanh", labelled=False)))
    assert all(find(node, HessianTrace) is None for node in program.weighted_nodes)


def test_labels_outside_the_classes_are_refused() -> None:
    data = _data("tanh")
    with pytest.raises(InputError, match="allowed are 0 to 2"):
        EXACT.run(_program("tanh"), PassContext(CalibrationData(data.images, np.full(8, 3))))


def test_nan_in_the_data_is_refused() -> None:
    data = _data("relu")
    data.images[5, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="image 5 holds NaN"):
        EXACT.run(_program("relu"), PassContext(data))


def test_a_network_without_weights_has_no_facts() -> None:
    build = GraphBuilder((1, 3))
    program = build.finish(build.add("Relu", "relu", [build.input]))
    result = trace_blocks(program, PassContext(CalibrationData(np.zeros((2, 3), np.float32))), EXACT)
    assert (dict(result.facts), result.passes_over_data) == ({}, 0.0)


def test_one_class_is_refused_or_a_labelled_zero() -> None:
    program = lower_module(randomize(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))), (1, 4))
    context = PassContext(CalibrationData(np.ones((3, 4), np.float32), np.zeros(3, np.int64)))
    with pytest.raises(InputError, match="one output class"):
        trace_blocks(program, context, EXACT)
    facts = trace_blocks(program, context, replace(EXACT, method="hutchinson", eigenvalues=1)).facts
    assert [(f.trace, f.standard_error, f.top_eigenvalues) for f in facts.values()] == [(0.0, 0.0, (0.0,))] * 2


def test_a_batch_of_one_is_enough() -> None:
    for name in ("relu", "tanh"):
        program, data = _program(name), _data(name, samples=1)
        for node, fact in trace_blocks(program, PassContext(data), EXACT).facts.items():
            assert fact.trace == pytest.approx(float(_dense_folded(program, data, node).trace()), rel=1e-9)


@pytest.mark.parametrize("method", ["auto", "hutchinson", "gauss-newton"])
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_layers_before_a_zero_or_dead_layer_are_labelled_zeros(
    name: str, method: Literal["auto", "hutchinson", "gauss-newton"]
) -> None:
    program, data = _program(name), _data(name)
    assert program.module is not None
    with torch.no_grad():
        program.module.get_parameter("second.weight").zero_()
        program.module.get_parameter("second.bias").fill_(-1)  # dead behind its ReLU
    options = HessianTracePass(weights_of="module", method=method, probes=20, eigenvalues=1)
    facts = trace_blocks(program, PassContext(data), options).facts
    for node in ("first", "second", "hidden"):  # hidden sees zeros
        fact = facts[node]
        assert (fact.trace, fact.standard_error) == (0.0, 0.0)
        assert all(value == 0 for value in fact.top_eigenvalues)
    assert facts["last"].trace > 0
    assert all(math.isfinite(fact.trace) for fact in facts.values())


def test_fewer_labels_than_images_are_refused() -> None:
    data = _data("tanh")
    assert data.labels is not None
    with pytest.raises(InputError, match="targets"):
        EXACT.run(_program("tanh"), PassContext(CalibrationData(data.images, data.labels[:5])))


def test_nan_in_the_weights_is_refused() -> None:
    program = _program("relu")
    assert program.module is not None
    with torch.no_grad():
        program.module.get_parameter("second.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN or infinity; check the weights"):
        HessianTracePass(weights_of="module").run(program, PassContext(_data("relu")))


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[2, 4, 4\].*\[2, 4, 5\]"):
        EXACT.run(_program("relu"), PassContext(CalibrationData(np.zeros((3, 2, 4, 4), np.float32))))


def test_module_weights_need_a_module() -> None:
    program = Program(_program("relu").graph)
    with pytest.raises(InputError, match="weights-of=module needs the torch module"):
        HessianTracePass(weights_of="module").run(program, PassContext(_data("relu")))


def test_module_weights_need_a_parameter_each() -> None:
    program = _program("relu")
    partial = {node: parameter for node, parameter in program.parameter_of.items() if node != "second"}
    with pytest.raises(InputError, match="weights of second are no parameters"):
        HessianTracePass(weights_of="module").run(
            Program(program.graph, program.module, partial), PassContext(_data("relu"))
        )


def test_a_module_in_train_mode_is_refused() -> None:
    program = _program("relu")
    assert program.module is not None
    program.module.train()
    with pytest.raises(InputError, match="train mode"):
        HessianTracePass(weights_of="module").run(program, PassContext(_data("relu")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: HessianTracePass(samples=0),
        lambda: HessianTracePass(drop=1.0),
        lambda: HessianTracePass(probes=1),
        lambda: HessianTracePass(relative_error=-1.0),
        lambda: HessianTracePass(eigenvalues=-1),
        lambda: HessianTracePass(seconds=0.0),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], HessianTracePass]) -> None:
    with pytest.raises(InputError, match="allowed"):
        make()


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "drop", "tolerance"), [("float64", 1e-9, 1e-8), ("float32", 0.001, 1e-3)])
def test_resnet20_matches_the_reference(dtype: Literal["float32", "float64"], drop: float, tolerance: float) -> None:
    module = resnet20()
    state = torch.load(SHARED / "models/cifar10/resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    module.load_state_dict({name.removeprefix("module."): value for name, value in state["state_dict"].items()})
    pixels = np.load(SHARED / "data/cifar10/lossless_test.npz")["images"][:200].astype(np.float32) / 255
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    images = (pixels - mean) / std
    program = lower_module(module, (1, 3, 32, 32))
    data = CalibrationData(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    reference = json.loads((SHARED / "reference/curvature_resnet20.json").read_text())["layers"]
    HessianTracePass(weights_of="module", dtype=dtype, drop=drop).run(program, PassContext(data))
    assert len(program.weighted_nodes) == len(reference) == 20
    for node in program.weighted_nodes:
        wanted = reference[program.parameter_of[name_of(node)].removesuffix(".weight")]
        fact = read(node, HessianTrace)
        assert fact.trace == pytest.approx(wanted["trace"], rel=tolerance)
        assert (fact.exact, fact.weights_of) == (False, "module")
