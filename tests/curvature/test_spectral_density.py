import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codesign.curvature.spectral_density import SpectralDensity, spectral_density
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.errors import InputError


def _matrix(spectrum: list[float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = len(spectrum)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    matrix: Tensor = (turn * torch.tensor(spectrum, dtype=torch.float64)) @ turn.T
    return (matrix + matrix.mT).div(2)


def _rademacher(size: int, starts: int, seed: int) -> Tensor:
    """Unit vectors, one a row."""
    generator = torch.Generator().manual_seed(seed)
    signs = [torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) for _ in range(starts)]
    return (2 * torch.stack(signs).double() - 1) / math.sqrt(size)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-5, 5), st.sampled_from([0.0, 1.0, 1.0 + 1e-9])), min_size=1, max_size=25),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 50),
)
def test_weights_and_the_first_moments_are_exact(spectrum: list[float], steps: int, starts: int, seed: int) -> None:
    matrix = _matrix(spectrum, seed)
    density = spectral_density(DenseOperator(matrix), steps, starts, seed)
    assert density.nodes.shape == density.weights.shape == (starts, min(steps, len(spectrum)))
    assert (density.nodes.diff() >= 0).all()
    assert (density.weights >= 0).all()
    assert torch.allclose(density.weights.sum(1), torch.ones(starts).double(), atol=1e-13)
    vectors = _rademacher(len(spectrum), starts, seed)
    products = vectors @ matrix
    assert torch.allclose((density.weights * density.nodes).sum(1), (vectors * products).sum(1), atol=1e-12)
    if steps > 1:
        squares = (density.weights * density.nodes.square()).sum(1)
        assert torch.allclose(squares, products.square().sum(1), atol=1e-11)


def test_all_steps_give_the_whole_spectrum() -> None:
    spectrum = [-2.0, -0.5, 0.0, 0.3, 1.0, 4.0]
    density = spectral_density(DenseOperator(_matrix(spectrum)), starts=2)
    assert torch.allclose(density.nodes, torch.tensor([spectrum, spectrum]).double(), atol=1e-12)


def test_trace_lies_within_its_standard_error() -> None:
    matrix = _matrix([0.95**i for i in range(100)])
    starts = 60
    trace, error = spectral_density(DenseOperator(matrix), 2, starts).trace_estimate()
    # Variance of one Rademacher probe: 2 (||H||_F^2 - sum_i H_ii^2).
    exact_error = math.sqrt(2 * float(matrix.square().sum() - matrix.diagonal().square().sum()) / starts)
    assert error == pytest.approx(exact_error, rel=0.3)
    assert abs(trace - float(matrix.trace())) < 4 * exact_error


def test_one_start_says_nothing_about_its_error() -> None:
    density = spectral_density(DenseOperator(_matrix([1.0, 2.0, 5.0])))
    assert density.trace_estimate().standard_error is None


def test_a_start_does_not_depend_on_how_many_there_are() -> None:
    operator = DenseOperator(_matrix([0.9**i for i in range(30)]))
    few, many = (spectral_density(operator, 8, starts, seed=5) for starts in (2, 4))
    assert torch.equal(few.nodes, many.nodes[:2])
    assert torch.equal(few.weights, many.weights[:2])
    assert not torch.equal(few.nodes, spectral_density(operator, 8, 2, seed=6).nodes)


def test_an_invariant_subspace_leaves_nodes_of_weight_zero() -> None:
    density = spectral_density(DenseOperator(_matrix([2.0] * 10 + [-1.0] * 10)), 6, 2)
    assert torch.allclose(density.nodes, torch.tensor([-1.0] * 5 + [2.0]).double().expand(2, 6), atol=1e-12)
    assert (density.weights[:, :4] == 0).all()
    assert torch.allclose(density.weights[:, 4:].sum(1), torch.ones(2).double())


def test_the_curve_of_one_start_is_pyhessians() -> None:
    density = spectral_density(DenseOperator(_matrix([0.9**i * 7 for i in range(60)])), 20)
    grid, curve = density.curve()
    nodes, weights = density.nodes[0].tolist(), density.weights[0].tolist()
    low, high = min(nodes) - 0.01, max(nodes) + 0.01
    variance = 1e-5 * max(1, high - low)
    wanted = torch.zeros(10_000, dtype=torch.float64)
    for node, weight in zip(nodes, weights, strict=True):
        wanted += weight * torch.exp(-((grid - node) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    area = float(wanted.sum()) * (high - low) / 9_999
    assert len(grid) == 10_000
    assert [float(grid[0]), float(grid[-1])] == pytest.approx([low, high])
    assert torch.allclose(curve, wanted / area, rtol=1e-9)
    assert 0.9 < area < 1  # tails beyond the margin are cut off


def test_the_curve_shows_what_one_start_alone_has_seen() -> None:
    density = SpectralDensity(torch.tensor([[0.0, 1.0], [0.0, 9.0]]).double(), torch.full((2, 2), 0.5).double(), 4)
    assert float(density.curve().grid[-1]) == pytest.approx(9.01)
    grid, curve = density.curve(margin=1.0)
    step = float(grid[1] - grid[0])
    assert float(curve[(grid - 9).abs() < 0.5].sum()) * step == pytest.approx(0.25, abs=0.001)
    assert float(curve[(grid - 0).abs() < 0.5].sum()) * step == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize(
    "nodes", [[0.0, 0.0], [1e20, 1e20], [-1e8, 1e12], [-1e200, 1e200], [1e-200, 2e-200], [-3e5, 17.0]]
)
def test_the_curve_is_finite_with_unit_area_at_any_scale(nodes: list[float]) -> None:
    density = SpectralDensity(torch.tensor([nodes], dtype=torch.float64), torch.tensor([[0.25, 0.75]]).double(), 2)
    grid, curve = density.curve()
    assert torch.isfinite(curve).all()
    assert (grid.diff() > 0).all()
    assert float((curve * (grid[1] - grid[0])).sum()) == pytest.approx(1, rel=0.01)


def test_variance_and_margin_suit_small_spectra() -> None:
    density = SpectralDensity(torch.tensor([[0.0, 1e-6]]).double(), torch.tensor([[0.5, 0.5]]).double(), 2)
    grid, curve = density.curve(points=2001, margin=1e-6, variance=1e-16)
    between = float(curve[(grid - 5e-7).abs() < 1e-7].max())
    assert between < 1e-6 * float(curve.max())


@pytest.mark.parametrize(("points", "margin", "variance"), [(1, 0.01, None), (10, 0.0, None), (10, 0.01, 0.0)])
def test_curve_arguments_out_of_range_are_refused(points: int, margin: float, variance: float | None) -> None:
    density = spectral_density(DenseOperator(torch.eye(2, dtype=torch.float64)))
    with pytest.raises(InputError, match="allowed"):
        density.curve(points, margin, variance)


@pytest.mark.parametrize(("steps", "starts"), [(0, 1), (1, 0)])
def test_options_out_of_range_are_refused(steps: int, starts: int) -> None:
    with pytest.raises(InputError, match="1 or more"):
        spectral_density(DenseOperator(torch.eye(2, dtype=torch.float64)), steps, starts)


def test_products_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        spectral_density(DenseOperator(torch.full((2, 2), math.nan)))
