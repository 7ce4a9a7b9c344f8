"""A loss's Hessian in the outputs as a sum of rank-one terms: `H_p = sum_k w_pk v_pk v_pk^T` for every row p.

The vectors v have length 1, so that the weights of a row sum to the trace of its Hessian. A pair (p, k) is one term.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from codesign.curvature.loss import CrossEntropy, Loss, SquaredError
from codesign.curvature.softmax_hessian import combine_softmax_columns, softmax_column_weights
from codesign.errors import InputError

EIGEN_CLASSES = 1500
"""Most entries of a row whose Hessian is decomposed."""
EIGEN_WORK = 2**35
"""Largest rows x entries^2 x max(entries, 128) that is decomposed: 10 to 30 CPU seconds."""
_MATRIX_ELEMENTS_AT_ONCE = 2**25
"""Elements of all matrices that are decomposed at once: 256 MiB in float64."""

Combine = Callable[[Tensor], Tensor]
"""Takes coefficients c `[P, M, C]` to `sum_k c_pmk v_pk` `[P, M, C]`, all float64."""


class OutputFactor(Protocol):
    """How a loss's row Hessians are split into rank-one terms."""

    def bytes_per_row(self, entries: int) -> int:
        """Bytes that `bind` holds for each row.

        Args:
            entries: Entries of a row, C.

        Returns:
            Bytes.
        """
        ...

    def weights(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """Weights of all terms.

        Args:
            rows: Outputs `[P, C]`.
            targets: Of the same rows, where the loss needs them.
            sample_shape: Shape of the outputs of one sample.

        Returns:
            `[P, C]` in float64; negative where the loss is not convex; terms that rounding cannot tell from zero are 0.
        """
        ...

    def bind(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Combine:
        """Sums of the terms' vectors, for chosen rows.

        Args:
            rows: Outputs `[P, C]`.
            targets: Of the same rows, where the loss needs them.
            sample_shape: Shape of the outputs of one sample.

        Returns:
            What takes coefficients to sums of vectors.
        """
        ...


class EigenFactor:
    """Eigenvalues and eigenvectors of every row's Hessian: the fewest terms. Cost: `O(P C^3)`.

    A symmetric eigen-solver errs by about `C * eps * max |lambda|` a matrix, so that nothing below this is known.

    Args:
        loss: Whose Hessian.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def bytes_per_row(self, entries: int) -> int:
        """See `OutputFactor`.

        Args:
            entries: C.

        Returns:
            Bytes.
        """
        return 8 * entries**2

    def weights(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """Eigenvalues, ascending in each row. See `OutputFactor`.

        Args:
            rows: `[P, C]`.
            targets: Of the same rows.
            sample_shape: Shape of the outputs of one sample.

        Returns:
            `[P, C]` in float64.
        """
        parts = [torch.linalg.eigvalsh(hessians) for hessians in self._hessians(rows, targets, sample_shape)]
        values = torch.cat(parts)
        noise = rows.shape[1] * torch.finfo(torch.float64).eps * values.abs().amax(1, keepdim=True)
        return torch.where(values.abs() > noise, values, 0.0)

    def bind(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Combine:
        """See `OutputFactor`.

        Args:
            rows: `[P, C]`.
            targets: Of the same rows.
            sample_shape: Shape of the outputs of one sample.

        Returns:
            Multiplication with the matrices of eigenvectors.
        """
        parts = [torch.linalg.eigh(hessians).eigenvectors for hessians in self._hessians(rows, targets, sample_shape)]
        vectors = torch.cat(parts)
        return lambda coefficients: coefficients @ vectors.mT

    def _hessians(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Iterator[Tensor]:
        size = max(1, _MATRIX_ELEMENTS_AT_ONCE // rows.shape[1] ** 2)
        for begin in range(0, len(rows), size):
            own = slice(begin, begin + size)
            hessians = self._loss.row_hessians(rows[own], None if targets is None else targets[own], sample_shape)
            if not hessians.isfinite().all():
                raise InputError(
                    f"loss {self._loss.name!r}: its second derivative holds NaN or infinity; check the loss at the "
                    f"network's outputs"
                )
            yield hessians


class SoftmaxColumns:
    """One term for each class, `p_k (e_k - p)(e_k - p)^T`: cross-entropy with many classes. Cost: `O(P C)`."""

    def bytes_per_row(self, entries: int) -> int:
        """See `OutputFactor`.

        Args:
            entries: C.

        Returns:
            Bytes.
        """
        return 8 * entries

    def weights(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """See `OutputFactor`.

        Args:
            rows: Logits `[P, C]`.
            targets: Not used.
            sample_shape: Not used.

        Returns:
            `[P, C]` in float64.
        """
        return softmax_column_weights(rows)

    def bind(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Combine:
        """See `OutputFactor`.

        Args:
            rows: Logits `[P, C]`.
            targets: Not used.
            sample_shape: Not used.

        Returns:
            Sums of the columns.
        """
        return lambda coefficients: combine_softmax_columns(rows, coefficients)


class ScaledIdentity:
    """The Hessian `2 / C` times the identity of the squared error: its terms are the axes. Cost: `O(P C)`."""

    def bytes_per_row(self, entries: int) -> int:
        """See `OutputFactor`.

        Args:
            entries: C.

        Returns:
            Bytes.
        """
        return 0

    def weights(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """See `OutputFactor`.

        Args:
            rows: `[P, C]`.
            targets: Not used.
            sample_shape: Not used.

        Returns:
            `[P, C]` in float64.
        """
        return torch.full(rows.shape, 2 / rows.shape[1], dtype=torch.float64)

    def bind(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Combine:
        """See `OutputFactor`.

        Args:
            rows: Not used.
            targets: Not used.
            sample_shape: Not used.

        Returns:
            What gives the coefficients themselves.
        """
        return lambda coefficients: coefficients


def output_factor(loss: Loss, rows: int, entries: int) -> OutputFactor:
    """The cheapest exact factor of a loss's Hessian that is affordable.

    Args:
        loss: The loss.
        rows: Rows of all data, P.
        entries: Entries of a row, C.

    Returns:
        Axes for the squared error, eigenvectors where `EIGEN_CLASSES` and `EIGEN_WORK` allow, else softmax columns.

    Raises:
        InputError: The cross-entropy has one class, or another loss has too many outputs.
    """
    if isinstance(loss, SquaredError):
        return ScaledIdentity()
    if isinstance(loss, CrossEntropy) and entries < 2:
        raise InputError(
            "curvature: the network has one output class, and the cross-entropy of one class is always 0: it has no "
            "curvature; use another loss, such as squared-error"
        )
    if entries <= EIGEN_CLASSES and rows * entries**2 * max(entries, 128) <= EIGEN_WORK:
        return EigenFactor(loss)
    if isinstance(loss, CrossEntropy):
        return SoftmaxColumns()
    raise InputError(
        f"loss {loss.name!r}: has {rows} Hessians in {entries} outputs, allowed to be decomposed are "
        f"{EIGEN_CLASSES} outputs and {EIGEN_WORK:.1e} for rows x outputs^2 x max(outputs, 128); use fewer samples or "
        f"estimate with Hutchinson's method"
    )
