"""Eigen-decomposition of the cross-entropy's Hessian in the logits, one small matrix a sample.

For logits `z` and `p = softmax(z)` the cross-entropy has the Hessian `diag(p) - p p^T`, whatever the label. It is the
Laplacian of a graph with edge weights `p_i p_j`: positive semi-definite, and zero on the constant vector.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from codesign.errors import InputError

_MATRIX_ELEMENTS_AT_ONCE = 2**25
"""Elements of all matrices that are decomposed at once: 256 MiB in float64."""


def softmax_hessian(logits: Tensor) -> Tensor:
    """The Hessian `diag(p) - p p^T` of every row, accurate in every entry also where one probability is almost 1.

    The diagonal is formed as `p_i * sum_(j != i) p_j`, for `p_i - p_i^2` cancels for confident rows.

    Args:
        logits: `[P, C]`.

    Returns:
        Symmetric matrices `[P, C, C]` in float64.
    """
    probabilities = logits.double().softmax(-1)
    classes = probabilities.shape[-1]
    others = probabilities @ (1 - torch.eye(classes, dtype=torch.float64, device=logits.device))
    hessian = -probabilities.unsqueeze(-1) * probabilities.unsqueeze(-2)
    return hessian.diagonal_scatter(probabilities * others, dim1=-2, dim2=-1)


def softmax_hessian_eigenvalues(logits: Tensor) -> Tensor:
    """Eigenvalues of every row's Hessian; those that rounding cannot tell from zero are set to zero.

    A symmetric eigen-solver errs by about `C * eps * lambda_max` a matrix, so that nothing below this is known.
    Cost: `O(P C^3)`, no pass over the network.

    Args:
        logits: `[P, C]` with `C >= 2`.

    Returns:
        `[P, C]` in float64, ascending in each row, not negative.

    Raises:
        InputError: The logits are not `[P, C]` with two classes or more, or hold NaN or infinity.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InputError(f"logits: got shape {tuple(logits.shape)}, allowed is [rows, classes >= 2]; flatten positions")
    if not torch.isfinite(logits).all():
        rows = torch.isfinite(logits).all(1).logical_not().nonzero().flatten()[:5].tolist()
        raise InputError(f"logits: NaN or infinity in rows {rows}; check the weights and the data")
    parts = [torch.linalg.eigvalsh(softmax_hessian(rows)) for rows in _blocks(logits)]
    eigenvalues = torch.cat(parts)
    noise = logits.shape[1] * torch.finfo(torch.float64).eps * eigenvalues[:, -1:]
    return torch.where(eigenvalues > noise, eigenvalues, 0.0)


def softmax_hessian_eigenvectors(logits: Tensor, rows: Tensor, ranks: Tensor) -> Tensor:
    """Chosen eigenvectors, found again from the logits so that not all `P x C x C` numbers are ever held.

    Args:
        logits: `[P, C]`.
        rows: Which row's matrix, `[K]`, int64; equal rows stand side by side.
        ranks: Which of its eigenvalues in ascending order, `[K]`, int64.

    Returns:
        Unit vectors `[K, C]` in float64.
    """
    distinct, inverse = torch.unique_consecutive(rows, return_inverse=True)
    vectors = torch.cat([torch.linalg.eigh(softmax_hessian(block)).eigenvectors for block in _blocks(logits[distinct])])
    return vectors.mT[inverse, ranks]


def _blocks(logits: Tensor) -> Iterator[Tensor]:
    size = max(1, _MATRIX_ELEMENTS_AT_ONCE // logits.shape[1] ** 2)
    yield from torch.split(logits, size)
