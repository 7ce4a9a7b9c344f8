"""Second-order Taylor terms of the cross-entropy along given directions of the weights, from how the logits move.

With `z = f(x, w)`, `p = softmax(z)` and `J = dz/dw`, the loss at `w + d` is, to second order in the logits,

    L(w + d) - L(w)  ~  mean_x (p - onehot)^T J d  +  1/2 mean_x (J d)^T (diag(p) - p p^T) (J d).

The second term is `1/2 d^T G d` with the Gauss-Newton matrix G; only `J d`, the motion of the logits, is needed for
both, by forward-mode differentiation (no backward pass, no matrix) or from gradients of single logits.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.errors import InputError

StepsToLogits = Callable[[Tensor], Tensor]
"""Logits `[N, ..., C]` after a step along each of W directions, whose sizes are `[W]`."""


def logit_directions(logits_after: StepsToLogits, count: int, like: Tensor) -> Tensor:
    """How fast the logits move along each direction: `J d`, by forward-mode differentiation.

    All directions share one pass over the network itself: the cost is that of 1 + count forward passes.

    Args:
        logits_after: Logits after steps `[count]` along the directions; differentiable by `torch.func.jacfwd`.
        count: Number of directions W.
        like: Gives the type and device of the steps.

    Returns:
        `[W, N, ..., C]`.
    """
    steps = torch.zeros(count, dtype=like.dtype, device=like.device)
    moved: Tensor = torch.func.jacfwd(logits_after)(steps)
    return moved.movedim(-1, 0)


def logit_directions_by_gradients(
    logits: Tensor, results: Mapping[str, Tensor], motions: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """How fast the logits move along directions of many layers at once, by one backward pass for each logit.

    A layer's result is linear in its weight, so that a direction d of its weight moves its result by a known amount
    `layer(x; d)`; then `dz_c = <dz_c / d result, layer(x; d)>` sample by sample. The number of layers does not matter.

    Args:
        logits: `[N, ..., C]`, differentiable in `results`; the graph of gradients is kept.
        results: What layers put out, `[N, ...]`, by name; samples must not interact after them.
        motions: By the same names, how W directions move the results: `[W, N, ...]`.

    Returns:
        `[W, N, ..., C]` by name.
    """
    columns = logits.flatten(1)
    found: dict[str, list[Tensor]] = {name: [] for name in results}
    for column in range(columns.shape[1]):
        gradients = torch.autograd.grad(
            columns[:, column].sum(), list(results.values()), retain_graph=True, materialize_grads=True
        )
        for name, gradient in zip(results, gradients, strict=True):
            moved = motions[name].flatten(2)
            found[name].append(torch.einsum("wnm,nm->wn", moved, gradient.flatten(1)))
    return {name: torch.stack(parts, -1).reshape(len(motions[name]), *logits.shape) for name, parts in found.items()}


def gauss_newton_form(logits: Tensor, directions: Tensor) -> Tensor:
    """`1/2 (J d)^T (diag(p) - p p^T) (J d)` of each sample, mean over positions, in nats.

    It is computed as `1/2 sum_c p_c (dz_c - mean_p dz)^2`, which is never negative and does not cancel.

    Args:
        logits: `[N, ..., C]`.
        directions: `J d`, `[W, N, ..., C]`.

    Returns:
        `[W, N]`, float64.
    """
    p = logits.double().softmax(-1)
    moved = directions.double()
    mean = (p * moved).sum(-1, keepdim=True)
    return _over_positions((p * (moved - mean).square()).sum(-1)) / 2


def gradient_form(logits: Tensor, labels: Tensor, directions: Tensor) -> Tensor:
    """`(p - onehot)^T J d` of each sample, mean over positions, in nats: the first-order term.

    Args:
        logits: `[N, ..., C]`.
        labels: Class indices `[N, ...]`.
        directions: `J d`, `[W, N, ..., C]`.

    Returns:
        `[W, N]`, float64.

    Raises:
        InputError: Labels do not fit the logits.
    """
    classes = logits.shape[-1]
    if labels.shape != logits.shape[:-1]:
        raise InputError(
            f"labels: got shape {tuple(labels.shape)} for logits {tuple(logits.shape)}, allowed is one class index "
            f"for each row of logits; give labels of that shape"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(
            f"labels: got {int(labels.min())} to {int(labels.max())}, allowed are 0 to {classes - 1}; "
            f"give class indices of the network's outputs"
        )
    residual = logits.double().softmax(-1) - F.one_hot(labels, classes)
    return _over_positions((residual * directions.double()).sum(-1))


def _over_positions(values: Tensor) -> Tensor:
    """Mean of `[W, N, ...]` over all axes but the first two."""
    return values.flatten(2).mean(2) if values.dim() > 2 else values
