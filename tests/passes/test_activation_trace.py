import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.errors import InputError
from codesign.ir.annotation import find, read
from codesign.ir.annotations import ActivationTrace
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.passes.activation_trace import ActivationTracePass, trace_activations
from codesign.testing.networks import SmallTransformer, randomize
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder

EXACT = ActivationTracePass(dtype="float64", drop=0)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh}


class Branches(nn.Module):
    """Two layers that read the same tensor, one of them behind an activation function."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.first, self.second, self.skip = nn.Conv2d(2, 3, 2), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.last = nn.Linear(8, 3)
        self.activation = activation

    def behind(self, shared: Tensor) -> Tensor:
        sum_of_both: Tensor = ACTIVATIONS[self.activation](self.second(shared)) + self.skip(shared)
        return sum_of_both

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.behind(F.relu(self.first(x))).flatten(1))
        return logits


class Positions(nn.Module):
    """Logits at every position, `[N, T, C]`, each with a label; a sample's loss is the mean over its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.last = nn.Conv1d(2, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.mix(x)).transpose(1, 2))
        return logits


@cache
def _lowered(name: str) -> Program:
    return lower_module(randomize(Branches(name), seed=3), (1, 2, 3, 3))


def _program(name: str) -> Program:
    return Program(_lowered(name).graph.clone())


def _module(name: str) -> Branches:
    module = copy.deepcopy(_lowered(name).module)
    assert isinstance(module, Branches)
    return module.double()


def _data(samples: int = 6, labelled: bool = True) -> CalibrationData:
    random = np.random.default_rng(0)
    images = random.normal(size=(samples, 2, 3, 3)).astype(np.float32)
    labels = random.integers(0, 3, samples)
    return CalibrationData(images, labels if labelled else None)


def _mean_trace(tail: Callable[[Tensor], Tensor], values: Tensor, labels: Tensor) -> float:
    """Mean over samples of the trace of the dense Hessian of one sample's loss."""
    traces = []
    for value, label in zip(torch.split(values, 1), torch.split(labels, 1), strict=True):

        def loss(a: Tensor, label: Tensor = label) -> Tensor:
            return F.cross_entropy(tail(a).flatten(0, -2), label.flatten())

        hessian: Tensor = torch.autograd.functional.hessian(loss, value, vectorize=True)  # type: ignore[no-untyped-call] # torch has no types
        traces.append(float(hessian.reshape(value.numel(), -1).trace()))
    return sum(traces) / len(traces)


def _dense(name: str, data: CalibrationData) -> dict[str, float]:
    """By node, from the module's own definition."""
    module, images = _module(name), torch.from_numpy(data.images).double()
    assert data.labels is not None
    labels = torch.from_numpy(data.labels)
    with torch.no_grad():
        shared = F.relu(module.first(images))
        merged = module.behind(shared).flatten(1)
    of_shared = _mean_trace(lambda a: module.last(module.behind(a).flatten(1)), shared, labels)
    return {
        "first": _mean_trace(module, images, labels),
        "second": of_shared,
        "skip": of_shared,
        "last": _mean_trace(module.last, merged, labels),
    }


def test_piecewise_linear_networks_are_exact_without_labels() -> None:
    facts = trace_activations(_program("relu"), PassContext(_data(labelled=False)), EXACT).facts
    for node, wanted in _dense("relu", _data()).items():
        fact = facts[node]
        assert fact.trace == pytest.approx(wanted, rel=1e-10)
        assert (fact.exact, fact.standard_error, fact.matrix, fact.samples) == (True, 0.0, "hessian", 6)
    assert facts["second"] == facts["skip"]  # the same tensor
    assert {node: fact.elements for node, fact in facts.items()} == {"first": 18, "second": 12, "skip": 12, "last": 8}


def test_small_curved_activations_are_multiplied_with_all_unit_vectors() -> None:
    result = trace_activations(_program("tanh"), PassContext(_data()), EXACT)
    for node, wanted in _dense("tanh", _data()).items():
        fact = result.facts[node]
        assert fact.trace == pytest.approx(wanted, rel=1e-10)
        assert (fact.exact, fact.standard_error, fact.matrix) == (True, 0.0, "hessian")
    assert result.passes_over_data > 2 * (18 + 12)


def test_large_curved_activations_are_estimated_with_an_error_bar() -> None:
    options = replace(EXACT, probes=6, relative_error=0)
    close = 0
    for seed in range(5):
        facts = trace_activations(_program("tanh"), PassContext(_data(), seed=seed), options).facts
        assert facts["last"].exact
        for node, wanted in _dense("tanh", _data()).items():
            assert facts[node].exact == (facts[node].standard_error == 0) == (node == "last")
            close += abs(facts[node].trace - wanted) <= 3 * facts[node].standard_error + 1e-10
    assert close == 20


def test_hutchinson_agrees_with_packing() -> None:
    exact = trace_activations(_program("relu"), PassContext(_data()), EXACT).facts
    found = trace_activations(_program("relu"), PassContext(_data()), replace(EXACT, method="hutchinson")).facts
    for node, fact in found.items():
        assert fact.trace == pytest.approx(exact[node].trace, rel=1e-10)


