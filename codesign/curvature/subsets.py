"""How a number varies between parts of the data (Q-BERT, arXiv 1909.05840, section 3.1)."""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.errors import InputError


@dataclass(frozen=True)
class SubsetStatistics:
    """One number on several subsets of the data.

    Attributes:
        mean: Over subsets.
        standard_deviation: Of a single subset's number, from the sample variance (divisor: subsets - 1).
        values: One for each subset, in order.
    """

    mean: float
    standard_deviation: float
    values: tuple[float, ...]

    @property
    def sensitivity(self) -> float:
        """Q-BERT's `|mean| + standard deviation`, of top eigenvalues."""
        return abs(self.mean) + self.standard_deviation


def over_subsets(
    compute: Callable[[slice], Mapping[str, float]], samples: int, subsets: int
) -> Mapping[str, SubsetStatistics]:
    """Computes the same numbers on disjoint subsets of the data, such as every layer's top eigenvalue.

    Subsets are contiguous, cover all samples and differ by one sample at most; data that is ordered by class is to be
    shuffled before. Cost: `compute` on each, together one pass over the data of whatever it does.

    Args:
        compute: Numbers by name, from the samples in a slice; the same names for every subset.
        samples: How many there are.
        subsets: At least 2; Q-BERT takes a tenth of the data for each.

    Returns:
        By name.

    Raises:
        InputError: There are fewer than two subsets or than one sample for each, or a number is missing or not finite.
    """
    if subsets < 2:
        raise InputError(f"data subsets: got {subsets}, allowed is 2 or more; a standard deviation needs two")
    if samples < subsets:
        raise InputError(
            f"data subsets: got {samples} samples for {subsets} subsets; use more samples or fewer subsets"
        )
    bounds = [samples * part // subsets for part in range(subsets + 1)]
    found = [compute(slice(begin, end)) for begin, end in itertools.pairwise(bounds)]
    for part, numbers in enumerate(found):
        if set(numbers) != set(found[0]):
            odd = sorted(set(numbers) ^ set(found[0]))
            raise InputError(f"data subset {part}: {odd[0]!r} is known for some subsets only; compute the same for all")
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise InputError(f"data subset {part}: {name!r} is {number}; check the weights and the data")
    return {name: _statistics(tuple(float(numbers[name]) for numbers in found)) for name in found[0]}


def _statistics(values: tuple[float, ...]) -> SubsetStatistics:
    return SubsetStatistics(statistics.fmean(values), statistics.stdev(values), values)
