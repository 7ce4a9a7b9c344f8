import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codesign.curvature.lanczos import lanczos
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.errors import InputError

SPECTRA = st.lists(
    st.sampled_from([-3.0, -1.0, -1e-6, 0.0, 1e-6, 0.5, 0.500001, 2.0, 2.0, 40.0]), min_size=1, max_size=20
)


def _matrix(spectrum: list[float], seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = len(spectrum)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    matrix: Tensor = (turn * torch.tensor(spectrum, dtype=torch.float64)) @ turn.T
    return (matrix + matrix.mT).mul(scale / 2)


def _start(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(99), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(SPECTRA, st.integers(0, 100), st.integers(1, 25), st.sampled_from([1.0, 1e-150, 1e150]))
def test_factorization_holds(spectrum: list[float], seed: int, steps: int, scale: float) -> None:
    matrix = _matrix(spectrum, seed, scale)
    result = lanczos(DenseOperator(matrix), _start(len(matrix)), steps)
    found = result.basis.shape[1]
    assert found <= min(steps, len(matrix))
    assert result.alphas.dtype == result.betas.dtype == torch.float64
    assert len(result.alphas) == found == len(result.betas) + 1
    assert (result.betas > 0).all()
    allowed = 1e-13 * 40 * scale
    assert (result.basis.T @ result.basis - torch.eye(found)).abs().max() < 1e-13
    difference = matrix @ result.basis - result.basis @ result.tridiagonal
    assert difference[:, :-1].abs().max() < allowed if found > 1 else True
    assert abs(float((difference[:, -1] / scale).norm()) - result.residual_norm / scale) < 1e-13 * 40


@settings(max_examples=20, deadline=None)
@given(SPECTRA, st.integers(0, 100))
def test_all_steps_give_the_starts_share_of_each_eigenspace(spectrum: list[float], seed: int) -> None:
    matrix = _matrix(spectrum, seed)
    result = lanczos(DenseOperator(matrix), _start(len(matrix)), 100)
    assert result.residual_norm == 0
    nodes, weights = result.quadrature()
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    assert (nodes[:, None] - eigenvalues).abs().min(1).values.max() < 1e-12
    unit = _start(len(matrix)) / _start(len(matrix)).norm()
    for value in spectrum:
        share = float((vectors.T @ unit).square()[(eigenvalues - value).abs() < 1e-5].sum())
        assert float(weights[(nodes - value).abs() < 1e-5].sum()) == pytest.approx(share, abs=1e-10)


def test_stops_at_an_invariant_subspace() -> None:
    result = lanczos(DenseOperator(_matrix([2.0] * 10 + [-1.0] * 10 + [5.0], 0)), _start(21), 100)
    assert result.residual_norm == 0
    nodes, _ = result.quadrature()
    assert torch.allclose(nodes, torch.tensor([-1.0, 2.0, 5.0], dtype=torch.float64), atol=1e-13)


def test_quadrature_is_exact_up_to_degree_2m_minus_1_and_not_beyond() -> None:
    matrix = _matrix([0.1 * i - 1 for i in range(20)], 3)
    unit = _start(20) / _start(20).norm()
    steps = 4
    nodes, weights = lanczos(DenseOperator(matrix), unit, steps).quadrature()
    for degree in range(2 * steps + 1):
        exact = float(unit @ torch.linalg.matrix_power(matrix, degree) @ unit)
        error = abs(float((weights * nodes**degree).sum()) - exact)
        assert (error < 1e-14) == (degree < 2 * steps)


def test_orthogonality_survives_converged_eigenvalues() -> None:
    # The plain three-term recurrence finds the isolated eigenvalue again and again.
    matrix = _matrix([1000.0, *(0.01 * i for i in range(199))], 0)
    result = lanczos(DenseOperator(matrix), _start(200), 120)
    assert (result.basis.T @ result.basis - torch.eye(120)).abs().max() < 1e-13
    nodes, _ = result.quadrature()
    assert int((nodes > 900).sum()) == 1


def test_float32_products_are_summed_in_float64() -> None:
    matrix = _matrix([100.0, *(0.9**i for i in range(299))], 1)
    single = lanczos(DenseOperator(matrix.float()), _start(300), 60)
    assert single.basis.dtype == torch.float32
    assert single.alphas.dtype == torch.float64
    basis = single.basis.double()
    assert (basis.T @ basis - torch.eye(60)).abs().max() < 1e-6
    assert (basis.T @ matrix @ basis - single.tridiagonal).abs().max() < 1e-6 * 100
    assert float(single.alphas[0]) == pytest.approx(
        float(basis[:, 0] @ matrix.float().double() @ basis[:, 0]), rel=1e-6
    )


@pytest.mark.parametrize("length", [1e-200, 1e-30, 1e200])
def test_short_and_long_starts_are_normalized_exactly(length: float) -> None:
    matrix = _matrix([3.0, 2.0, -1.0, 0.5], 0)
    start = _start(4) * length
    basis = lanczos(DenseOperator(matrix), start, 2).basis
    assert float(basis[:, 0].norm()) == pytest.approx(1, abs=1e-15)


def test_the_zero_matrix_ends_after_one_step() -> None:
    result = lanczos(DenseOperator(torch.zeros(7, 7, dtype=torch.float64)), _start(7), 5)
    assert (result.alphas.tolist(), result.betas.tolist(), result.residual_norm) == ([0.0], [], 0.0)


@pytest.mark.parametrize(
    ("start", "steps", "message"),
    [
        (torch.zeros(3), 2, "norm 0"),
        (torch.ones(4), 2, r"allowed is \(3,\)"),
        (torch.tensor([1.0, math.inf, 0.0]), 2, "finite norm"),
        (torch.ones(3), 0, "1 or more"),
    ],
)
def test_bad_starts_are_refused(start: Tensor, steps: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lanczos(DenseOperator(torch.eye(3, dtype=torch.float64)), start, steps)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_not_finite_are_refused(bad: float) -> None:
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[1, 1] = bad
    with pytest.raises(InputError, match="check the weights"):
        lanczos(DenseOperator(matrix), torch.ones(3), 2)
