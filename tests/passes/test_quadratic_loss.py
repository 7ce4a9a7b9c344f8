from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.annotation import read
from codesign.ir.annotations import QuadraticLoss
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, Pass, PassContext
from codesign.passes.observe_activations import ObserveActivationsPass
from codesign.passes.quadratic_loss import QuadraticLossPass
from codesign.quantization.simulation import SimulatedNetwork
from codesign.testing.networks import SmallTransformer, randomize
from codesign.testing.pass_conformance import check_pass

Make = Callable[[], Program]
RunTogether = Callable[[Pass, Sequence[Program], PassContext], None]
Direction = Literal["forward", "backward"]
EXACT = QuadraticLossPass(bits=(2, 4), dtype="float64")


def _values(program: Program) -> list[list[float | None]]:
    facts = (read(node, QuadraticLoss).by_bits for node in program.weighted_nodes)
    return [
        [
            x
            for e in entries
            for x in (
                e.gauss_newton_nats,
                e.gauss_newton_standard_error_nats,
                e.gradient_nats,
                e.gradient_standard_error_nats,
            )
        ]
        for entries in facts
    ]


def _loss_along(program: Program, data: CalibrationData, node: str, bits: int) -> Callable[[Tensor], Tensor]:
    """Mean cross-entropy after a step along the error of a node's weight and bias."""
    network = SimulatedNetwork(program.graph, dtype=torch.float64)
    error, weight = network.error(node, bits), network.graph.weight_name_of[node]
    assert data.labels is not None
    images, labels = torch.from_numpy(data.images).double(), torch.from_numpy(data.labels)

    def loss(step: Tensor) -> Tensor:
        def move(other: object, _: object, results: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if getattr(other, "name", None) != node or error.bias is None:
                return None
            return (results[0] + step * error.bias,)

        moved = network.graph.constants[weight] + step * error.weight
        logits = network.graph.run(images, {weight: moved}, move)
        return F.cross_entropy(logits, labels)

    return loss


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_terms_are_derivatives_of_the_loss_along_the_true_error(
    observed: Make, data: CalibrationData, direction: Direction
) -> None:
    """Behind a piecewise-linear network the second derivative along d is d^T G d."""
    program = observed()
    replace(EXACT, direction=direction).run(program, PassContext(data))
    zero = torch.zeros((), dtype=torch.float64)
    for node in program.weighted_nodes:
        for entry in read(node, QuadraticLoss).by_bits:
            loss = _loss_along(program, data, name_of(node), entry.weight_bits)
            slope, bend = torch.func.grad(loss)(zero), torch.func.grad(torch.func.grad(loss))(zero)
            assert entry.gradient_nats == pytest.approx(float(slope), rel=1e-9)
            assert entry.gauss_newton_nats == pytest.approx(float(bend) / 2, rel=1e-9)


def test_the_error_is_the_difference_of_the_quantised_constants(observed: Make) -> None:
    program = observed()
    network = SimulatedNetwork(program.graph, dtype=torch.float64)
    for node in program.weighted_nodes:
        name, error = name_of(node), network.error(name_of(node), 3)
        weight = network.graph.weight_name_of[name]
        torch.testing.assert_close(
            network.graph.constants[weight] + error.weight, network.constants(name, 3)[weight], rtol=0, atol=1e-15
        )
        assert error.bias is not None


def test_forward_and_backward_agree_on_a_transformer() -> None:
    lowered = lower_module(randomize(SmallTransformer()), (1, 3, 16, 16))
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 3, 16, 16)).astype(np.float32)
    context = PassContext(CalibrationData(images, random.integers(0, 10, 4)))
    found = []
    for direction in ("forward", "backward"):
        program = Program(lowered.graph.clone())
        ObserveActivationsPass().run(program, context)
        QuadraticLossPass(bits=(3, 8), dtype="float64", direction=direction).run(program, context)
        found.append(np.asarray(_values(program), np.float64))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7, atol=1e-15)
    assert (found[0][:, 0] > 0).all()


def test_processes_and_memory_do_not_change_the_values(
    observed: Make, data: CalibrationData, run_together: RunTogether
) -> None:
    pass_ = replace(EXACT, direction="backward")  # torch's forward mode does not run in several threads at once
    alone = observed()
    pass_.run(alone, PassContext(data))
    narrow = observed()
    pass_.run(narrow, PassContext(data, memory_bytes=1))
    together = [observed() for _ in range(2)]
    run_together(pass_, together, PassContext(data))
    for program in (narrow, *together):
        np.testing.assert_allclose(
            np.asarray(_values(program), np.float64), np.asarray(_values(alone), np.float64), rtol=1e-9, atol=1e-18
        )


def test_without_labels_there_is_no_first_order_term(observed: Make, data: CalibrationData) -> None:
    labelled, bare = observed(), observed()
    EXACT.run(labelled, PassContext(data))
    EXACT.run(bare, PassContext(replace(data, labels=None)))
    for node, other in zip(bare.weighted_nodes, labelled.weighted_nodes, strict=True):
        for entry, full in zip(read(node, QuadraticLoss).by_bits, read(other, QuadraticLoss).by_bits, strict=True):
            assert entry.gradient_nats is None
            assert entry.gradient_standard_error_nats is None
            assert entry.gauss_newton_nats == full.gauss_newton_nats


def test_labels_that_are_no_classes_are_refused(observed: Make, data: CalibrationData) -> None:
    with pytest.raises(InputError, match="allowed are 0 to 4"):
        EXACT.run(observed(), PassContext(replace(data, labels=np.full(len(data.images), 5))))


def test_conformance(observed: Make, data: CalibrationData) -> None:
    check_pass(lambda: QuadraticLossPass(bits=(2, 8), samples=5), observed, PassContext(data))
