"""An orthonormal basis of what a matrix makes of random vectors, that grows by blocks of vectors."""

import torch
from torch import Tensor


class RangeBasis:
    """Orthonormal columns Q and the products of a symmetric matrix A with them, in float64.

    Memory: `2 n r` numbers of 8 bytes for r columns.

    Args:
        dimension: Rows, n.
        dtype: In which products are made; says what is lost in rounding.
        device: Of the columns.
    """

    def __init__(self, dimension: int, dtype: torch.dtype, device: torch.device) -> None:
        self.columns = torch.empty(dimension, 0, dtype=torch.float64, device=device)
        self.products = self.columns.clone()
        self._rounding = 10 * torch.finfo(dtype).eps
        self._largest = 0.0

    @property
    def core(self) -> Tensor:
        """`Q^T A Q` `[r, r]`, made symmetric."""
        core = self.columns.mT @ self.products
        return (core + core.mT) / 2

    def directions_in(self, vectors: Tensor) -> Tensor:
        """An orthonormal basis of what some vectors add to the columns; it is not yet added.

        Directions that are lost in rounding are left out, so that none is counted twice where a matrix has low rank.
        Householder QR after two rounds of block Gram-Schmidt ("twice is enough": Giraud, Langou and Rozloznik, 2005).

        Args:
            vectors: `[n, B]`.

        Returns:
            `[n, b]` in float64, `b <= B`.
        """
        rest = vectors.double()
        self._largest = max(self._largest, float(rest.norm(dim=0).max())) if rest.numel() else self._largest
        for _ in range(2):
            rest = rest - self.columns @ (self.columns.mT @ rest)
        room = self.columns.shape[0] - self.columns.shape[1]
        basis, triangle = torch.linalg.qr(rest[:, :room])
        found: Tensor = basis[:, triangle.diagonal().abs() > self._rounding * self._largest]
        for _ in range(2):  # columns much shorter than the others kept a share of the old ones in rounding
            found = torch.linalg.qr(found - self.columns @ (self.columns.mT @ found)).Q
        return found

    def extend(self, columns: Tensor, products: Tensor) -> None:
        """Adds columns.

        Args:
            columns: `[n, b]` of `directions_in`.
            products: `A` times these, `[n, b]`.
        """
        self.columns = torch.cat([self.columns, columns], 1)
        self.products = torch.cat([self.products, products.double()], 1)
