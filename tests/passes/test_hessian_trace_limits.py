"""The pass of Hessian traces at its limits: data, weights and options that it refuses, layers without influence."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from codesign.errors import InputError
from codesign.ir.annotation import find
from codesign.ir.annotations import HessianTrace
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.passes.hessian_trace import HessianTracePass, trace_blocks
from codesign.testing.networks import randomize
from codesign.testing.programs import GraphBuilder
from codesign.testing.traced_networks import dense_of_folded, traced_data, traced_program

EXACT = HessianTracePass(dtype="float64", drop=0)


def test_no_data_is_refused() -> None:
    with pytest.raises(InputError, match="needs calibration data"):
        EXACT.run(traced_program("relu"), PassContext())


def test_curved_layers_without_labels_are_refused_by_name() -> None:
    program = traced_program("tanh")
    with pytest.raises(InputError, match=r"'first'.*Tanh.*labels.*give labelled data"):
        EXACT.run(program, PassContext(traced_data("tanh", labelled=False)))
    assert all(find(node, HessianTrace) is None for node in program.weighted_nodes)


def test_labels_outside_the_classes_are_refused() -> None:
    data = traced_data("tanh")
    with pytest.raises(InputError, match="allowed are 0 to 2"):
        EXACT.run(traced_program("tanh"), PassContext(CalibrationData(data.images, np.full(8, 3))))


def test_nan_in_the_data_is_refused() -> None:
    data = traced_data("relu")
    data.images[5, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="image 5 holds NaN"):
        EXACT.run(traced_program("relu"), PassContext(data))


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
        program, data = traced_program(name), traced_data(name, samples=1)
        for node, fact in trace_blocks(program, PassContext(data), EXACT).facts.items():
            assert fact.trace == pytest.approx(float(dense_of_folded(program, data, node).trace()), rel=1e-9)


@pytest.mark.parametrize("method", ["auto", "hutchinson", "gauss-newton"])
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_layers_before_a_zero_or_dead_layer_are_labelled_zeros(
    name: str, method: Literal["auto", "hutchinson", "gauss-newton"]
) -> None:
    program, data = traced_program(name), traced_data(name)
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
    data = traced_data("tanh")
    assert data.labels is not None
    with pytest.raises(InputError, match="targets"):
        EXACT.run(traced_program("tanh"), PassContext(CalibrationData(data.images, data.labels[:5])))


def test_nan_in_the_weights_is_refused() -> None:
    program = traced_program("relu")
    assert program.module is not None
    with torch.no_grad():
        program.module.get_parameter("second.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN or infinity; check the weights"):
        HessianTracePass(weights_of="module").run(program, PassContext(traced_data("relu")))


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[2, 4, 4\].*\[2, 4, 5\]"):
        EXACT.run(traced_program("relu"), PassContext(CalibrationData(np.zeros((3, 2, 4, 4), np.float32))))


def test_module_weights_need_a_module() -> None:
    program = Program(traced_program("relu").graph)
    with pytest.raises(InputError, match="weights-of=module needs the torch module"):
        HessianTracePass(weights_of="module").run(program, PassContext(traced_data("relu")))


def test_module_weights_need_a_parameter_each() -> None:
    program = traced_program("relu")
    partial = {node: parameter for node, parameter in program.parameter_of.items() if node != "second"}
    with pytest.raises(InputError, match="weights of second are no parameters"):
        HessianTracePass(weights_of="module").run(
            Program(program.graph, program.module, partial), PassContext(traced_data("relu"))
        )


def test_a_module_in_train_mode_is_refused() -> None:
    program = traced_program("relu")
    assert program.module is not None
    program.module.train()
    with pytest.raises(InputError, match="train mode"):
        HessianTracePass(weights_of="module").run(program, PassContext(traced_data("relu")))


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
