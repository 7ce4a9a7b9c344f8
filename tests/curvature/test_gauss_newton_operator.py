from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codesign.curvature.gauss_newton_operator import GaussNewtonOperator
from codesign.curvature.hessian_operator import HessianOperator
from codesign.curvature.loss import CrossEntropy, Loss, SampleLoss, SquaredError
from codesign.curvature.module_network import ModuleNetwork
from codesign.errors import InputError

TinyNetwork = Callable[[str], tuple[nn.Module, Tensor, Tensor, str]]


def _dense(operator: GaussNewtonOperator | HessianOperator) -> Tensor:
    return operator @ torch.eye(operator.dimension, dtype=operator.dtype)


def _explicit(
    forward: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
) -> Tensor:
    """`1 / rows sum J^T H_row J` from the Jacobian and all row Hessians."""
    rows = loss.as_rows(forward(inputs, weights))
    jacobians = torch.func.jacrev(lambda w: loss.as_rows(forward(inputs, w)))(dict(weights))
    jacobian = torch.cat([part.flatten(3) for part in jacobians.values()], 3).flatten(0, 1)
    sample_shape = forward(inputs, weights).shape[1:]
    hessians = loss.row_hessians(rows.flatten(0, 1), loss.row_targets(targets), sample_shape)
    return torch.einsum("pci,pcd,pdj->ij", jacobian, hessians, jacobian) / len(jacobian)


@pytest.mark.parametrize("name", ["gelu", "silu", "tanh", "attention", "shared"])
@pytest.mark.parametrize("samples", [None, 3])
def test_equals_the_explicit_matrix(name: str, samples: int | None, tiny_network: TinyNetwork) -> None:
    module, inputs, labels, _ = tiny_network(name)
    network = ModuleNetwork(module, torch.float64)
    arguments = (network.with_weights, network.weights, inputs, labels)
    found = _dense(GaussNewtonOperator(*arguments, samples_at_once=samples, vectors_at_once=30))
    torch.testing.assert_close(found, _explicit(*arguments, CrossEntropy()), rtol=1e-9, atol=1e-13)
    assert float(torch.linalg.eigvalsh(found)[0]) > -1e-14
    assert not torch.allclose(found, _dense(HessianOperator(*arguments, vectors_at_once=30)), atol=1e-3)


def _perceptron(seed: int) -> tuple[Callable[[Tensor, Mapping[str, Tensor]], Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "first": torch.randn(4, 3, generator=generator, dtype=torch.float64),
        "second": torch.randn(2, 4, generator=generator, dtype=torch.float64),
    }
    return lambda x, w: (x @ w["first"].mT).tanh() @ w["second"].mT, weights


@pytest.mark.parametrize(
    "loss",
    [SquaredError(), SampleLoss(lambda o, t: (o - t).pow(4).sum()), SampleLoss(lambda o, t: (o * t).cos().sum())],
)
def test_other_losses(loss: Loss) -> None:
    forward, weights = _perceptron(0)
    inputs, targets = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    found = _dense(GaussNewtonOperator(forward, weights, inputs, targets, loss, samples_at_once=2))
    torch.testing.assert_close(found, _explicit(forward, weights, inputs, targets, loss), rtol=1e-10, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 9)))
def test_is_symmetric_and_not_negative(seed: int, samples: int, at_once: int | None) -> None:
    forward, weights = _perceptron(seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 3, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 2, (samples,), generator=generator)
    operator = GaussNewtonOperator(forward, weights, inputs, labels, samples_at_once=at_once, vectors_at_once=3)
    one, other = torch.randn(2, 20, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(one.mT @ (operator @ other), (operator @ one).mT @ other, rtol=1e-10, atol=1e-12)
    assert float((one * (operator @ one)).sum(0).min()) > -1e-12


def test_is_the_hessian_of_a_linear_network() -> None:
    weights = {"w": torch.randn(3, 4, dtype=torch.float64), "unused": torch.ones(2, dtype=torch.float64)}
    inputs, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 3, (6,))

    def forward(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        return x @ chosen["w"].mT

    found = _dense(GaussNewtonOperator(forward, weights, inputs, labels))
    torch.testing.assert_close(found, _dense(HessianOperator(forward, weights, inputs, labels)), rtol=1e-10, atol=1e-14)
    assert found.any() and not found[12:].any()


def test_passes_over_data_are_counted() -> None:
    forward, weights = _perceptron(0)
    operator = GaussNewtonOperator(forward, weights, torch.ones(4, 3).double(), torch.zeros(4, dtype=torch.int64))
    for _ in range(2):
        operator @ torch.ones(20, 3, dtype=torch.float64)
    assert operator.passes_over_data == 2 + 2 * 2 * 3


def test_bad_data_is_refused() -> None:
    forward, weights = _perceptron(0)
    inputs, vector = torch.ones(4, 3, dtype=torch.float64), torch.ones(20, 1, dtype=torch.float64)
    with pytest.raises(InputError, match="allowed are 0 to 1"):
        GaussNewtonOperator(forward, weights, inputs, torch.full((4,), 2)) @ vector
    with pytest.raises(InputError, match="loss is NaN"):
        GaussNewtonOperator(forward, weights, inputs * torch.nan, torch.zeros(4, dtype=torch.int64)) @ vector
    flat = SampleLoss(lambda o, t: o.detach().sum())
    with pytest.raises(InputError, match="not differentiable"):
        GaussNewtonOperator(forward, weights, inputs, torch.ones(4, 2), flat) @ vector


def test_a_loss_linear_in_the_outputs_has_no_curvature() -> None:
    forward, weights = _perceptron(0)
    linear = SampleLoss(lambda o, t: (o * t).sum())
    inputs, targets = torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)
    assert not _dense(GaussNewtonOperator(forward, weights, inputs, targets, linear)).any()
    assert _dense(HessianOperator(forward, weights, inputs, targets, linear)).any()
