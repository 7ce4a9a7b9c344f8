"""Eigenpairs of largest magnitude of a symmetric matrix that is known by its products only.

Block Lanczos with full reorthogonalisation and thick restarts (Wu and Simon, 2000). A Krylov space of one vector holds
one vector of each eigenspace only and cannot show that an eigenvalue is repeated; one of a random block of k vectors
holds k of each, or all, with probability one. So a block of as many vectors as pairs are wanted sees every copy that
can be among them. Where two eigenvalues differ by a share g of their size, power iteration with deflation (PyHessian)
needs of the order of `1 / g` products a pair, a Krylov space of the order of `1 / sqrt(g)`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.curvature.krylov_basis import NEGLIGIBLE, KrylovBasis, multiply, norm
from codesign.curvature.symmetric_operator import SymmetricOperator
from codesign.errors import InputError
from codesign.progress import Progress, Silent

_ROUNDING = 100.0
"""A residual below this many units of rounding times the matrix's norm is one of rounding alone."""


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenvalues and eigenvectors that belong together: values are the vectors' Rayleigh quotients.

    Attributes:
        values: Largest magnitude first, float64 `[k]`, on the CPU; negative ones keep their sign.
        vectors: Orthonormal, `[n, k]`, in the operator's type.
        residuals: `||H v - lambda v||`, float64 `[k]`, from a product with the vectors that are returned. Within this
            distance of each value lies an eigenvalue of H.
        products: Matrix-vector products that were made.
        converged: Whether every residual is at most `tolerance * |value|`, or of rounding alone.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool


def top_eigenpairs(
    operator: SymmetricOperator,
    count: int = 1,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
    progress: Progress | None = None,
    basis_size: int | None = None,
) -> Eigenpairs:
    """The pairs of largest `|lambda|`; the defaults are PyHessian's.

    Cost: `count` products, made at once, an iteration; and as many again for the residuals. Memory: `basis_size * n`
    elements of the operator's type, whatever the number of iterations, and a few vectors in float64.

    Like every method that sees products only, it can miss an eigenvalue whose eigenvectors are almost orthogonal to the
    random start; residuals tell that what is returned are eigenpairs, not that nothing larger exists.

    Args:
        operator: H, symmetric `[n, n]`.
        count: Wanted pairs; n are found where there are fewer.
        max_iterations: Most products a pair, residuals not counted.
        tolerance: Largest residual relative to the value. The relative error of the value is at most that, and about
            its square where the value stands apart from others.
        seed: Of the start.
        progress: Told about iterations, and about pairs that did not converge.
        basis_size: Most vectors held, at least `4 * count`; by default the larger of 24 and `8 * count`. Fewer need
            more products.

    Returns:
        `min(count, n)` pairs.

    Raises:
        InputError: An option is out of range, or a product is NaN or infinite.
    """
    _check_options(count, max_iterations, tolerance, basis_size)
    progress = progress or Silent()
    space = _KrylovSpace(operator, count, basis_size or max(24, 8 * count), seed)
    progress.start("top eigenvalues", max_iterations)
    try:
        for _ in range(max_iterations):
            space.expand()
            progress.advance()
            if space.is_exhausted or space.has_converged(tolerance):
                break
        pairs = space.pairs(tolerance)
    finally:
        progress.finish()
    if not pairs.converged:
        worst = float((pairs.residuals / pairs.values.abs().clamp(min=torch.finfo(torch.float64).tiny)).max())
        progress.note(
            f"top eigenvalues: not converged after {pairs.products} products, relative residual {worst:.1e} against "
            f"{tolerance:.1e}; allow more iterations"
        )
    return pairs


