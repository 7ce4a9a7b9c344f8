"""Vectors of a Krylov space, kept orthonormal in float64 arithmetic whatever type they are held in."""

from collections.abc import Iterator

import torch
from torch import Tensor

from codesign.curvature.symmetric_operator import SymmetricOperator
from codesign.errors import InputError

NEGLIGIBLE = 10.0
"""What orthogonalisation leaves of a product is rounding below this many units of rounding times the matrix's norm."""

_ELEMENTS_AT_ONCE = 2**22
"""Basis elements that are converted to float64 at once: 32 MiB."""


class KrylovBasis:
    """Orthonormal vectors that grow one at a time, up to a fixed number.

    They are held in the type that the operator takes, so that what is stored is exactly what was multiplied: `capacity
    * n` elements of 4 or 8 bytes. Inner products and norms are accumulated in float64; for a float32 operator the
    vectors are therefore orthogonal to float32's rounding of their elements, about 1e-7, and not worse.

    Args:
        operator: Whose dimension, type and device the vectors have.
        capacity: Most vectors.

    Raises:
        InputError: The operator is empty, or computes in neither float32 nor float64.
    """

    def __init__(self, operator: SymmetricOperator, capacity: int) -> None:
        if operator.dimension < 1:
            raise InputError("operator: got dimension 0, allowed is 1 or more; give at least one weight")
        if operator.dtype not in {torch.float32, torch.float64}:
            raise InputError(
                f"operator: computes in {operator.dtype}, allowed are torch.float32 and torch.float64; convert the "
                f"network, for the spectrum is lost in coarser rounding"
            )
        self.size = 0
        self._rows = torch.empty(capacity, operator.dimension, dtype=operator.dtype, device=operator.device)

    def columns(self, begin: int, end: int) -> Tensor:
        """Some of the vectors.

        Args:
            begin: The first.
            end: Behind the last.

        Returns:
            A view `[n, end - begin]`.
        """
        return self._rows[begin:end].T

    def orthogonalize(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Splits a vector into its part in the span of the basis and the rest, by two Gram-Schmidt sweeps.

        Twice is enough (Kahan; in Parlett, The Symmetric Eigenvalue Problem) for any rest that is not negligible.

        Args:
            vector: `[n]`; it stays as it is.

        Returns:
            Coefficients `[size]` of the first part, on the CPU, and the rest `[n]`, both in float64.
        """
        rest = vector.to(torch.float64, copy=True)
        total = torch.zeros(self.size, dtype=torch.float64, device=rest.device)
        for _ in range(2):
            coefficients = torch.zeros_like(total)
            for part in self._parts():
                coefficients += self._rows[: self.size, part].double() @ rest[part]
            for part in self._parts():
                rest[part] -= coefficients @ self._rows[: self.size, part].double()
            total += coefficients
        return total.cpu(), rest

    def append(self, direction: Tensor, length: float) -> None:
        """Adds a vector.

        Args:
            direction: Orthogonal to the basis, float64 `[n]`.
            length: Its norm, not 0.
        """
        self._rows[self.size] = (direction / length).to(self._rows.dtype)
        self.size += 1

    def rotate(self, count: int, coefficients: Tensor) -> None:
        """Replaces the first vectors by combinations of them; the others move up.

        Args:
            count: How many of the first vectors are combined.
            coefficients: With orthonormal columns, float64 `[count, kept]`, `kept <= count`.
        """
        kept = coefficients.shape[1]
        turned = coefficients.T.to(self._rows.device)
        for part in self._parts():
            self._rows[:kept, part] = (turned @ self._rows[:count, part].double()).to(self._rows.dtype)
        others = self.size - count
        self._rows[kept : kept + others] = self._rows[count : self.size].clone()
        self.size = kept + others

    def _parts(self) -> Iterator[slice]:
        """Elements of the vectors that are converted to float64 at once."""
        width = max(1, _ELEMENTS_AT_ONCE // max(1, len(self._rows)))
        for begin in range(0, self._rows.shape[1], width):
            yield slice(begin, begin + width)


def norm(vector: Tensor) -> float:
    """Euclidean norm in float64 that neither overflows nor underflows where squares of elements would.

    Args:
        vector: Any shape, with an element at least.

    Returns:
        The norm.
    """
    largest = float(vector.abs().max())
    if largest == 0:
        return 0.0
    return largest * float(torch.linalg.vector_norm(vector.double() / largest))


def multiply(operator: SymmetricOperator, vectors: Tensor) -> Tensor:
    """A product that is checked.

    Args:
        operator: H.
        vectors: `[n, B]`, finite.

    Returns:
        `H @ vectors`, `[n, B]`.

    Raises:
        InputError: The product is NaN or infinite, or of another shape.
    """
    products = operator @ vectors.contiguous()
    if products.shape != vectors.shape:
        raise InputError(
            f"operator: its product with vectors {tuple(vectors.shape)} has shape {tuple(products.shape)}, allowed is "
            f"the same shape; return [n, B]"
        )
    if not torch.isfinite(products).all():
        raise InputError(
            "operator: its product with a finite vector is NaN or infinite; check the weights and the data, and "
            "compute in float64 where float32 overflows"
        )
    return products
