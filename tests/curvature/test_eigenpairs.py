import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codesign.curvature.eigenpairs import Eigenpairs, top_eigenpairs
from codesign.curvature.hessian_operator import HessianOperator
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.spectral_density import spectral_density
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.errors import InputError
from codesign.progress import Silent

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]

SPECTRA = st.one_of(
    st.lists(st.floats(-10, 10), min_size=1, max_size=30),
    st.lists(
        st.sampled_from([-5.0, -1.0, 0.0, 1e-9, 1.0, 1.0001, 5.0]), min_size=1, max_size=40
    ),  # repeated, clustered
)


def _matrix(spectrum: list[float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = len(spectrum)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    matrix: Tensor = (turn * torch.tensor(spectrum, dtype=torch.float64)) @ turn.T
    return (matrix + matrix.mT).div(2)


def _check_pairs(matrix: Tensor, pairs: Eigenpairs) -> None:
    """What holds for any result: values, vectors and residuals belong together."""
    vectors = pairs.vectors.double()
    count = len(pairs.values)
    products = matrix.double() @ vectors
    scale = float(matrix.abs().max()) or 1.0
    rounding = 50 * torch.finfo(pairs.vectors.dtype).eps
    assert (vectors.T @ vectors - torch.eye(count)).abs().max() < rounding
    assert (pairs.values.abs().diff() <= 0).all()
    assert ((vectors * products).sum(0) - pairs.values).abs().max() < rounding * scale
    residuals = ((products - pairs.values * vectors) / scale).norm(dim=0)
    assert (residuals - pairs.residuals / scale).abs().max() < rounding


@settings(max_examples=30, deadline=None)
@given(SPECTRA, st.integers(1, 6), st.integers(0, 100), st.sampled_from([1.0, 1e-150, 1e150]))
def test_finds_known_spectra(spectrum: list[float], count: int, seed: int, scale: float) -> None:
    matrix = _matrix(spectrum, seed) * scale
    pairs = top_eigenpairs(DenseOperator(matrix), count, 300, tolerance=1e-9, seed=seed)
    wanted = torch.linalg.eigvalsh(matrix).abs().sort(descending=True).values[:count]
    assert len(pairs.values) == min(count, len(spectrum))
    assert pairs.converged
    _check_pairs(matrix, pairs)
    # The signs of eigenvalues of equal magnitude may come in any order.
    assert (pairs.values.abs() - wanted).abs().max() <= 1e-9 * float(wanted[0])


def test_repeated_eigenvalues_are_found_as_often_as_they_are_repeated() -> None:
    # With more distinct eigenvalues than fit the basis, no invariant subspace gives the copies away.
    matrix = _matrix([5.0] * 3 + [-4.0] * 2 + [2 - 0.01 * i for i in range(150)])
    pairs = top_eigenpairs(DenseOperator(matrix), 5, tolerance=1e-8)
    assert pairs.converged
    assert torch.allclose(pairs.values, torch.tensor([5.0, 5, 5, -4, -4], dtype=torch.float64), atol=1e-12)
    _check_pairs(matrix, pairs)


def test_a_small_basis_gives_the_same_after_more_restarts() -> None:
    matrix = _matrix([0.97**i * (-1) ** i for i in range(200)])
    large, small = (top_eigenpairs(DenseOperator(matrix), 2, 500, 1e-9, basis_size=size) for size in (None, 8))
    assert large.converged
    assert small.converged
    assert large.products < small.products
    assert torch.allclose(large.values, small.values, rtol=1e-12)
    assert large.values.tolist() == pytest.approx([1, -0.97], rel=1e-12)


def test_needs_fewer_products_than_power_iteration_for_close_eigenvalues() -> None:
    matrix = _matrix([1.0, 0.98, *(0.9 * 0.99**i for i in range(198))])
    pairs = top_eigenpairs(DenseOperator(matrix), tolerance=1e-6)
    vector = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(pairs.products):
        vector = matrix @ vector
        vector /= vector.norm()
    power = float((matrix @ vector - (vector @ matrix @ vector) * vector).norm())
    assert pairs.converged
    assert power > 1000 * float(pairs.residuals[0])


def test_the_flag_and_the_note_say_when_it_has_not_converged() -> None:
    matrix = _matrix([1 - 1e-4 * i for i in range(300)])
    notes: list[str] = []
    pairs = top_eigenpairs(DenseOperator(matrix), 2, max_iterations=5, tolerance=1e-6, progress=Silent(notes.append))
    assert not pairs.converged
    assert pairs.products == 2 * 6
    assert "not converged after 12 products" in notes[0]
    _check_pairs(matrix, pairs)


def test_zero_matrix_and_zero_eigenvalues() -> None:
    zero = top_eigenpairs(DenseOperator(torch.zeros(9, 9, dtype=torch.float64)), 3)
    assert zero.converged
    assert zero.values.tolist() == zero.residuals.tolist() == [0, 0, 0]
    low_rank = top_eigenpairs(DenseOperator(_matrix([3.0, -2.0] + [0.0] * 60)), 4, tolerance=1e-8)
    assert low_rank.converged
    assert low_rank.values.tolist() == pytest.approx([3, -2, 0, 0], abs=1e-14)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_float32(tolerance: float) -> None:
    matrix = _matrix([0.9**i for i in range(200)])
    pairs = top_eigenpairs(DenseOperator(matrix.float()), 3, tolerance=tolerance)
    assert pairs.converged
    assert pairs.vectors.dtype == torch.float32
    assert pairs.values.tolist() == pytest.approx([1, 0.9, 0.81], rel=1e-6)
    _check_pairs(matrix, pairs)


def test_same_seed_same_numbers() -> None:
    operator = DenseOperator(_matrix([0.9**i for i in range(100)]))
    first, again, other = (top_eigenpairs(operator, 2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, other.vectors)


def test_hessian_of_a_network(dense_block: DenseBlock) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    inputs, labels = torch.randn(12, 5, dtype=torch.float64), torch.randint(0, 3, (12,))
    network = ModuleNetwork(module, torch.float64)
    name = "0.weight"
    weights = {name: network.weights[name]}
    operator = HessianOperator(network.with_weights, weights, inputs, labels, samples_at_once=5)
    dense = dense_block(module, inputs, labels, name)
    pairs = top_eigenpairs(operator, 5, tolerance=1e-10)
    exact = torch.linalg.eigvalsh(dense)
    wanted = exact[exact.abs().argsort(descending=True)][:5]
    assert torch.allclose(pairs.values, wanted, rtol=1e-10)
    assert float(exact.min()) < 0  # a true Hessian, not a Gauss-Newton matrix
    density = spectral_density(operator, 20, 3)
    assert torch.allclose(density.nodes, exact.expand(3, 20), atol=1e-12)


@pytest.mark.parametrize(
    ("count", "iterations", "tolerance", "basis_size", "message"),
    [
        (0, 10, 1e-3, None, "1 or more"),
        (1, 0, 1e-3, None, "1 or more"),
        (1, 10, 0.0, None, "above 0"),
        (1, 10, math.nan, None, "above 0"),
        (3, 10, 1e-3, 11, "12 or more"),
    ],
)
def test_options_out_of_range_are_refused(
    count: int, iterations: int, tolerance: float, basis_size: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        top_eigenpairs(DenseOperator(torch.eye(3)), count, iterations, tolerance, basis_size=basis_size)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_not_finite_are_refused(bad: float) -> None:
    matrix = torch.eye(30, dtype=torch.float64)
    matrix[4, 4] = bad
    with pytest.raises(InputError, match="NaN or infinite; check the weights"):
        top_eigenpairs(DenseOperator(matrix))
