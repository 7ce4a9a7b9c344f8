import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.curvature import softmax_hessian as module
from codesign.curvature.softmax_hessian import (
    softmax_hessian,
    softmax_hessian_eigenvalues,
    softmax_hessian_eigenvectors,
)
from codesign.errors import InputError

ROWS = st.integers(2, 8).flatmap(
    lambda c: st.lists(st.lists(st.floats(-60, 60), min_size=c, max_size=c), min_size=1, max_size=4)
)


def _all_vectors(logits: torch.Tensor) -> torch.Tensor:
    rows, classes = logits.shape
    index = torch.arange(rows * classes)
    return softmax_hessian_eigenvectors(logits, index // classes, index % classes).view(rows, classes, classes)


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_eigenpairs_multiply_back_to_the_hessian(values: list[list[float]]) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    probabilities = logits.softmax(1)
    dense = torch.diag_embed(probabilities) - probabilities.unsqueeze(2) * probabilities.unsqueeze(1)
    eigenvalues, vectors = softmax_hessian_eigenvalues(logits), _all_vectors(logits)
    roots = eigenvalues.sqrt().unsqueeze(2) * vectors
    assert torch.allclose(roots.mT @ roots, dense, rtol=0, atol=1e-14)
    assert torch.allclose(vectors @ vectors.mT, torch.eye(logits.shape[1], dtype=torch.float64).expand_as(dense))
    assert (eigenvalues >= 0).all()
    assert (eigenvalues[:, 0] == 0).all()  # the constant vector
    assert (eigenvalues.sum(1) - (1 - probabilities.square().sum(1))).abs().max() < 1e-14


@settings(max_examples=50, deadline=None)
@given(ROWS, st.floats(-100, 100))
def test_adding_a_constant_to_the_logits_changes_nothing(values: list[list[float]], shift: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(softmax_hessian(logits), softmax_hessian(logits + shift), rtol=0, atol=1e-13)


def test_is_the_second_derivative_of_the_cross_entropy() -> None:
    logits = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    variable = logits[0].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(variable.unsqueeze(0), torch.tensor([3]))
    (gradient,) = torch.autograd.grad(loss, variable, create_graph=True)
    dense = torch.stack([torch.autograd.grad(g, variable, retain_graph=True)[0] for g in gradient])
    assert torch.allclose(softmax_hessian(logits)[0], dense, rtol=1e-12, atol=0)


def test_very_confident_rows_keep_their_relative_accuracy() -> None:
    # Two classes: the eigenvalue is 2 p (1 - p) = 2 sigmoid(t) sigmoid(-t); p - p^2 would lose every digit at t = 40.
    for margin in (5.0, 20.0, 40.0, 300.0):
        margins = torch.tensor(margin, dtype=torch.float64)
        eigenvalue = softmax_hessian_eigenvalues(torch.tensor([[margin, 0.0]], dtype=torch.float64))[0, 1]
        assert torch.isclose(eigenvalue, 2 * margins.sigmoid() * (-margins).sigmoid(), rtol=1e-12, atol=0)


def test_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = softmax_hessian_eigenvalues(logits), _all_vectors(logits)
    monkeypatch.setattr(module, "_MATRIX_ELEMENTS_AT_ONCE", 33)
    assert torch.equal(softmax_hessian_eigenvalues(logits), whole[0])
    assert torch.equal(_all_vectors(logits), whole[1])


@pytest.mark.parametrize("logits", [torch.zeros(3, 1), torch.zeros(3), torch.tensor([[0.0, float("nan")]])])
def test_bad_logits_are_refused(logits: torch.Tensor) -> None:
    with pytest.raises(InputError, match="logits"):
        softmax_hessian_eigenvalues(logits)
