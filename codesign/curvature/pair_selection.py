"""Which (row of logits, eigenvector) pairs are run, and how their squared gradient norms become an unbiased sum."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PairSelection:
    """Pairs that carry the curvature, and a random sample of the rest.

    Attributes:
        rows: Row of the logits of each pair to run, `[K]`, ascending.
        ranks: Which eigenvector of that row, `[K]`, in ascending order of eigenvalues.
        eigenvalues: `[K]`.
        head: Which of the pairs are summed as they are, bool `[K]`.
        draws: Positions among the pairs of those drawn from the tail, `[D]`, with repetition.
        tail_eigenvalue_sum: Sum of the eigenvalues of all pairs of the tail.
    """

    rows: Tensor
    ranks: Tensor
    eigenvalues: Tensor
    head: Tensor
    draws: Tensor
    tail_eigenvalue_sum: float

    def sum_over_pairs(self, squared_norms: Tensor) -> tuple[float, float]:
        """Estimates `sum_k lambda_k s_k` over all pairs, run or not.

        The head is summed. The tail's D draws are taken with probability `lambda_k / sum(lambda)`, so that each
        `sum(lambda) s_k` is an unbiased estimate of the tail's sum; their mean is used.

        Args:
            squared_norms: `s_k` of the pairs that were run, float64 `[K]`.

        Returns:
            The estimate and its standard error (0 if nothing was drawn).
        """
        total = float((self.eigenvalues * squared_norms)[self.head].sum())
        if not len(self.draws):
            return total, 0.0
        estimates = self.tail_eigenvalue_sum * squared_norms[self.draws]
        return total + float(estimates.mean()), float(estimates.std()) / math.sqrt(len(self.draws))


def select_pairs(eigenvalues: Tensor, drop: float, tail_draws: int, generator: torch.Generator) -> PairSelection:
    """Takes the largest eigenvalues until at most a share `drop` of their sum is left, and draws from what is left.

    Args:
        eigenvalues: `[P, C]`, float64; zeros are never run.
        drop: Share of the sum of eigenvalues that the tail may hold, in [0, 1); 0 runs every pair.
        tail_draws: Draws from the tail, at least 2; a tail of no more pairs than that is run whole.
        generator: Source of the draws.

    Returns:
        The pairs, grouped by row.
    """
    flat = eigenvalues.flatten()
    ordered, order = flat.sort(descending=True, stable=True)
    positive = int((ordered > 0).sum())
    kept = positive
    if drop > 0 and positive:
        remaining = ordered[:positive].flip(0).cumsum(0).flip(0)  # of the k-th and all smaller ones
        kept = int((remaining > drop * remaining[0]).sum())
    if positive - kept <= tail_draws:
        kept = positive
    tail = order[kept:positive]
    drawn = tail[:0]
    if len(tail):
        drawn = tail[torch.multinomial(flat[tail].cpu(), tail_draws, replacement=True, generator=generator)]
    run = torch.unique(torch.cat([order[:kept], drawn]))
    head = torch.isin(run, order[:kept])
    return PairSelection(
        rows=run // eigenvalues.shape[1],
        ranks=run % eigenvalues.shape[1],
        eigenvalues=flat[run],
        head=head,
        draws=torch.searchsorted(run, drawn),
        tail_eigenvalue_sum=float(flat[tail].sum()),
    )
