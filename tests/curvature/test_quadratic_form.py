from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.quadratic_form import (
    gauss_newton_form,
    gradient_form,
    logit_directions,
    logit_directions_by_gradients,
)
from codesign.errors import InputError

torch.set_num_threads(1)
DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 4, 2, 1, 1, 3, 0])


def _directions(net: nn.Module, inputs: Tensor, errors: Tensor) -> Tensor:
    weight = dict(net.named_parameters())["0.weight"].detach()

    def logits_after(steps: Tensor) -> Tensor:
        moved = weight + torch.tensordot(steps, errors, 1)
        logits: Tensor = torch.func.functional_call(net, {"0.weight": moved}, (inputs,))
        return logits

    return logit_directions(logits_after, len(errors), inputs).detach()


def test_the_form_is_half_d_g_d_with_a_dense_block(net: nn.Module, inputs: Tensor, dense_block: DenseBlock) -> None:
    """The block of a ReLU network's first layer is its Gauss-Newton block."""
    errors = torch.randn(3, 4, 3, dtype=torch.float64)
    hessian = dense_block(net, inputs, LABELS, "0.weight")
    expected = [float(d.flatten() @ hessian @ d.flatten()) / 2 for d in errors]
    found = gauss_newton_form(net(inputs), _directions(net, inputs, errors)).mean(1)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_both_terms_are_the_start_of_the_loss_s_taylor_series(net: nn.Module, inputs: Tensor) -> None:
    errors = torch.randn(2, 4, 3, dtype=torch.float64)
    weight = dict(net.named_parameters())["0.weight"].detach()
    moved, step = _directions(net, inputs, errors), 1e-4

    def loss(w: Tensor) -> float:
        return float(F.cross_entropy(torch.func.functional_call(net, {"0.weight": w}, (inputs,)), LABELS))

    slopes = [(loss(weight + step * d) - loss(weight - step * d)) / (2 * step) for d in errors]
    bends = [(loss(weight + step * d) + loss(weight - step * d) - 2 * loss(weight)) / step**2 for d in errors]
    logits = net(inputs).detach()
    assert gradient_form(logits, LABELS, moved).mean(1).tolist() == pytest.approx(slopes, rel=1e-6)
    assert (2 * gauss_newton_form(logits, moved).mean(1)).tolist() == pytest.approx(bends, rel=1e-5)


def test_gradients_of_single_logits_give_the_same_directions(net: nn.Module, inputs: Tensor) -> None:
    errors = torch.randn(3, 4, 3, dtype=torch.float64)
    hidden = F.linear(inputs, *(p.detach() for p in list(net.parameters())[:2])).requires_grad_()
    logits = net[2](net[1](hidden))  # type: ignore[index]  # a Sequential
    motions = {"first": torch.stack([F.linear(inputs, d) for d in errors])}
    found = logit_directions_by_gradients(logits, {"first": hidden}, motions)["first"]
    torch.testing.assert_close(found, _directions(net, inputs, errors), rtol=1e-12, atol=1e-14)


def test_a_layer_that_does_not_reach_the_logits_moves_nothing() -> None:
    dead, alive = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    motions = {"dead": torch.ones(1, 2, 3), "alive": torch.ones(1, 2, 3)}
    found = logit_directions_by_gradients(alive * 2, {"dead": dead, "alive": alive}, motions)
    assert (found["dead"] == 0).all()
    assert (found["alive"] == 2).all()


def test_positions_are_averaged() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, moved = torch.randn(4, 6, 5, generator=generator), torch.randn(2, 4, 6, 5, generator=generator)
    labels = torch.randint(5, (4, 6), generator=generator)
    rows = gauss_newton_form(logits.flatten(0, 1), moved.flatten(1, 2)).reshape(2, 4, 6).mean(2)
    torch.testing.assert_close(gauss_newton_form(logits, moved), rows)
    slopes = gradient_form(logits.flatten(0, 1), labels.flatten(), moved.flatten(1, 2)).reshape(2, 4, 6).mean(2)
    torch.testing.assert_close(gradient_form(logits, labels, moved), slopes)


def test_the_form_is_stable_and_never_negative() -> None:
    """A motion that all classes share changes nothing, however large; so does any motion of one class."""
    logits = torch.tensor([[50.0, 0.0, -50.0]])
    shared = torch.full((1, 1, 3), 1e6)
    assert float(gauss_newton_form(logits, shared)) == pytest.approx(0, abs=1e-6)
    assert float(gauss_newton_form(torch.zeros(1, 1), torch.randn(1, 1, 1))) == 0.0
    random = gauss_newton_form(100 * torch.randn(50, 4), torch.randn(9, 50, 4))
    assert (random >= 0).all()


@pytest.mark.parametrize("labels", [torch.tensor([0, 5]), torch.tensor([-1, 0]), torch.tensor([0])])
def test_labels_that_do_not_fit_are_refused(labels: Tensor) -> None:
    with pytest.raises(InputError, match="labels: got"):
        gradient_form(torch.zeros(2, 5), labels, torch.zeros(1, 2, 5))
