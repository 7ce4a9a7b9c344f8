import math
import statistics
from collections.abc import Mapping

import pytest
import torch

from codesign.curvature.eigenpairs import top_eigenpairs
from codesign.curvature.subsets import over_subsets
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.errors import InputError


def test_subsets_are_disjoint_and_cover_all_samples() -> None:
    seen: list[int] = []

    def compute(samples: slice) -> Mapping[str, float]:
        seen.extend(range(samples.start, samples.stop))
        return {"size": samples.stop - samples.start}

    sizes = over_subsets(compute, 23, 5)["size"].values
    assert seen == list(range(23))
    assert max(sizes) - min(sizes) == 1


def test_mean_and_standard_deviation_of_top_eigenvalues() -> None:
    data = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def top(samples: slice) -> Mapping[str, float]:
        part = data[samples]
        return {"layer": -float(top_eigenpairs(DenseOperator(part.T @ part / len(part)), tolerance=1e-10).values[0])}

    found = over_subsets(top, 40, 4)["layer"]
    wanted = [-float(torch.linalg.eigvalsh(part.T @ part / 10)[-1]) for part in torch.split(data, 10)]
    assert found.values == pytest.approx(wanted, rel=1e-10)
    assert found.mean == pytest.approx(sum(wanted) / 4)
    assert found.standard_deviation == pytest.approx(statistics.stdev(wanted))
    assert found.sensitivity == pytest.approx(-found.mean + found.standard_deviation)  # Q-BERT: |mean| + deviation


@pytest.mark.parametrize(("samples", "subsets", "message"), [(10, 1, "needs two"), (3, 4, "3 samples for 4 subsets")])
def test_too_few_are_refused(samples: int, subsets: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        over_subsets(lambda _: {"a": 1.0}, samples, subsets)


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="subset 1: 'a' is nan"):
        over_subsets(lambda samples: {"a": math.nan if samples.start else 1.0}, 10, 2)


def test_other_names_are_refused() -> None:
    with pytest.raises(InputError, match="'x' is known for some subsets only"):
        over_subsets(lambda samples: {"a": 1.0, "x": 2.0} if samples.start else {"a": 1.0}, 10, 2)
