import pytest
import torch
from torch import Tensor

from codesign.curvature.hutchinson import hutchinson
from codesign.curvature.probing import StoppingRule
from codesign.curvature.symmetric_operator import DenseOperator


def _low_rank(size: int, rank: int) -> Tensor:
    columns = torch.randn(size, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return columns @ torch.diag(torch.linspace(-1, 3, rank, dtype=torch.float64)) @ columns.mT


MATRICES = {"rank 3": _low_rank(40, 3), "full": _low_rank(40, 40)}


def _variance(matrix: Tensor) -> float:
    """Of one Rademacher probe: `2 (||H||_F^2 - sum_i H_ii^2)`."""
    return 2 * float(matrix.square().sum() - matrix.diagonal().square().sum())


@pytest.mark.parametrize("name", ["rank 3", "full"])
def test_is_unbiased_with_the_known_variance(name: str) -> None:
    matrix = MATRICES[name]
    rule = StoppingRule(0.0, 20, 20)
    found = [hutchinson(DenseOperator(matrix), rule, seed) for seed in range(400)]
    traces = torch.tensor([estimate.trace for estimate in found], dtype=torch.float64)
    probes = torch.cat([estimate.values for estimate in found])
    expected = _variance(matrix)
    assert abs(float(traces.mean() - matrix.trace())) < 4 * (expected / len(probes)) ** 0.5
    assert float(probes.var()) == pytest.approx(expected, rel=0.15)
    assert float(traces.var()) == pytest.approx(expected / 20, rel=0.25)


@pytest.mark.parametrize("name", ["rank 3", "full"])
def test_the_standard_error_is_unbiased_and_steadier_than_the_scatter_of_the_values(name: str) -> None:
    matrix = MATRICES[name]
    rule = StoppingRule(0.0, 16, 16)
    found = [hutchinson(DenseOperator(matrix), rule, seed) for seed in range(400)]
    factor = 3.5863 / 3  # Student's, 15 degrees of freedom
    reported = torch.tensor([(estimate.standard_error / factor) ** 2 for estimate in found])
    scatter = torch.tensor([float(estimate.values.var()) / 16 for estimate in found])
    assert float(reported.mean()) == pytest.approx(_variance(matrix) / 16, rel=0.1)
    assert float(reported.std()) < 0.6 * float(scatter.std())


def test_a_diagonal_matrix_needs_one_probe() -> None:
    diagonal = torch.linspace(-1, 4, 50, dtype=torch.float64)
    found = hutchinson(DenseOperator(torch.diag(diagonal)), StoppingRule(0.05, 2, 4))
    assert found.values[0] == pytest.approx(float(diagonal.sum()), rel=1e-12)
    assert found.trace == pytest.approx(float(diagonal.sum()), rel=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