def test_gauss_newton_is_labelled_where_it_is_not_the_hessian() -> None:
    options = replace(EXACT, method="gauss-newton")
    facts = trace_activations(_program("tanh"), PassContext(_data(labelled=False)), options).facts
    wanted = _dense("tanh", _data())
    assert {node for node, fact in facts.items() if fact.exact} == {"last"}
    assert {node for node, fact in facts.items() if fact.matrix == "hessian"} == {"last"}
    assert all(fact.trace > 0 for fact in facts.values())
    assert facts["first"].trace != pytest.approx(wanted["first"], rel=1e-3)


@pytest.mark.parametrize("method", ["auto", "hutchinson"])
def test_a_sample_s_loss_is_the_mean_over_its_positions(method: Literal["auto", "hutchinson"]) -> None:
    module = randomize(Positions(), seed=1)
    program = lower_module(module, (1, 2, 4))
    random = np.random.default_rng(2)
    images = random.normal(size=(3, 2, 4)).astype(np.float32)
    labels = random.integers(0, 3, (3, 4))
    facts = trace_activations(
        program, PassContext(CalibrationData(images, labels)), replace(EXACT, method=method)
    ).facts
    wanted = _mean_trace(module.double(), torch.from_numpy(images).double(), torch.from_numpy(labels))
    assert facts["mix"].trace == pytest.approx(wanted, rel=1e-10)
    assert (facts["mix"].value, facts["mix"].elements) == (program.graph.graph.inputs[0].name, 8)


def test_a_transformer_is_estimated_before_its_last_curve() -> None:
    program = lower_module(randomize(SmallTransformer()), (1, 3, 16, 16))
    random = np.random.default_rng(0)
    data = CalibrationData(random.normal(size=(2, 3, 16, 16)).astype(np.float32), np.array([1, 2]))
    facts = trace_activations(program, PassContext(data), ActivationTracePass(probes=4)).facts
    assert {node for node, fact in facts.items() if fact.exact} == {"head"}
    assert all(math.isfinite(fact.trace) and fact.matrix == "hessian" for fact in facts.values())


def test_the_memory_limit_changes_nothing_but_memory() -> None:
    options = ActivationTracePass(dtype="float64", drop=0.2, probes=6)
    wide = trace_activations(_program("tanh"), PassContext(_data(20)), options).facts
    narrow = trace_activations(_program("tanh"), PassContext(_data(20), memory_bytes=2**20), options).facts
    for node, fact in wide.items():
        assert narrow[node].trace == pytest.approx(fact.trace, rel=1e-9)


def test_a_dead_layer_is_a_labelled_zero() -> None:
    module = Branches("tanh")
    randomize(module)
    with torch.no_grad():
        for layer in (module.second, module.skip):
            layer.weight.zero_()
    facts = trace_activations(lower_module(module, (1, 2, 3, 3)), PassContext(_data()), EXACT).facts
    assert [(facts[n].trace, facts[n].standard_error) for n in ("first", "second", "skip")] == [(0.0, 0.0)] * 3
    assert facts["last"].trace > 0


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_conforms(name: str) -> None:
    check_pass(lambda: ActivationTracePass(samples=5, drop=0.2, probes=4), lambda: _program(name), PassContext(_data()))


def test_a_network_without_weights_has_no_facts() -> None:
    build = GraphBuilder((1, 3))
    program = build.finish(build.add("Relu", "relu", [build.input]))
    result = trace_activations(program, PassContext(CalibrationData(np.zeros((2, 3), np.float32))), EXACT)
    assert (dict(result.facts), result.passes_over_data) == ({}, 0.0)


def test_curved_activations_without_labels_are_refused_by_name() -> None:
    program = _program("tanh")
    with pytest.raises(InputError, match=r"Tanh.*labels.*give labelled data"):
        EXACT.run(program, PassContext(_data(labelled=False)))
    assert all(find(node, ActivationTrace) is None for node in program.weighted_nodes)


def test_bad_data_is_refused() -> None:
    data = _data()
    with pytest.raises(InputError, match="needs calibration data"):
        EXACT.run(_program("relu"), PassContext())
    with pytest.raises(InputError, match=r"\[2, 3, 4\].*\[2, 3, 3\]"):
        EXACT.run(_program("relu"), PassContext(CalibrationData(np.zeros((3, 2, 3, 4), np.float32))))
    data.images[2, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match="image 2 holds NaN"):
        EXACT.run(_program("relu"), PassContext(data))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ActivationTracePass(samples=0),
        lambda: ActivationTracePass(drop=1.0),
        lambda: ActivationTracePass(probes=1),
        lambda: ActivationTracePass(seconds=0.0),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], ActivationTracePass]) -> None:
    with pytest.raises(InputError, match="allowed"):
        make()


def test_a_batch_of_one_is_enough() -> None:
    for name in ("relu", "tanh"):
        program = _program(name)
        EXACT.run(program, PassContext(_data(1)))
        wanted = _dense(name, _data(1))
        for node in program.weighted_nodes:
            assert read(node, ActivationTrace).trace == pytest.approx(wanted[name_of(node)], rel=1e-9)
