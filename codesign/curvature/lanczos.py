"""Lanczos' tridiagonalisation of a symmetric matrix that is known by its products only.

From a unit vector `q_1` it builds an orthonormal basis Q of `span(q_1, H q_1, H^2 q_1, ...)` in which H is tridiagonal,
`Q^T H Q = T`, with `alpha_j` on the diagonal and `beta_j` beside it. Rounding destroys the orthogonality of the plain
three-term recurrence, and copies of converged eigenvalues appear; here every new vector is orthogonalised against all
former ones, twice, and `beta_j` is the norm of what that leaves, so that T belongs to the basis that is kept.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.curvature.krylov_basis import NEGLIGIBLE, KrylovBasis, multiply, norm
from codesign.curvature.symmetric_operator import SymmetricOperator
from codesign.errors import InputError
from codesign.progress import Progress


@dataclass(frozen=True, eq=False)
class LanczosResult:
    """A matrix seen from one vector, `H Q = Q T + residual_norm * q e_m^T` with a unit vector q orthogonal to Q.

    Attributes:
        alphas: Diagonal of T, float64 `[m]`.
        betas: Its off-diagonal, float64 `[m - 1]`, positive.
        basis: Q, `[n, m]` in the operator's type.
        residual_norm: The next beta; 0 where Q spans an invariant subspace, so that all eigenvalues of T are H's.
    """

    alphas: Tensor
    betas: Tensor
    basis: Tensor
    residual_norm: float

    @property
    def tridiagonal(self) -> Tensor:
        """T, float64 `[m, m]`."""
        return self.alphas.diag() + self.betas.diag(1) + self.betas.diag(-1)

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Gauss quadrature of the start's spectral measure, from the eigenpairs `(theta_i, y_i)` of T.

        `sum_i tau_i f(theta_i) = q_1^T f(H) q_1` exactly for polynomials f of degree `2 m - 1` at most, where `tau_i`
        is the square of the first component of `y_i` (Golub and Welsch, 1969).

        Returns:
            Nodes `theta` in ascending order and weights `tau` with sum 1, float64 `[m]` each.
        """
        nodes, vectors = torch.linalg.eigh(self.tridiagonal)
        return nodes, vectors[0].square()


def lanczos(operator: SymmetricOperator, start: Tensor, steps: int, progress: Progress | None = None) -> LanczosResult:
    """Runs Lanczos with full reorthogonalisation; stops early where an invariant subspace is found.

    Cost: one product a step, and `4 m^2 n` multiplications for orthogonality. Memory: `n * m` elements of the
    operator's type for the basis, and a few vectors in float64.

    Args:
        operator: H, symmetric `[n, n]`.
        start: `[n]`, of any length but 0; normalised exactly, however short.
        steps: Most products; never more than n are made.
        progress: Advanced once a step; start and finish are the caller's.

    Returns:
        T and its basis, with `m <= steps`.

    Raises:
        InputError: The start is zero, not finite or of another length, there is no step, or a product is not finite.
    """
    if steps < 1:
        raise InputError(f"Lanczos steps: got {steps}, allowed is 1 or more; try 100")
    if start.shape != (operator.dimension,):
        raise InputError(f"Lanczos start: got shape {tuple(start.shape)}, allowed is ({operator.dimension},)")
    length = norm(start)
    if not math.isfinite(length) or length == 0:
        raise InputError(f"Lanczos start: got a vector of norm {length}, allowed is a finite norm above 0")
    steps = min(steps, operator.dimension)
    basis = KrylovBasis(operator, steps)
    direction = start.double().to(operator.device)
    alphas: list[float] = []
    betas: list[float] = []
    negligible = 0.0
    while True:
        basis.append(direction, length)
        product = multiply(operator, basis.columns(basis.size - 1, basis.size))[:, 0]
        negligible = max(negligible, NEGLIGIBLE * torch.finfo(operator.dtype).eps * norm(product))
        coefficients, direction = basis.orthogonalize(product)
        alphas.append(float(coefficients[-1]))
        length = norm(direction)
        if progress is not None:
            progress.advance()
        if length <= negligible or basis.size == operator.dimension:
            length = 0.0  # only rounding is left
        if length == 0 or basis.size == steps:
            break
        betas.append(length)
    return LanczosResult(
        torch.tensor(alphas, dtype=torch.float64),
        torch.tensor(betas, dtype=torch.float64),
        basis.columns(0, basis.size),
        length,
    )
