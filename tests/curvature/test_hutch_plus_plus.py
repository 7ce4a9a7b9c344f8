import pytest
import torch
from torch import Tensor

from codesign.curvature.hutch_plus_plus import hutch_plus_plus
from codesign.curvature.hutchinson import hutchinson
from codesign.curvature.orthonormal_basis import RangeBasis
from codesign.curvature.probing import StoppingRule
from codesign.curvature.symmetric_operator import DenseOperator


def _with_spectrum(eigenvalues: Tensor, size: int = 60) -> Tensor:
    random = torch.randn(size, len(eigenvalues), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(random).Q
    matrix = basis @ torch.diag(eigenvalues) @ basis.mT
    return (matrix + matrix.mT) / 2


DECAYING = _with_spectrum(1 / torch.arange(1, 61, dtype=torch.float64) ** 2)
INDEFINITE = _with_spectrum(torch.linspace(-1, 2, 60, dtype=torch.float64) ** 3)


@pytest.mark.parametrize("matrix", [DECAYING, INDEFINITE])
@pytest.mark.parametrize("most", [18, 50])
def test_is_unbiased_and_knows_its_error(matrix: Tensor, most: int) -> None:
    found = [hutch_plus_plus(DenseOperator(matrix), StoppingRule(0.0, 6, most), seed) for seed in range(300)]
    errors = torch.tensor([estimate.trace for estimate in found], dtype=torch.float64) - matrix.trace()
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 300**0.5
    reported = torch.tensor([estimate.standard_error for estimate in found]).square().mean().sqrt()
    assert 1 < float(reported / errors.std()) < 2.2  # widened by Student's factor, 1.84 for six probes


def test_is_exact_for_low_rank() -> None:
    for rank in (1, 5):
        matrix = _with_spectrum(torch.linspace(-1, 3, rank + 1, dtype=torch.float64)[1:])
        found = hutch_plus_plus(DenseOperator(matrix), StoppingRule(0.0, 8, 30))
        assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-11)
        assert found.standard_error < 1e-12


def test_is_better_than_hutchinson_where_the_spectrum_decays() -> None:
    operator, rule = DenseOperator(DECAYING), StoppingRule(0.0, 8, 48)
    ours = torch.tensor([hutch_plus_plus(operator, rule, seed).trace for seed in range(40)])
    plain = torch.tensor([hutchinson(operator, rule, seed).trace for seed in range(40)])
    assert float(ours.std()) < 0.1 * float(plain.std())


def test_float32_products_lose_no_more_than_float32() -> None:
    found = hutch_plus_plus(DenseOperator(DECAYING.float()), StoppingRule(0.0, 8, 48))
    wanted = hutch_plus_plus(DenseOperator(DECAYING), StoppingRule(0.0, 8, 48))
    assert found.trace == pytest.approx(wanted.trace, rel=1e-5)


def test_the_basis_stays_orthonormal_and_leaves_out_what_it_has() -> None:
    torch.manual_seed(0)
    basis = RangeBasis(30, torch.float64, torch.device("cpu"))
    first = torch.randn(30, 5, dtype=torch.float64) * torch.logspace(0, -12, 5, dtype=torch.float64)
    for vectors in (first, first @ torch.randn(5, 4, dtype=torch.float64), torch.zeros(30, 3), torch.randn(30, 40)):
        columns = basis.directions_in(vectors)
        basis.extend(columns, columns)
    gram = basis.columns.mT @ basis.columns
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-13)
    assert basis.columns.shape == (30, 30)
    torch.testing.assert_close(basis.core, gram)
    repeated = basis.directions_in(first)
    assert repeated.shape == (30, 0)
