import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from codesign.architecture.resnet_cifar import resnet20
from codesign.ir.annotation import find, read
from codesign.ir.annotations import HessianTrace
from codesign.ir.lowering import lower_module
from codesign.ir.program import name_of
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.passes.hessian_trace import HessianTracePass, trace_blocks
from codesign.testing.pass_conformance import check_pass
from codesign.testing.traced_networks import dense_of_folded, dense_of_module, traced_data, traced_program

SHARED = Path(__file__).parents[2] / ".." / "shared"


needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared (CIFAR-10 weights, data and reference) is absent"
)


WeightsOf = Literal["folded", "module"]


EXACT = HessianTracePass(dtype="float64", drop=0)


@pytest.mark.parametrize("weights_of", ["folded", "module"])
@pytest.mark.parametrize("name", ["relu", "positions"])
def test_exact_blocks_equal_the_dense_hessian(name: str, weights_of: WeightsOf) -> None:
    program, data = traced_program(name), traced_data(name)
    dense = dense_of_folded if weights_of == "folded" else dense_of_module
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
        program = traced_program("relu")
        pass_.run(program, PassContext(traced_data("relu")))
        facts.append({name_of(node): read(node, HessianTrace) for node in program.weighted_nodes})
    folded, module = facts
    assert folded["first"].trace != pytest.approx(module["first"].trace, rel=1e-4)  # BatchNorm follows
    assert folded["second"].trace == pytest.approx(module["second"].trace, rel=1e-5)


def _is_close_to(fact: HessianTrace, hessian: Tensor, probes: int) -> bool:
    variance = 2 * float(hessian.square().sum() - hessian.diagonal().square().sum()) / probes
    return abs(fact.trace - float(hessian.trace())) < 4 * math.sqrt(variance)


def test_curved_layers_are_estimated_and_say_so() -> None:
    program, data = traced_program("tanh"), traced_data("tanh")
    HessianTracePass(dtype="float64", drop=0, probes=40, relative_error=0).run(program, PassContext(data))
    for node in program.weighted_nodes:
        fact, hessian = read(node, HessianTrace), dense_of_folded(program, data, name_of(node))
        if node.name == "last":
            assert fact.exact
            assert fact.trace == pytest.approx(float(hessian.trace()), rel=1e-10)
        else:
            assert (fact.exact, fact.method, fact.matrix) == (False, "hutchinson", "hessian")
            assert fact.standard_error > 0
            assert _is_close_to(fact, hessian, 40)


@pytest.mark.parametrize(("name", "shared"), [("shared", {"twice"}), ("tied", {"one", "other"})])
def test_shared_parameters_are_estimated(name: str, shared: set[str]) -> None:
    program, data = traced_program(name), traced_data(name)
    options = HessianTracePass(dtype="float64", drop=0, probes=12, relative_error=0, weights_of="module")
    options.run(program, PassContext(data))
    facts = {name_of(node): read(node, HessianTrace) for node in program.weighted_nodes}
    estimated = {node for node, fact in facts.items() if not fact.exact}
    assert {program.parameter_of[node].removesuffix(".weight") for node in estimated} <= shared
    assert len(estimated) == 2
    traces = {facts[node].trace for node in estimated}
    assert len(traces) == 1  # both nodes carry the block of the one parameter
    for node in estimated:
        assert _is_close_to(facts[node], dense_of_module(program, data, node), 12)


def test_weights_that_folding_made_apart_are_exact_each() -> None:
    program, data = traced_program("shared"), traced_data("shared")
    EXACT.run(program, PassContext(data))
    for node in program.weighted_nodes:
        fact = read(node, HessianTrace)
        assert fact.exact
        assert fact.trace == pytest.approx(float(dense_of_folded(program, data, name_of(node)).trace()), rel=1e-10)