class _KrylovSpace:
    """An orthonormal basis, products of H with all but its last vectors, and what they say about H's eigenpairs.

    Column c of `_projection` holds the coefficients of `H q_c` in the whole basis, the vectors that were not multiplied
    yet included. So its square upper part is `Q^T H Q`, and the rows below tell how far H leads out of the span.
    """

    def __init__(self, operator: SymmetricOperator, count: int, capacity: int, seed: int) -> None:
        self._operator = operator
        self._count = min(count, operator.dimension)
        self._capacity = min(capacity, operator.dimension)
        self._basis = KrylovBasis(operator, self._capacity)
        self._projection = torch.zeros(self._capacity, self._capacity, dtype=torch.float64)
        self._multiplied = 0
        self._products = 0
        self._norm = 0.0  # of H, from below
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self._count):
            start = torch.randn(operator.dimension, generator=generator, dtype=torch.float64)
            _, rest = self._basis.orthogonalize(start.to(operator.device))
            self._basis.append(rest, norm(rest))

    @property
    def is_exhausted(self) -> bool:
        """Whether the span is invariant: it then holds every pair that can be seen from the start."""
        return self._multiplied == self._basis.size

    def expand(self) -> None:
        """Multiplies the last block and adds what is new in the products."""
        pending = self._basis.size - self._multiplied
        if self._basis.size + pending > self._capacity < self._operator.dimension:
            self._restart(pending)
        begin, end = self._multiplied, self._basis.size
        products = multiply(self._operator, self._basis.columns(begin, end))
        self._products += end - begin
        self._norm = max(self._norm, *(norm(product) for product in products.T))
        negligible = NEGLIGIBLE * torch.finfo(self._operator.dtype).eps * self._norm
        for column, product in zip(range(begin, end), products.T, strict=True):
            coefficients, rest = self._basis.orthogonalize(product)
            self._projection[: len(coefficients), column] = coefficients
            length = norm(rest)
            if length > negligible and self._basis.size < self._operator.dimension:
                self._projection[self._basis.size, column] = length
                self._basis.append(rest, length)
        self._multiplied = end

    def has_converged(self, tolerance: float) -> bool:
        """Whether the residuals of the best pairs, known without a product, are small enough by a factor of 2.

        The factor is for the rounding of products, which shows in the final residuals only.
        """
        values, vectors = self._ritz_pairs()
        wanted = vectors[:, : self._count]
        residuals = torch.linalg.vector_norm(self._outside() @ wanted, dim=0)
        return self._are_small(2 * residuals, values[: self._count], tolerance)

    def pairs(self, tolerance: float) -> Eigenpairs:
        """The best pairs, with residuals from a product of their own."""
        _, vectors = self._ritz_pairs()
        self._basis.rotate(self._multiplied, vectors[:, : self._count])
        found = self._basis.columns(0, self._count)
        products = multiply(self._operator, found)
        self._products += self._count
        values = torch.empty(self._count, dtype=torch.float64)
        residuals = torch.empty_like(values)
        for i, (vector, product) in enumerate(zip(found.T.double(), products.T.double(), strict=True)):
            values[i] = (vector @ product) / (vector @ vector)
            residuals[i] = norm(product - values[i].to(product) * vector)
        order = values.abs().argsort(descending=True, stable=True)
        scale = self._norm or 1.0
        converged = self._are_small(residuals / scale, values / scale, tolerance)
        return Eigenpairs(values[order], found[:, order.to(found.device)], residuals[order], self._products, converged)

    def _restart(self, pending: int) -> None:
        """Keeps the best Ritz vectors only; H leads out of their span into the same last block as before."""
        keep = max(self._count, (self._capacity - 2 * pending) // 2)
        values, vectors = self._ritz_pairs()
        outside = self._outside() @ vectors[:, :keep]
        self._basis.rotate(self._multiplied, vectors[:, :keep])
        scale = self._norm or 1.0
        self._projection.zero_()
        self._projection[:keep, :keep] = scale * values[:keep].diag()
        self._projection[keep : keep + pending, :keep] = scale * outside
        self._multiplied = keep

    def _ritz_pairs(self) -> tuple[Tensor, Tensor]:
        """Eigenpairs of the projection, largest magnitude first, values relative to the norm of H."""
        inside = self._projection[: self._multiplied, : self._multiplied] / (self._norm or 1.0)
        values, vectors = torch.linalg.eigh((inside + inside.T) / 2)
        order = values.abs().argsort(descending=True, stable=True)
        return values[order], vectors[:, order]

    def _outside(self) -> Tensor:
        """Coefficients of products on vectors that were not multiplied yet, relative to the norm of H."""
        return self._projection[self._multiplied : self._basis.size, : self._multiplied] / (self._norm or 1.0)

    def _are_small(self, residuals: Tensor, values: Tensor, tolerance: float) -> bool:
        rounding = _ROUNDING * torch.finfo(self._operator.dtype).eps
        return bool((residuals <= torch.clamp(tolerance * values.abs(), min=rounding)).all())


def _check_options(count: int, max_iterations: int, tolerance: float, basis_size: int | None) -> None:
    if count < 1 or max_iterations < 1:
        raise InputError(
            f"top eigenvalues: got {count} pairs and {max_iterations} iterations, allowed is 1 or more of each"
        )
    if not tolerance > 0:
        raise InputError(f"top eigenvalues: got tolerance {tolerance}, allowed is above 0; try 1e-3")
    if basis_size is not None and basis_size < 4 * count:
        raise InputError(
            f"top eigenvalues: got a basis of {basis_size} vectors for {count} pairs, allowed is {4 * count} or more"
        )
