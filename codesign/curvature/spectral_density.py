"""Spectral density of a symmetric matrix that is known by its products only, by stochastic Lanczos quadrature.

For a random unit vector v, `E[v^T f(H) v] = tr f(H) / n`. Lanczos from v gives nodes and weights that integrate v's
spectral measure exactly up to degree `2 m - 1`; their mean over several v estimates the density of eigenvalues (Golub
and Meurant, 1993; Ubaru, Chen and Saad, 2017; PyHessian, arXiv 1912.07145).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from codesign.curvature.lanczos import lanczos
from codesign.curvature.symmetric_operator import SymmetricOperator
from codesign.errors import InputError
from codesign.progress import Progress, Silent

_ELEMENTS_AT_ONCE = 2**22
"""Pairs of grid point and node that are evaluated at once: 32 MiB in float64."""


class DensityCurve(NamedTuple):
    """A smooth density of eigenvalues.

    Attributes:
        grid: Evenly spaced eigenvalues, float64 `[points]`.
        density: Share of all eigenvalues per unit of eigenvalue, float64 `[points]`; its area is 1.
    """

    grid: Tensor
    density: Tensor


class DensityTrace(NamedTuple):
    """Trace of the matrix whose density was estimated.

    Attributes:
        trace: The estimate, unbiased.
        standard_error: Over starts; None with one start, which says nothing about its error.
    """

    trace: float
    standard_error: float | None


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Quadrature rules of the spectral measures of random vectors.

    Attributes:
        nodes: Ritz values, ascending, float64 `[starts, steps]`. A start that met an invariant subspace has fewer; its
            smallest is repeated in front, with weight 0.
        weights: Not negative, with sum 1 for each start, float64 `[starts, steps]`.
        dimension: n, rows of the matrix.
    """

    nodes: Tensor
    weights: Tensor
    dimension: int

    def curve(self, points: int = 10_000, margin: float = 0.01, variance: float | None = None) -> DensityCurve:
        """Sum of Gaussians at the nodes, averaged over starts, as PyHessian plots it.

        `phi(t) = 1 / starts * sum_l sum_i tau_i^(l) N(t; theta_i^(l), variance)`, renormalised so that its sum over
        the grid times the grid's step is 1, which also makes up for tails beyond the margins. The grid reaches from the
        smallest to the largest node of all starts, plus margins; PyHessian averages the ends over starts, which cuts
        off what one start alone has seen. A Gaussian is never narrower than the grid's step, so that none falls between
        two points.

        Args:
            points: Of the grid, at least 2.
            margin: Added at both ends, in units of eigenvalues; widened where it is lost in the ends' rounding.
            variance: Of the Gaussians; by default `1e-5 * max(1, grid's length)`, which suits eigenvalues from about
                1 to 1000. For a spectrum of other size give its own, and a margin.

        Returns:
            Grid and density.

        Raises:
            InputError: An argument is out of range.
        """
        if points < 2 or not margin > 0 or (variance is not None and not variance > 0):
            raise InputError(
                f"density curve: got {points} points, margin {margin} and variance {variance}, allowed are 2 points or "
                f"more, and a margin and a variance above 0"
            )
        low, high = float(self.nodes.min()), float(self.nodes.max())
        rounding = torch.finfo(torch.float64).eps * max(abs(low), abs(high))
        margin = max(margin, 1000 * points * rounding)  # a step then is at least 2000 units of rounding
        grid = torch.linspace(low - margin, high + margin, points, dtype=torch.float64)
        length = high - low + 2 * margin
        step = length / (points - 1)
        deviation = max(math.sqrt(1e-5 * max(1.0, length) if variance is None else variance), step)
        nodes, weights = self.nodes.flatten(), self.weights.flatten()
        parts = torch.split(grid, max(1, _ELEMENTS_AT_ONCE // len(nodes)))
        density = torch.cat([((part[:, None] - nodes) / deviation).square().div(-2).exp() @ weights for part in parts])
        return DensityCurve(grid, density / density.sum() / step)

    def trace_estimate(self) -> DensityTrace:
        """`tr(H)` as n times the mean over starts of `sum_i tau_i theta_i = v^T H v`.

        Returns:
            The estimate; that of Hutchinson with the same vectors.
        """
        values = self.dimension * (self.nodes * self.weights).sum(1)
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
        return DensityTrace(float(values.mean()), error)


def spectral_density(
    operator: SymmetricOperator, steps: int = 100, starts: int = 1, seed: int = 0, progress: Progress | None = None
) -> SpectralDensity:
    """Runs Lanczos from random Rademacher vectors; the defaults are PyHessian's.

    Cost: `steps * starts` products at most. Memory: that of one start's basis, `steps * n` elements of the operator's
    type. A start's draws depend on the seed and its number only.

    Args:
        operator: H, symmetric `[n, n]`.
        steps: Of Lanczos; a start stops earlier where it finds an invariant subspace.
        starts: Random vectors; their mean has a variance of `1 / starts`.
        seed: Of the vectors.
        progress: Told about products.

    Returns:
        Nodes and weights.

    Raises:
        InputError: There is no step or no start, or a product is NaN or infinite.
    """
    if steps < 1 or starts < 1:
        raise InputError(f"spectral density: got {steps} steps and {starts} starts, allowed is 1 or more of each")
    progress = progress or Silent()
    steps = min(steps, operator.dimension)
    nodes = torch.empty(starts, steps, dtype=torch.float64)
    weights = torch.zeros(starts, steps, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    progress.start("spectral density", steps * starts)
    try:
        for row in range(starts):
            signs = torch.randint(0, 2, (operator.dimension,), generator=generator, dtype=torch.int8)
            found, shares = lanczos(operator, 2.0 * signs.double() - 1.0, steps, progress).quadrature()
            missing = steps - len(found)
            nodes[row, :missing] = found[0]
            nodes[row, missing:] = found
            weights[row, missing:] = shares
            progress.advance(missing)
    finally:
        progress.finish()
    return SpectralDensity(nodes, weights, operator.dimension)