def test_a_use_of_a_parameter_that_only_the_module_shows_is_noticed() -> None:
    program, data = traced_program("hidden_use"), traced_data("hidden_use")
    wanted = float(dense_of_module(program, data, "seen").trace())
    facts = trace_blocks(program, PassContext(data), replace(EXACT, weights_of="module")).facts
    assert (facts["seen"].method, facts["last"].method) == ("unit-vectors", "packed-gauss-newton")
    assert facts["seen"].trace == pytest.approx(wanted, rel=1e-9)
    options = replace(EXACT, weights_of="module", method="gauss-newton")
    labelled = trace_blocks(program, PassContext(data), options).facts["seen"]
    assert (labelled.matrix, labelled.exact) == ("gauss-newton", False)
    assert labelled.trace != pytest.approx(wanted, rel=1e-3)
    folded = trace_blocks(program, PassContext(data), EXACT).facts["seen"]  # there the scale is a constant
    assert folded.exact
    assert folded.trace == pytest.approx(float(dense_of_folded(program, data, "seen").trace()), rel=1e-10)


def test_a_mobile_network_is_exact_everywhere() -> None:
    program, data = traced_program("mobilenet"), traced_data("mobilenet", samples=3)
    EXACT.run(program, PassContext(data))
    facts = {name_of(node): read(node, HessianTrace) for node in program.weighted_nodes}
    assert len(facts) == 14
    assert all(fact.exact for fact in facts.values())
    for node in ("stem.0", "blocks.1.layers.3"):
        assert facts[node].trace == pytest.approx(float(dense_of_folded(program, data, node).trace()), rel=1e-10)


def test_a_transformer_is_exact_behind_its_last_curve_only() -> None:
    program, data = traced_program("transformer"), traced_data("transformer", samples=2)
    HessianTracePass(dtype="float64", drop=0, probes=6).run(program, PassContext(data))
    facts = {name_of(node): read(node, HessianTrace) for node in program.weighted_nodes}
    assert {node for node, fact in facts.items() if fact.exact} == {"head"}
    assert facts["head"].trace == pytest.approx(float(dense_of_folded(program, data, "head").trace()), rel=1e-10)
    assert all(fact.standard_error > 0 for node, fact in facts.items() if node != "head")


def test_a_sampled_tail_is_not_called_exact() -> None:
    program, data = traced_program("relu"), traced_data("relu", samples=200)
    EXACT.run(program, PassContext(data))
    exact = {name_of(node): read(node, HessianTrace).trace for node in program.weighted_nodes}
    HessianTracePass(dtype="float64", drop=0.4).run(program, PassContext(data))
    for node in program.weighted_nodes:
        fact = read(node, HessianTrace)
        assert not fact.exact
        assert fact.standard_error > 0
        assert abs(fact.trace - exact[name_of(node)]) < 4 * fact.standard_error


def test_float32_is_close_to_float64() -> None:
    program, data = traced_program("mobilenet"), traced_data("mobilenet", samples=3)
    EXACT.run(program, PassContext(data))
    exact = {name_of(node): read(node, HessianTrace).trace for node in program.weighted_nodes}
    HessianTracePass(drop=0).run(program, PassContext(data))
    for node in program.weighted_nodes:
        assert read(node, HessianTrace).trace == pytest.approx(exact[name_of(node)], rel=1e-4)


def test_only_the_first_samples_are_used() -> None:
    program, data = traced_program("relu"), traced_data("relu", samples=8)
    HessianTracePass(drop=0, samples=3).run(program, PassContext(data))
    some = read(program.weighted_nodes[0], HessianTrace)
    assert some.samples == 3
    EXACT.run(program, PassContext(CalibrationData(data.images[:3])))
    assert some.trace == pytest.approx(read(program.weighted_nodes[0], HessianTrace).trace, rel=1e-4)


def test_small_curved_blocks_are_multiplied_with_all_unit_vectors() -> None:
    program, data = traced_program("tanh"), traced_data("tanh")
    HessianTracePass(dtype="float64", drop=0, eigenvalues=2).run(program, PassContext(data))
    for node in program.weighted_nodes[:3]:
        fact, hessian = read(node, HessianTrace), dense_of_folded(program, data, name_of(node))
        assert (fact.exact, fact.standard_error, fact.method, fact.matrix) == (True, 0.0, "unit-vectors", "hessian")
        assert fact.trace == pytest.approx(float(hessian.trace()), rel=1e-10)
        values = torch.linalg.eigvalsh(hessian)
        wanted = values[values.abs().argsort(descending=True)][:2].tolist()
        assert fact.top_eigenvalues == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_an_estimator_takes_the_hessian_of_every_layer(method: Literal["hutchinson", "hutch++", "xtrace"]) -> None:
    program, data = traced_program("tanh"), traced_data("tanh")
    options = HessianTracePass(dtype="float64", probes=40, method=method)
    for node, fact in trace_blocks(program, PassContext(data, seed=5), options).facts.items():
        wanted = float(dense_of_folded(program, data, node).trace())
        small = node == "last"  # 9 elements, fewer than probes
        assert (fact.method, fact.matrix, fact.exact) == ("unit-vectors" if small else method, "hessian", small)
        assert abs(fact.trace - wanted) <= 4 * fact.standard_error + 1e-10 * abs(wanted)


