"""XTrace: every random vector both spans the low-rank part and probes the rest, left out of its own low-rank part.

For test vectors `omega_1 ... omega_k` let `Q_(i)` be an orthonormal basis of `A omega_j` for all `j != i`, and
`x_i = (I - Q_(i) Q_(i)^T) omega_i`. Each `t_i = tr(Q_(i)^T A Q_(i)) + x_i^T A x_i` is an unbiased estimate; their mean
is XTrace (Epperly, Tropp and Webber, "XTrace: making the most of every sample in stochastic trace estimation", 2024,
section 2.1; formulas derived anew here so that `A Omega` may be rank-deficient).

With `A Omega = Q T`, Q orthonormal, leaving out one vector removes one direction `s_i` of the basis or none:
`Q_(i) Q_(i)^T = Q (I - s_i s_i^T) Q^T`. As `s_i` is orthogonal to all columns of T but the i-th, it is the i-th column
of the transposed pseudo-inverse of T, normalised, where the i-th column of T is independent of the others, and zero
else. So each `t_i` costs `O(k^2)` and no product.

The paper's error estimate, the scatter of the `t_i` over the root of k, takes them for independent. They are positively
correlated: it was measured to be too small by up to 1.4, and three of it to hold in 96 to 98 % of runs. Here it is

    standard error^2 = 2 sum_c var_i(z_ic) / k + max(0, cov),

both terms from products that are there already. (1) Given the other vectors, `t_i` has mean tr(A) over `omega_i` and
the variance of Hutchinson's estimate of `tr(P_i A P_i)`, `P_i = I - Q_(i) Q_(i)^T`, which the n elements of
`z_i = omega_i * (P_i A P_i omega_i)` show better than the k values `t_i`, as in `hutchinson`. (2) Let `t_ij` be `t_i`
without vector j. As `t_i` has mean tr(A) whatever the other vectors are, `t_ij`, which does not depend on `omega_j`, is
uncorrelated with `t_j` and with `t_ji`, so that `cov(t_i, t_j) = E[(t_i - t_ij) (t_j - t_ji)]`. A sample variance has
the mean variance less covariance, hence `cov` and not `(k - 1) / k cov`. Cost: `O(n k^2 + k^4)`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.curvature.orthonormal_basis import RangeBasis
from codesign.curvature.probing import (
    StoppingRule,
    TraceEstimate,
    random_signs,
    round_size,
    standard_error_factor,
)
from codesign.curvature.probing_rounds import trace_by
from codesign.curvature.symmetric_operator import SymmetricOperator
from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.progress import Progress

_PRODUCTS_PER_PROBE = 2
_INDEPENDENT = 1 - 1e-6
"""Share of a unit vector in the row space of T from which it counts as lying in it."""

_LEFT_OUT_AT_ONCE = 32


class XTraceProbing:
    """XTrace that grows. Memory: about `5 n k` numbers of 8 bytes for k probes, half of the products.

    Args:
        dimension: Rows of the matrix, n.
        rule: At most `max_probes` products are asked for.
        generator: Of the probes.
        dtype: Of the vectors.
        device: Of the vectors.

    Raises:
        InputError: The rule allows fewer than four products, two for each of two probes.
    """

    def __init__(
        self,
        dimension: int,
        rule: StoppingRule,
        generator: torch.Generator,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        if rule.max_probes < 2 * _PRODUCTS_PER_PROBE:
            raise InputError(f"xtrace: got at most {rule.max_probes} products, allowed are 4 or more; raise max_probes")
        self._dimension, self._rule, self._generator = dimension, rule, generator
        self._dtype, self._device = dtype, device
        self._basis = RangeBasis(dimension, dtype, device)
        self._signs = torch.empty(dimension, 0, dtype=torch.float64, device=device)
        self._products = self._signs.clone()
        self._new_columns: Tensor | None = None
        self._spent = 0
        self.estimate: TraceEstimate | None = None

    def ask(self) -> Tensor | None:
        """A round asks for products with new random signs, then with the new columns of Q.

        Returns:
            `[n, B]`; None when no further round can be paid.
        """
        if self._new_columns is not None:
            return self._new_columns.to(self._dtype)
        count = round_size(self._signs.shape[1], self._rule, _PRODUCTS_PER_PROBE)
        if not count:
            return None
        drawn = random_signs(self._dimension, count, self._generator).to(self._device)
        self._signs = torch.cat([self._signs, drawn.double()], 1)
        return drawn.to(self._dtype)

    def tell(self, products: Tensor) -> None:
        """Takes the products of one half of a round.

        Args:
            products: `[n, B]`.
        """
        self._spent += products.shape[1]
        if self._new_columns is not None:
            self._basis.extend(self._new_columns, products)
            self._new_columns = None
        else:
            self._products = torch.cat([self._products, products.double()], 1)
            directions = self._basis.directions_in(products)
            self._new_columns = directions if directions.shape[1] else None
        if self._new_columns is None:
            self.estimate = self._estimated()

    def _estimated(self) -> TraceEstimate:
        problem = LeaveOneOut.of(self._basis, self._signs, self._products)
        values = problem.estimates()
        count = len(values)
        variance = 2 * float(self._elements(problem).var(1).sum()) / count + problem.covariance(values)
        error = math.sqrt(variance) * standard_error_factor(count)
        return TraceEstimate(float(values.mean()), error, self._spent, values.cpu())

    def _elements(self, problem: "LeaveOneOut") -> Tensor:
        """`z_i = omega_i * (P_i A P_i omega_i)` `[n, k]`, P_i being `I - Q_(i) Q_(i)^T`."""
        columns = self._basis.columns
        probed = self._products - self._basis.products @ problem.project(problem.inside)
        return self._signs * (probed - columns @ problem.project(columns.mT @ probed))


@dataclass(frozen=True)
class LeaveOneOut:
    """What the estimates of k test vectors need, in the coordinates of the basis Q `[n, r]`; all in float64.

    Attributes:
        core: `Q^T A Q` `[r, r]`.
        inside: `Q^T Omega` `[r, k]`.
        images: `Q^T A Omega`, T above, `[r, k]`.
        forms: `omega_i^T A omega_i` `[k]`.
        removed: `s_i` `[r, k]`.
    """

    core: Tensor
    inside: Tensor
    images: Tensor
    forms: Tensor
    removed: Tensor

    @classmethod
    def of(cls, basis: RangeBasis, signs: Tensor, products: Tensor) -> "LeaveOneOut":
        """From the vectors themselves.

        Args:
            basis: Spans `products`.
            signs: Test vectors Omega `[n, k]`.
            products: `A Omega` `[n, k]`.

        Returns:
            The same in coordinates.
        """
        images = basis.columns.mT @ products
        forms = (signs * products).sum(0)
        return cls(basis.core, basis.columns.mT @ signs, images, forms, _removed_directions(images))

    def estimates(self) -> Tensor:
        """All `t_i`.

        Returns:
            `[k]`.
        """
        return self._estimates([self.removed])

    def estimates_without(self, indices: Tensor) -> Tensor:
        """All `t_i` as they would be without one of the other vectors.

        Args:
            indices: Which ones to leave out, each alone, `[J]`; a vector's own estimate is not changed.

        Returns:
            `[J, k]`.
        """
        gone = self.removed[:, indices].mT.unsqueeze(2)
        rest = self.removed
        for _ in range(2):  # neighbours can be almost parallel
            rest = _unit(rest - gone @ (gone.mT @ rest))
        own = indices.unsqueeze(1) == torch.arange(len(self.forms), device=indices.device)
        return self._estimates([gone, torch.where(own.unsqueeze(1), 0.0, rest)])

    def _estimates(self, removed: list[Tensor]) -> Tensor:
        """With orthonormal directions `[..., r, k or 1]` removed from the basis for each vector."""
        kept, low_rank = self.inside, self.core.trace()  # kept: coordinates of Q_(i) Q_(i)^T omega_i
        for directions in removed:
            kept = kept - directions * (directions * self.inside).sum(-2, keepdim=True)
            low_rank = low_rank - (directions * (self.core @ directions)).sum(-2)
        return low_rank + self.forms - 2 * (kept * self.images).sum(-2) + (kept * (self.core @ kept)).sum(-2)

    def project(self, coordinates: Tensor) -> Tensor:
        """Takes out of each column the direction that its vector removes.

        Args:
            coordinates: `Q^T x_i` `[r, k]`.

        Returns:
            `[r, k]`.
        """
        return coordinates - self.removed * (self.removed * coordinates).sum(0)

    def covariance(self, estimates: Tensor) -> float:
        """Covariance of two estimates, from leaving out a second vector; see the top of this module.

        Args:
            estimates: All `t_i` `[k]`.

        Returns:
            Its estimate, 0 where that is negative.
        """
        count = len(estimates)
        numbers = torch.arange(count, device=estimates.device)
        without = torch.cat([self.estimates_without(part) for part in torch.split(numbers, _LEFT_OUT_AT_ONCE)])
        change = estimates - without  # t_i - t_ij at [j, i], zero on the diagonal
        return max(0.0, float((change * change.mT).sum()) / (count * (count - 1)))


def _removed_directions(images: Tensor) -> Tensor:
    """`s_i` `[r, k]`: what only column i of T `[r, k]` reaches, of length one; zero if nothing."""
    if not images.numel():
        return images
    left, sizes, right = torch.linalg.svd(images, full_matrices=False)
    independent = right.square().sum(0) > _INDEPENDENT
    dual = left @ (right / sizes.clamp_min(torch.finfo(sizes.dtype).tiny).unsqueeze(1))
    return torch.where(independent, _unit(dual), 0.0)


def _unit(vectors: Tensor) -> Tensor:
    """Columns of length one; zeros stay zeros."""
    lengths = vectors.norm(dim=-2, keepdim=True)
    return torch.where(lengths > 0, vectors / lengths, 0.0)


def xtrace(
    operator: SymmetricOperator,
    rule: StoppingRule | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    shard: Shard | None = None,
) -> TraceEstimate:
    """XTrace's estimate of a trace: unbiased, also for indefinite matrices; exact for matrices of low rank.

    Cost: two products a probe. Better than Hutch++ for the same products.

    Args:
        operator: The matrix. With at most `rule.max_probes` rows its trace is found exactly instead.
        rule: When to stop; `max_probes` counts products.
        seed: Of the probes.
        progress: Told about products.
        shard: Needed with a time limit where the operator's products are made by several processes.

    Returns:
        The trace; its `values` are the leave-one-out estimates.
    """
    return trace_by(XTraceProbing, operator, rule, seed, progress, shard)
