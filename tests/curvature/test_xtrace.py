import pytest
import torch
from torch import Tensor

from codesign.curvature.hutchinson import hutchinson
from codesign.curvature.orthonormal_basis import RangeBasis
from codesign.curvature.probing import StoppingRule, generator_of, random_signs
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.curvature.xtrace import LeaveOneOut, xtrace


def _with_spectrum(eigenvalues: Tensor, size: int = 60) -> Tensor:
    random = torch.randn(size, len(eigenvalues), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(random).Q
    matrix = basis @ torch.diag(eigenvalues) @ basis.mT
    return (matrix + matrix.mT) / 2


DECAYING = _with_spectrum(1 / torch.arange(1, 61, dtype=torch.float64) ** 2)
STEEP = _with_spectrum(0.3 ** torch.arange(60, dtype=torch.float64))
INDEFINITE = _with_spectrum(torch.linspace(-1, 2, 60, dtype=torch.float64) ** 3)


def _brute_force(matrix: Tensor, signs: Tensor, left_out: list[int], index: int) -> float:
    """`t_i` with an orthonormal basis of the products of all vectors but some, from scratch."""
    others = [j for j in range(signs.shape[1]) if j not in left_out]
    basis, sizes, _ = torch.linalg.svd(matrix @ signs[:, others], full_matrices=False)
    basis = basis[:, sizes > 1e-13 * sizes[0]]
    rest = signs[:, index] - basis @ (basis.mT @ signs[:, index])
    return float((basis * (matrix @ basis)).sum() + rest @ matrix @ rest)


@pytest.mark.parametrize(
    ("matrix", "count"),
    [(DECAYING, 12), (STEEP, 12), (INDEFINITE, 12), (_with_spectrum(torch.tensor([1.0, -2.0, 3.0]).double()), 8)],
)
def test_downdating_equals_leaving_out_from_scratch(matrix: Tensor, count: int) -> None:
    signs = random_signs(60, count, generator_of(0)).double()
    basis = RangeBasis(60, torch.float64, torch.device("cpu"))
    columns = basis.directions_in(matrix @ signs)
    basis.extend(columns, matrix @ columns)
    problem = LeaveOneOut.of(basis, signs, matrix @ signs)
    found = problem.estimates()
    without = problem.estimates_without(torch.tensor([2]))[0]
    for index in range(count):
        assert float(found[index]) == pytest.approx(_brute_force(matrix, signs, [index], index), rel=1e-9)
        assert float(without[index]) == pytest.approx(_brute_force(matrix, signs, [index, 2], index), rel=1e-9)


@pytest.mark.parametrize("matrix", [DECAYING, INDEFINITE])
@pytest.mark.parametrize("most", [20, 32])
def test_is_unbiased_and_knows_its_error(matrix: Tensor, most: int) -> None:
    found = [xtrace(DenseOperator(matrix), StoppingRule(0.0, 10, most), seed) for seed in range(100)]
    errors = torch.tensor([estimate.trace for estimate in found], dtype=torch.float64) - matrix.trace()
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 100**0.5
    reported = torch.tensor([estimate.standard_error for estimate in found]).square().mean().sqrt()
    assert 0.95 < float(reported / errors.std()) < 1.9  # widened by Student's factor, 1.36 for ten values


def test_is_exact_for_low_rank() -> None:
    for rank in (1, 5):
        matrix = _with_spectrum(torch.linspace(-1, 3, rank + 1, dtype=torch.float64)[1:])
        found = xtrace(DenseOperator(matrix), StoppingRule(0.0, 8, 30))
        assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-11)
        assert found.standard_error < 1e-12


def test_is_better_than_hutchinson_where_the_spectrum_decays() -> None:
    operator, rule = DenseOperator(DECAYING), StoppingRule(0.0, 16, 48)
    ours = torch.tensor([xtrace(operator, rule, seed).trace for seed in range(30)])
    plain = torch.tensor([hutchinson(operator, rule, seed).trace for seed in range(30)])
    assert float(ours.std()) < 0.1 * float(plain.std())


def test_float32_products_lose_no_more_than_float32() -> None:
    found = xtrace(DenseOperator(DECAYING.float()), StoppingRule(0.0, 8, 48))
    wanted = xtrace(DenseOperator(DECAYING), StoppingRule(0.0, 8, 48))
    assert found.trace == pytest.approx(wanted.trace, rel=1e-5)
