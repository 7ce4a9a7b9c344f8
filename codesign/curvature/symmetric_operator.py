"""Symmetric matrices that are known by their products with vectors only."""

from typing import Protocol

import torch
from torch import Tensor

from codesign.errors import InputError


class SymmetricOperator(Protocol):
    """A symmetric matrix `[n, n]` that can be multiplied with vectors."""

    @property
    def dimension(self) -> int:
        """Rows and columns of the matrix, n."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors that it takes and gives."""
        ...

    @property
    def device(self) -> torch.device:
        """Of the vectors that it takes and gives."""
        ...

    @property
    def passes_over_data(self) -> float:
        """Forward and backward sweeps over all samples so far, each counted as one; 0 for a matrix in memory."""
        ...

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Products with several vectors at once.

        Args:
            vectors: `[n, B]`.

        Returns:
            `[n, B]`.
        """
        ...


class DenseOperator:
    """A matrix that is held in memory, for tests and small problems.

    Args:
        matrix: Symmetric, `[n, n]`.

    Raises:
        InputError: It is not square.
    """

    passes_over_data = 0.0

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"matrix: got shape {tuple(matrix.shape)}, allowed is [n, n]")
        self._matrix = matrix

    @property
    def dimension(self) -> int:
        """Rows and columns of the matrix, n."""
        return len(self._matrix)

    @property
    def dtype(self) -> torch.dtype:
        """The matrix's."""
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        """The matrix's."""
        return self._matrix.device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product.

        Args:
            vectors: `[n, B]`.

        Returns:
            `[n, B]`.
        """
        return self._matrix @ vectors
