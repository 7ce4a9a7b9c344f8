"""The cross-entropy's Hessian in the logits, and a factor of it that needs no eigen-solver.

For logits `z` and `p = softmax(z)` the cross-entropy has the Hessian `diag(p) - p p^T`, whatever the label. It is the
Laplacian of a graph with edge weights `p_i p_j`: positive semi-definite, and zero on the constant vector. It is also
the covariance of a label drawn from `p`: `sum_k p_k (e_k - p)(e_k - p)^T`.
"""

import torch
from torch import Tensor


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


def softmax_column_weights(logits: Tensor) -> Tensor:
    """Weights `w_k = p_k ||e_k - p||^2` of the rank-one terms of `diag(p) - p p^T = sum_k p_k (e_k - p)(e_k - p)^T`.

    Cost: `O(P C)`. Accurate also where one probability is almost 1.

    Args:
        logits: `[P, C]`.

    Returns:
        `[P, C]` in float64; each row sums to the trace of its Hessian.
    """
    probabilities = logits.double().softmax(-1)
    return probabilities * _squared_lengths(probabilities)


def combine_softmax_columns(logits: Tensor, coefficients: Tensor) -> Tensor:
    """Sums `sum_k c_k v_k` of the unit vectors `v_k = (e_k - p) / ||e_k - p||`; `O(M C)` a row.

    With `c_k = r_k sqrt(w_k)` and random signs r this is `diag(sqrt p) r - p (sqrt(p) . r)`, whose second moment is the
    Hessian.

    Args:
        logits: `[P, C]`.
        coefficients: `[P, M, C]`, float64.

    Returns:
        `[P, M, C]` in float64.
    """
    probabilities = logits.double().softmax(-1)
    lengths = _squared_lengths(probabilities).sqrt().unsqueeze(1)
    scaled = torch.where(lengths > 0, coefficients / lengths, 0.0)
    p = probabilities.unsqueeze(1)
    largest = probabilities.argmax(-1, keepdim=True).unsqueeze(1).expand(-1, coefficients.shape[1], -1)
    of_largest, p_largest = scaled.gather(2, largest), p.expand_as(scaled).gather(2, largest)
    # At the most likely class, c_k - p_k sum(c) cancels where p_k is almost 1: it is formed from the others.
    others = scaled.scatter(2, largest, 0.0).sum(2, keepdim=True)
    without = p.expand_as(scaled).scatter(2, largest, 0.0).sum(2, keepdim=True)
    return (scaled - p * (others + of_largest)).scatter(2, largest, of_largest * without - p_largest * others)


def _squared_lengths(p: Tensor) -> Tensor:
    """`||e_k - p||^2 = (sum_(j != k) p_j)^2 + sum_(j != k) p_j^2`; what is left beside the largest is summed."""
    largest = p.argmax(-1, keepdim=True)
    rest = p.scatter(-1, largest, 0.0)
    without = (1 - p).scatter(-1, largest, rest.sum(-1, keepdim=True))
    squares = (p.square().sum(-1, keepdim=True) - p.square()).scatter(-1, largest, rest.square().sum(-1, keepdim=True))
    return without.square() + squares
