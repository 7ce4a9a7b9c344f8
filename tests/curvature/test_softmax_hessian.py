import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.curvature.softmax_hessian import combine_softmax_columns, softmax_column_weights, softmax_hessian

ROWS = st.integers(2, 8).flatmap(
    lambda c: st.lists(st.lists(st.floats(-60, 60), min_size=c, max_size=c), min_size=1, max_size=4)
)


def _columns(logits: torch.Tensor) -> torch.Tensor:
    """The unit vectors of all columns, `[P, C, C]`."""
    rows, classes = logits.shape
    return combine_softmax_columns(logits, torch.eye(classes, dtype=torch.float64).expand(rows, -1, -1))


@settings(max_examples=30, deadline=None)
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


@settings(max_examples=30, deadline=None)
@given(ROWS)
def test_columns_multiply_back_to_the_hessian(values: list[list[float]]) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    weights, vectors = softmax_column_weights(logits), _columns(logits)
    rebuilt = vectors.mT @ (weights.unsqueeze(2) * vectors)
    assert torch.allclose(rebuilt, softmax_hessian(logits), rtol=0, atol=1e-14)
    assert torch.allclose(weights.sum(1), softmax_hessian(logits).diagonal(dim1=1, dim2=2).sum(1), rtol=1e-12, atol=0)
    assert torch.allclose(vectors.norm(dim=2), torch.ones_like(weights), rtol=1e-12)
    assert vectors.sum(2).abs().max() < 1e-14  # the constant vector is not touched


def test_very_confident_rows_keep_their_relative_accuracy() -> None:
    for margin in (5.0, 20.0, 40.0, 300.0):
        logits = torch.tensor([[margin, 0.0]], dtype=torch.float64)
        p = torch.tensor([margin, -margin], dtype=torch.float64).sigmoid()
        # Both columns are along (1, -1), of weights p_k * 2 (1 - p_k)^2; p - p^2 would lose every digit at 40.
        assert torch.allclose(softmax_column_weights(logits)[0], 2 * p * p.flip(0).square(), rtol=1e-12, atol=0)
        assert torch.allclose(_columns(logits).abs(), torch.full((1, 2, 2), 0.5**0.5, dtype=torch.float64), rtol=1e-12)
        signs = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
        assert torch.allclose(combine_softmax_columns(logits, signs), torch.zeros(1, 1, 2, dtype=torch.float64))


def test_a_saturated_row_has_zeros_and_no_nan() -> None:
    logits = torch.tensor([[3000.0, 0.0, 0.0]])
    assert not softmax_column_weights(logits).any()
    found = combine_softmax_columns(logits, torch.ones(1, 2, 3, dtype=torch.float64))
    assert found.isfinite().all()
