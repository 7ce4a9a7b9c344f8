"""What all stochastic trace estimators share: random vectors, when to stop, and how far to trust a standard error."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.files import digest_of


@dataclass(frozen=True)
class StoppingRule:
    """When an estimate is good enough; whichever comes first.

    Attributes:
        relative_error: Standard error as a share of the trace's magnitude. Stopping on the estimated error biases the
            result, by much less than that error.
        min_probes: Fewest random vectors that a standard error shall rest on, unless time or products run out.
        max_probes: Most products with the matrix. A matrix with no more rows than this is multiplied with all unit
            vectors instead, so that its trace is exact.
        seconds: Time limit; checked after each round of products. With a limit only matrices of at most `min_probes`
            rows are found exactly, for that cannot be cut short.
    """

    relative_error: float = 0.05
    min_probes: int = 16
    max_probes: int = 256
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.min_probes <= self.max_probes:
            raise InputError(
                f"probes: got at least {self.min_probes} and at most {self.max_probes}, allowed is "
                f"2 <= least <= most; a standard error needs two"
            )
        if not self.relative_error >= 0:
            raise InputError(f"relative error: got {self.relative_error}, allowed is 0 or more; try 0.05")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"seconds: got {self.seconds}, allowed are more than 0, or none for no limit")

    def wants_exact(self, dimension: int) -> bool:
        """Whether a matrix is small enough to be multiplied with all unit vectors.

        Args:
            dimension: Its rows.

        Returns:
            Whether it is.
        """
        return dimension <= (self.max_probes if self.seconds is None else self.min_probes)

    def is_met(self, estimate: "TraceEstimate") -> bool:
        """Whether no further product is wanted.

        Args:
            estimate: What is known.

        Returns:
            Whether it is exact, or rests on enough probes and is accurate enough.
        """
        enough = len(estimate.values) >= self.min_probes
        accurate = estimate.standard_error <= self.relative_error * abs(estimate.trace)
        return estimate.is_exact or (enough and accurate)


@dataclass(frozen=True)
class TraceEstimate:
    """A trace and how well it is known.

    Attributes:
        trace: The estimate.
        standard_error: Over the random draws, widened for their number (`standard_error_factor`); 0 if nothing was
            drawn.
        products: Vectors that the matrix was multiplied with.
        values: The random numbers `[m]` behind the standard error, float64; empty if nothing was drawn.
    """

    trace: float
    standard_error: float
    products: int
    values: Tensor

    @property
    def is_exact(self) -> bool:
        """Whether nothing was drawn at random."""
        return not len(self.values)


class Probing(Protocol):
    """A trace estimator that asks for products instead of making them, so that several can share their cost."""

    @property
    def estimate(self) -> TraceEstimate | None:
        """What is known so far; None before a standard error can be given."""
        ...

    def ask(self) -> Tensor | None:
        """Which products it wants next.

        Returns:
            Vectors `[n, B]`; None if its products are used up.
        """
        ...

    def tell(self, products: Tensor) -> None:
        """Answers `ask`.

        Args:
            products: `[n, B]`, of the matrix with the vectors that were asked for.
        """
        ...


ProbingOf = Callable[[int, StoppingRule, torch.Generator, torch.dtype, torch.device], Probing]
"""A method: makes an estimator for a matrix of so many rows, and vectors of that type and device."""


def generator_of(*parts: object) -> torch.Generator:
    """A source of random numbers.

    Args:
        *parts: What it depends on: JSON values.

    Returns:
        The same for the same parts, in every process.
    """
    return torch.Generator().manual_seed(int(digest_of(*parts)[:15], 16))


def random_signs(dimension: int, count: int, generator: torch.Generator) -> Tensor:
    """Rademacher vectors: independent entries +1 and -1.

    Args:
        dimension: Of each vector, n.
        count: How many, B; the vectors do not depend on how many are drawn at once.
        generator: Where they come from.

    Returns:
        `[n, B]`, int8, on the CPU.
    """
    return (2 * torch.randint(0, 2, (count, dimension), generator=generator, dtype=torch.int8) - 1).mT


@lru_cache
def standard_error_factor(values: int) -> float:
    """By how much a standard error is widened so that three of them hold as often as for normal numbers.

    Student's t-distribution with `values - 1` degrees of freedom has the quantile `3 f` where a normal one has 3, both
    at a probability of 99.73 % for the interval (Student, "The probable error of a mean", 1908). f is 1.20 for 16
    values, 1.01 for 256. Random quadratic forms are skewed when few eigenvalues dominate; how often the interval holds
    for these is measured in `tests/curvature/test_coverage.py`.

    With `t = sqrt(nu) tan(theta)` the density in theta is proportional to `cos(theta)^(nu - 1)`; it is integrated
    numerically.

    Args:
        values: How many numbers the standard error rests on, two or more.

    Returns:
        The factor, above 1.
    """
    freedom = values - 1
    angles = torch.linspace(0, math.pi / 2, 50_001, dtype=torch.float64)
    mass = torch.cumulative_trapezoid(angles.cos() ** (freedom - 1), angles)
    share = mass / mass[-1] - math.erf(3 / math.sqrt(2))
    above = int((share < 0).sum())  # mass[i] reaches to angles[i + 1]
    part = float(share[above] / (share[above] - share[above - 1]))
    angle = float(angles[above + 1] - part * (angles[1] - angles[0]))
    return math.sqrt(freedom) * math.tan(angle) / 3


def round_size(probes: int, rule: StoppingRule, products_per_probe: int) -> int:
    """Probes in the next round of a method that works its estimate out anew after each.

    Args:
        probes: How many there were; the first round has as many as a standard error shall rest on, later ones add a
            quarter, so that the work of all rounds is a small multiple of that of the last.
        rule: Bounds products.
        products_per_probe: Products that a probe costs at most.

    Returns:
        How many, 0 if none can be paid.
    """
    wanted = max(4, probes // 4) if probes else rule.min_probes
    return min(wanted, rule.max_probes // products_per_probe - probes)
