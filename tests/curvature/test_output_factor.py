import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codesign.curvature import output_factor as module
from codesign.curvature.loss import CrossEntropy, Loss, SampleLoss, SquaredError
from codesign.curvature.output_factor import EigenFactor, OutputFactor, ScaledIdentity, SoftmaxColumns, output_factor
from codesign.errors import InputError

ROWS = st.integers(2, 8).flatmap(
    lambda c: st.lists(st.lists(st.floats(-60, 60), min_size=c, max_size=c), min_size=1, max_size=4)
)
INDEFINITE = SampleLoss(lambda output, target: torch.cos(output * target).sum() + output[0] * output[-1])


def _rebuilt(factor: OutputFactor, rows: Tensor, targets: Tensor | None) -> Tensor:
    shape = rows.shape[1:]
    identity = torch.eye(rows.shape[1], dtype=torch.float64).expand(len(rows), -1, -1)
    vectors = factor.bind(rows, targets, shape)(identity)
    assert torch.allclose(vectors.norm(dim=2), torch.ones(rows.shape, dtype=torch.float64))
    return vectors.mT @ (factor.weights(rows, targets, shape).unsqueeze(2) * vectors)


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (CrossEntropy(), EigenFactor(CrossEntropy())),
        (CrossEntropy(), SoftmaxColumns()),
        (SquaredError(), ScaledIdentity()),
        (INDEFINITE, EigenFactor(INDEFINITE)),
    ],
)
def test_terms_multiply_back_to_the_hessian(loss: Loss, factor: OutputFactor) -> None:
    rows, targets = torch.randn(2, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    wanted = loss.row_hessians(rows, targets, rows.shape[1:])
    assert torch.allclose(_rebuilt(factor, rows, targets), wanted, rtol=0, atol=1e-13)
    combined = factor.bind(rows, targets, rows.shape[1:])
    one, other = torch.randn(2, 9, 3, 6, dtype=torch.float64)
    assert torch.allclose(combined(one + 2 * other), combined(one) + 2 * combined(other))


@settings(max_examples=30, deadline=None)
@given(ROWS)
def test_eigenvalues_of_the_cross_entropy(values: list[list[float]]) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    factor, probabilities = EigenFactor(CrossEntropy()), logits.softmax(1)
    dense = torch.diag_embed(probabilities) - probabilities.unsqueeze(2) * probabilities.unsqueeze(1)
    assert torch.allclose(_rebuilt(factor, logits, None), dense, rtol=0, atol=1e-14)
    eigenvalues = factor.weights(logits, None, logits.shape[1:])
    assert (eigenvalues >= 0).all()
    assert (eigenvalues[:, 0] == 0).all()  # the constant vector
    assert (eigenvalues.diff() >= 0).all()


def test_very_confident_rows_keep_their_relative_accuracy() -> None:
    # Two classes: the eigenvalue is 2 p (1 - p) = 2 sigmoid(t) sigmoid(-t); p - p^2 would lose every digit at t = 40.
    for margin in (5.0, 20.0, 40.0, 300.0):
        t = torch.tensor(margin, dtype=torch.float64)
        logits = torch.tensor([[margin, 0.0]], dtype=torch.float64)
        eigenvalue = EigenFactor(CrossEntropy()).weights(logits, None, torch.Size((2,)))[0, 1]
        assert torch.isclose(eigenvalue, 2 * t.sigmoid() * (-t).sigmoid(), rtol=1e-12, atol=0)


def test_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coefficients = torch.randn(7, 2, 4, dtype=torch.float64)
    factor, shape = EigenFactor(CrossEntropy()), logits.shape[1:]
    whole = factor.weights(logits, None, shape), factor.bind(logits, None, shape)(coefficients)
    monkeypatch.setattr(module, "_MATRIX_ELEMENTS_AT_ONCE", 33)
    assert torch.equal(factor.weights(logits, None, shape), whole[0])
    assert torch.equal(factor.bind(logits, None, shape)(coefficients), whole[1])


def test_the_cheapest_affordable_factor_is_chosen() -> None:
    assert isinstance(output_factor(CrossEntropy(), 10**4, 10), EigenFactor)
    assert isinstance(output_factor(CrossEntropy(), 10, 1000), EigenFactor)
    assert isinstance(output_factor(CrossEntropy(), 64, 1000), SoftmaxColumns)
    assert isinstance(output_factor(CrossEntropy(), 1, 50_000), SoftmaxColumns)
    assert isinstance(output_factor(SquaredError(), 10**6, 10**6), ScaledIdentity)
    assert isinstance(output_factor(INDEFINITE, 100, 10), EigenFactor)


def test_what_has_no_curvature_or_too_many_outputs_is_refused() -> None:
    with pytest.raises(InputError, match="one output class"):
        output_factor(CrossEntropy(), 10, 1)
    with pytest.raises(InputError, match=r"50000 outputs.*Hutchinson"):
        output_factor(INDEFINITE, 10, 50_000)


def test_an_infinite_second_derivative_is_refused() -> None:
    loss = SampleLoss(lambda output, target: output.abs().pow(1.5).sum())
    with pytest.raises(InputError, match="second derivative holds NaN"):
        EigenFactor(loss).weights(torch.zeros(2, 3), torch.zeros(2), torch.Size((3,)))
