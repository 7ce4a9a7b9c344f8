import math
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codesign.curvature.hutch_plus_plus import hutch_plus_plus
from codesign.curvature.hutchinson import hutchinson
from codesign.curvature.probing import (
    StoppingRule,
    TraceEstimate,
    generator_of,
    random_signs,
    standard_error_factor,
)
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.curvature.xtrace import xtrace
from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.progress import Silent

Estimator = Callable[[DenseOperator, StoppingRule, int], TraceEstimate]
ESTIMATORS: list[Estimator] = [hutchinson, hutch_plus_plus, xtrace]


def _symmetric(size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (matrix + matrix.mT).to(dtype) + torch.eye(size, dtype=dtype)


class _Counted(DenseOperator):
    """Counts products and may be slow."""

    def __init__(self, matrix: Tensor, seconds: float = 0.0) -> None:
        super().__init__(matrix)
        self.products = 0
        self._seconds = seconds

    def __matmul__(self, vectors: Tensor) -> Tensor:
        self.products += vectors.shape[1]
        time.sleep(self._seconds)
        return super().__matmul__(vectors)


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize("size", [1, 5, 70, 128])
def test_small_matrices_are_exact(estimate: Estimator, size: int) -> None:
    matrix = _symmetric(size)
    operator = _Counted(matrix)
    found = estimate(operator, StoppingRule(max_probes=128), 0)
    assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-12)
    assert (found.standard_error, found.products, operator.products) == (0.0, size, size)
    assert found.is_exact


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_more_products_than_allowed_and_no_fewer_than_reported(estimate: Estimator, dtype: torch.dtype) -> None:
    for most in (6, 17, 50):
        operator = _Counted(_symmetric(60, dtype=dtype))
        found = estimate(operator, StoppingRule(0.0, 2, most), 0)
        assert most - 3 < operator.products <= most
        assert found.products == operator.products
        assert found.standard_error > 0


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_stops_at_the_relative_error(estimate: Estimator) -> None:
    matrix = torch.eye(300, dtype=torch.float64) + _symmetric(300) / 60
    found = estimate(DenseOperator(matrix), StoppingRule(0.02, 16, 250), 0)
    assert found.products < 250
    assert 0 < found.standard_error <= 0.02 * found.trace
    assert len(found.values) >= 16


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_the_seed_decides(estimate: Estimator) -> None:
    operator, rule = DenseOperator(_symmetric(60)), StoppingRule(0.0, 5, 40)
    one, same, other = (estimate(operator, rule, seed) for seed in (3, 3, 4))
    assert (one.trace, one.standard_error) == (same.trace, same.standard_error)
    assert one.trace != other.trace


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_a_zero_matrix_has_trace_zero(estimate: Estimator) -> None:
    operator = DenseOperator(torch.zeros(90, 90, dtype=torch.float64))
    found = estimate(operator, StoppingRule(0.05, 6, 60), 0)
    assert (found.trace, found.standard_error) == (0.0, 0.0)


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_time_runs_out(estimate: Estimator) -> None:
    operator = _Counted(_symmetric(200), seconds=0.05)
    began = time.monotonic()
    found = estimate(operator, StoppingRule(0.0, 4, 150, seconds=0.2), 0)
    assert time.monotonic() - began < 1
    assert 0 < found.products < 150
    assert math.isfinite(found.standard_error)


def test_progress_reaches_its_end() -> None:
    class Bar(Silent):
        total = done = 0
        finished = False

        def start(self, label: str, total: int) -> None:
            self.total = total

        def advance(self, steps: int = 1) -> None:
            self.done += steps

        def finish(self) -> None:
            self.finished = True

    for rule in (StoppingRule(0.0, 4, 50), StoppingRule(10.0, 4, 50), StoppingRule(0.0, 4, 300)):
        bar = Bar()
        hutchinson(DenseOperator(_symmetric(100)), rule, 0, bar, Shard())
        assert bar.finished
        assert bar.done == bar.total == rule.max_probes


def test_signs_do_not_depend_on_how_many_are_drawn_at_once() -> None:
    whole = random_signs(37, 9, generator_of(1, "w"))
    generator = generator_of(1, "w")
    parts = torch.cat([random_signs(37, count, generator) for count in (1, 5, 3)], 1)
    assert torch.equal(whole, parts)
    assert torch.equal(torch.unique(whole), torch.tensor([-1, 1], dtype=torch.int8))
    assert not torch.equal(whole, random_signs(37, 9, generator_of(1, "v")))


def test_the_standard_error_factor_is_students() -> None:
    # Quantiles of Student's t at 99.865 %: 235.8, 9.219, 5.507, 3.586, 3.124 (1, 3, 5, 15, 63 degrees of freedom).
    for values, quantile in ((2, 235.8), (4, 9.219), (6, 5.507), (16, 3.586), (64, 3.124)):
        assert 3 * standard_error_factor(values) == pytest.approx(quantile, rel=2e-4)
    assert 1 < standard_error_factor(100_000) < 1.0001


@pytest.mark.parametrize(
    ("most", "least", "error"), [(1, 1, 0.1), (10, 1, 0.1), (10, 11, 0.1), (10, 2, -1.0), (10, 2, float("nan"))]
)
def test_rules_out_of_range_are_refused(most: int, least: int, error: float) -> None:
    with pytest.raises(InputError, match="allowed"):
        StoppingRule(error, least, most)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_times_out_of_range_are_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="seconds"):
        StoppingRule(seconds=seconds)


def test_too_few_products_for_a_method_are_refused() -> None:
    operator = DenseOperator(_symmetric(20))
    with pytest.raises(InputError, match="allowed are 6 or more"):
        hutch_plus_plus(operator, StoppingRule(0.0, 2, 5))
    with pytest.raises(InputError, match="allowed are 4 or more"):
        xtrace(operator, StoppingRule(0.0, 2, 3))
