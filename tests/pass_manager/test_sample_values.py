import math

import pytest
import torch

from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.pass_manager.sample_values import SampleValues
from codesign.quantization.divergence import estimate


def test_estimates_are_means_with_their_standard_error() -> None:
    values = SampleValues(["a", "b"], Shard())
    for part in torch.split(torch.arange(10.0), 3):
        values.add("a", part, "node 'a'")
        values.add("b", 2 * part, "node 'b'")
    found = values.estimates()
    assert found["a"].mean == 4.5
    assert found["b"].mean == 9.0
    assert found["a"].standard_error == pytest.approx(math.sqrt(sum((i - 4.5) ** 2 for i in range(10)) / 9 / 10))
    assert estimate(torch.tensor([3.0])).standard_error == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_what_was_done(bad: float) -> None:
    with pytest.raises(InputError, match="node 'a' at 2 bits: the outputs become NaN or infinite"):
        SampleValues(["a"], Shard()).add("a", torch.tensor([0.0, bad]), "node 'a' at 2 bits")
