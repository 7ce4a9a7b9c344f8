"""Which gradients are run: the pairs that carry the curvature as they are, the rest by random combinations.

A pair is one rank-one term of one row's output Hessian (`output_factor`). The heaviest pairs are the head: each is run.
All others are the tail, which is estimated from draws. A draw takes one sample n and one sign s of weight with a
probability that is proportional to `t_ns`, the sum of the |weights| of its tail pairs of that sign, and runs one
gradient for all of them: from the seed `sum_k r_k sqrt(|w_k| / t_ns) v_k` with random signs r. With `T = sum t_ns`,
`s T ||gradient||^2` is an unbiased estimate of the tail's `sum_k w_k ||J^T v_k||^2`. For one row a sample its variance
is that of drawing single pairs (measured: within 10 %); for many rows a sample one draw sees all of them at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seeds:
    """Gradients to run, K of them.

    Attributes:
        samples: Whose outputs each starts from, int64 `[K]`.
        columns: Which pair of that sample, row by row, int64 `[K]`; -1 for a draw from the tail.
        signs: Sign of the pair's weight, or of the drawn part, `[K]`, +1 or -1.
        factors: What the squared norm of the gradient from the unit-length seed (a draw's: of expected square 1) is
            multiplied with, float64 `[K]`, not negative.
        randomness: Seed of a draw's random signs, int64 `[K]`; 0 for pairs of the head.
    """

    samples: Tensor
    columns: Tensor
    signs: Tensor
    factors: Tensor
    randomness: Tensor

    def __len__(self) -> int:
        return len(self.samples)

    def joined(self, other: "Seeds") -> "Seeds":
        """These and then others.

        Args:
            other: What follows.

        Returns:
            All.
        """
        return Seeds(
            torch.cat([self.samples, other.samples]),
            torch.cat([self.columns, other.columns]),
            torch.cat([self.signs, other.signs]),
            torch.cat([self.factors, other.factors]),
            torch.cat([self.randomness, other.randomness]),
        )


@dataclass(frozen=True)
class PairSelection:
    """The head, and what is known about the tail.

    Attributes:
        head: Pairs to run as they are, by sample and then by pair.
        tail: Weights with those of the head set to 0, float64 `[N, R * C]`; None where weights are not kept.
        tail_sums: Sums of the tail's |weights| for each sample, float64 `[N, 2]`: of positive, of negative weights.
    """

    head: Seeds
    tail: Tensor | None
    tail_sums: Tensor

    @property
    def has_tail(self) -> bool:
        """Whether anything is left to draw from."""
        return bool((self.tail_sums > 0).any())

    def draw(self, count: int, generator: torch.Generator) -> Seeds:
        """Draws from the tail.

        Args:
            count: How many.
            generator: Source of the draws; the same state gives the same draws whatever else is run.

        Returns:
            `count` seeds; the mean over them of `sign * factor * squared norm` estimates the tail's sum.
        """
        sums = self.tail_sums.flatten()
        reached = sums.cumsum(0)
        at = torch.rand(count, dtype=torch.float64, generator=generator) * reached[-1]
        last = int(sums.nonzero()[-1])  # rounding may put a number at the very end
        units = torch.searchsorted(reached, at, right=True).clamp_max(last)
        return Seeds(
            samples=units // 2,
            columns=torch.full((count,), -1),
            signs=1 - 2 * (units % 2),
            factors=reached[-1].expand(count),
            randomness=torch.randint(1, 2**62, (count,), generator=generator),
        )


def select_pairs(weights: Tensor, drop: float, tail_draws: int, max_pairs: int | None = None) -> PairSelection:
    """Takes the heaviest pairs until at most a share `drop` of the sum of |weights| is left.

    Args:
        weights: `[N, R * C]`, float64; zeros are never run.
        drop: Share of the sum of |weights| that the tail may hold, in [0, 1); 0 runs every pair.
        tail_draws: A tail of no more pairs than that is run whole, unless `max_pairs` forbids it.
        max_pairs: Most pairs in the head; None for as many as `drop` asks for.

    Returns:
        The selection.
    """
    flat = weights.flatten()
    ordered, order = flat.abs().sort(descending=True, stable=True)
    nonzero = int((ordered > 0).sum())
    kept = nonzero
    if drop > 0 and nonzero:
        remaining = ordered[:nonzero].flip(0).cumsum(0).flip(0)  # of the k-th and all smaller ones
        kept = int((remaining > drop * remaining[0]).sum())
    if nonzero - kept <= tail_draws:
        kept = nonzero
    if max_pairs is not None:
        kept = min(kept, max_pairs)
    pairs = order[:kept].sort().values
    tail = flat.index_fill(0, pairs, 0.0).view_as(weights)
    chosen = flat[pairs]
    head = Seeds(
        samples=pairs // weights.shape[1],
        columns=pairs % weights.shape[1],
        signs=chosen.sign().long(),
        factors=chosen.abs(),
        randomness=torch.zeros_like(pairs),
    )
    return PairSelection(head, tail, part_sums(tail))


def only_draws(sums: Tensor) -> PairSelection:
    """A selection without a head, for outputs whose weights are not kept.

    Args:
        sums: `[N, 2]`, as `part_sums`.

    Returns:
        The selection.
    """
    none = torch.zeros(0, dtype=torch.int64)
    return PairSelection(Seeds(none, none, none, none.double(), none), None, sums)


def part_sums(weights: Tensor) -> Tensor:
    """Sums of positive and of negative |weights| of each sample.

    Args:
        weights: `[N, R * C]`, float64.

    Returns:
        `[N, 2]`.
    """
    return torch.stack([weights.clamp_min(0).sum(1), (-weights).clamp_min(0).sum(1)], 1)


def drawn_coefficients(tail: Tensor, sums: Tensor, sign: int, randomness: int) -> Tensor:
    """Coefficients of one draw's seed: `r_k sqrt(|w_k| / t)` at the tail pairs of one sign.

    Args:
        tail: Weights of one sample's tail pairs, float64 `[R * C]`.
        sums: Of the same sample, `[2]`.
        sign: +1 or -1.
        randomness: Seed of the signs r.

    Returns:
        `[R * C]` in float64.
    """
    generator = torch.Generator().manual_seed(randomness)
    signs = torch.randint(0, 2, tail.shape, generator=generator) * 2 - 1
    part = (sign * tail).clamp_min(0) / sums[0 if sign > 0 else 1]
    return part.sqrt() * signs