def test_gauss_newton_is_labelled_where_it_is_not_the_hessian() -> None:
    program = traced_program("tanh")
    unlabelled = PassContext(traced_data("tanh", labelled=False))
    facts = trace_blocks(program, unlabelled, replace(EXACT, method="gauss-newton")).facts
    assert {fact.method for fact in facts.values()} == {"packed-gauss-newton"}
    assert {node: fact.matrix for node, fact in facts.items()} == {
        **dict.fromkeys(("first", "second", "hidden"), "gauss-newton"),
        "last": "hessian",
    }
    assert {node for node, fact in facts.items() if fact.exact} == {"last"}


def test_gauss_newton_of_a_shared_weight_needs_no_labels() -> None:
    program, data = traced_program("tied"), traced_data("tied")
    options = replace(EXACT, method="gauss-newton", weights_of="module")
    found = trace_blocks(program, PassContext(traced_data("tied", labelled=False)), options).facts
    labelled = trace_blocks(program, PassContext(data), options).facts
    assert [fact.method for fact in found.values()] == ["unit-vectors", "unit-vectors", "packed-gauss-newton"]
    assert [fact.matrix for fact in found.values()] == ["gauss-newton", "gauss-newton", "hessian"]
    assert [fact.exact for fact in found.values()] == [False, False, True]
    for node, fact in found.items():
        assert fact.trace == pytest.approx(labelled[node].trace, rel=1e-12)


def test_the_result_tells_its_cost_and_leaves_the_graph_alone() -> None:
    program = traced_program("relu")
    result = trace_blocks(program, PassContext(traced_data("relu")), EXACT)
    assert set(result.facts) == {"first", "second", "hidden", "last"}
    assert 2 <= result.passes_over_data <= 6  # two forwards, and a backward for each of two eigenvectors
    assert all(find(node, HessianTrace) is None for node in program.weighted_nodes)
    curved = trace_blocks(traced_program("tanh"), PassContext(traced_data("tanh")), EXACT)
    assert curved.passes_over_data > 2 * 96  # a product with each unit vector


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_the_memory_limit_changes_nothing_but_memory(name: str) -> None:
    options = HessianTracePass(dtype="float64", drop=0.2, probes=20, eigenvalues=1)
    data = traced_data(name, samples=20)
    wide = trace_blocks(traced_program(name), PassContext(data), options).facts
    narrow = trace_blocks(traced_program(name), PassContext(data, memory_bytes=2**20), options).facts
    for node, fact in wide.items():
        assert narrow[node].trace == pytest.approx(fact.trace, rel=1e-9)
        assert narrow[node].top_eigenvalues == pytest.approx(fact.top_eigenvalues, rel=1e-6)


def test_a_time_limit_still_gives_an_error_bar() -> None:
    options = HessianTracePass(probes=10_000, relative_error=0, seconds=0.01)
    for fact in trace_blocks(traced_program("tanh"), PassContext(traced_data("tanh")), options).facts.values():
        assert fact.standard_error > 0 or fact.exact


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_conforms(name: str) -> None:
    context = PassContext(traced_data(name), seed=3)
    check_pass(lambda: HessianTracePass(samples=6, drop=0.2, probes=20), lambda: traced_program(name), context)


def test_the_module_is_left_alone() -> None:
    program = traced_program("relu")
    assert program.module is not None
    before = {name: value.clone() for name, value in program.module.state_dict().items()}
    HessianTracePass(weights_of="module", dtype="float64").run(program, PassContext(traced_data("relu")))
    after = program.module.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


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
