"""Hutchinson's estimate of the traces of per-layer blocks of the true Hessian, with a standard error.

For random `v` with independent entries +-1, `E[v^T H v] = tr(H)`, with variance `2 (||H||_F^2 - sum_i H_ii^2)` for a
symmetric H. Each weight is probed alone: `v^T H_ll v` from one product with its own block `H_ll`.

Probing all weights with one product is unbiased too, `E[v_l^T (H v)_l] = tr(H_ll)`, for the cross terms
`v_l^T H_lm v_m` have mean zero; but they add `sum_(m != l) ||H_lm||_F^2` to the variance, which swamps layers of small
trace. All single products share the gradient graph and each runs through the layers after its own only, so that a
product for every one of 8 to 19 layers was measured to cost 2 to 3.7 joint products, at a median of 3.5 to 22 times
less variance; and each weight stops as soon as it is known well enough.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.curvature.tapped_network import BlockTrace, WeightedForward
from codesign.errors import InputError
from codesign.files import digest_of
from codesign.progress import Progress, Silent


@dataclass(frozen=True)
class HutchinsonOptions:
    """When to stop, and how much to run at once.

    Attributes:
        max_probes: Most random vectors for one weight.
        min_probes: Fewest, so that the standard error means something.
        relative_error: A weight is done once its standard error is at most this share of its trace. Stopping on the
            estimated error biases the result slightly, by much less than that error.
        probes_at_once: Vectors that share one gradient graph and one batched backward pass.
        samples_at_once: Samples in one gradient graph; changes memory and time, not the result.
    """

    max_probes: int = 256
    min_probes: int = 16
    relative_error: float = 0.05
    probes_at_once: int = 4
    samples_at_once: int = 64

    def __post_init__(self) -> None:
        if not 2 <= self.min_probes <= self.max_probes:
            raise InputError(
                f"probes: got at least {self.min_probes} and at most {self.max_probes}, allowed is "
                f"2 <= least <= most; a standard error needs two"
            )
        if not self.relative_error >= 0:
            raise InputError(f"relative error: got {self.relative_error}, allowed is 0 or more; try 0.05")


def hutchinson_traces(
    forward: WeightedForward,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    options: HutchinsonOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Mapping[str, BlockTrace]:
    """Traces of the diagonal blocks of the Hessian of the mean cross-entropy, which can be negative.

    Cost: for each `probes_at_once` probes one forward and one backward with a graph over all data, and for each probe
    and weight a backward through the part of that graph behind the weight. The draws for a weight depend on the seed
    and its name only.

    Args:
        forward: The network as a function of the weights.
        weights: Where the Hessian is taken, by name; each gives one block.
        inputs: `[N, ...]`.
        labels: Class indices `[N]`, or `[N, ...]` for logits `[N, ..., C]`.
        options: When to stop.
        seed: Of the probes.
        progress: Told about probes, those that are not needed included.

    Returns:
        One block for each weight, with the standard error over probes.

    Raises:
        InputError: There is no sample, labels do not fit the samples or the logits, or a value is NaN.
    """
    if not len(inputs) or len(inputs) != len(labels):
        raise InputError(f"curvature: got {len(inputs)} samples and {len(labels)} labels; give as many, at least one")
    options = options or HutchinsonOptions()
    progress = progress or Silent()
    products = _Products(forward, weights, inputs, labels, options.samples_at_once)
    draws = {name: torch.Generator().manual_seed(int(digest_of(seed, name)[:15], 16)) for name in weights}
    values = {name: torch.empty(0, dtype=torch.float64) for name in weights}
    active = list(weights)
    progress.start("Hessian traces by random probes", options.max_probes * len(weights))
    try:
        while active:
            count = min(options.probes_at_once, options.max_probes - len(values[active[0]]))
            probes = {name: _rademacher(weights[name], count, draws[name]) for name in active}
            for name, found in products.quadratic_forms(probes).items():
                values[name] = torch.cat([values[name], found])
                progress.advance(count)
                if _is_known(values[name], options):
                    active.remove(name)
                    progress.advance(options.max_probes - len(values[name]))
    finally:
        progress.finish()
    return {
        name: BlockTrace(float(found.mean()), _standard_error(found), draws=len(found))
        for name, found in values.items()
    }


class _Products:
    """Quadratic forms `v^T H_ll v` of the mean cross-entropy over all data, one weight l at a time."""

    def __init__(
        self, forward: WeightedForward, weights: Mapping[str, Tensor], inputs: Tensor, labels: Tensor, at_once: int
    ) -> None:
        self._forward = forward
        self._weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        self._inputs = inputs
        self._labels = labels
        self._at_once = at_once
        self._batched = True

    def quadratic_forms(self, probes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`v^T H_ll v` for B probes `[B, *weight]` of each weight; `[B]` in float64 for each."""
        total = {name: torch.zeros(len(vectors), dtype=torch.float64) for name, vectors in probes.items()}
        for inputs, labels in zip(
            torch.split(self._inputs, self._at_once), torch.split(self._labels, self._at_once), strict=True
        ):
            loss = self._loss(inputs, labels)
            own = [self._weights[name] for name in probes]
            gradients = torch.autograd.grad(loss, own, create_graph=True, allow_unused=True)
            for (name, vectors), weight, gradient in zip(probes.items(), own, gradients, strict=True):
                product = self._product(gradient, weight, vectors)
                if product is not None:
                    total[name] += (vectors * product).flatten(1).sum(1, dtype=torch.float64).cpu()
        return total

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """This part's share of the mean over all rows of logits."""
        logits = self._forward(inputs, self._weights)
        if labels.shape != logits.shape[:-1]:
            raise InputError(
                f"labels: got shape {tuple(labels.shape)} for logits {tuple(logits.shape)}, allowed is one class index "
                f"for each row of logits; give labels of that shape"
            )
        classes = logits.shape[-1]
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise InputError(
                f"labels: got {int(labels.min())} to {int(labels.max())}, allowed are 0 to {classes - 1}; "
                f"give class indices of the network's outputs"
            )
        total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
        if not torch.isfinite(total):
            raise InputError("curvature: the loss is NaN or infinite; check the weights and the data")
        return total / self._labels.numel()

    def _product(self, gradient: Tensor | None, weight: Tensor, vectors: Tensor) -> Tensor | None:
        """H v `[B, *weight]`, all at once where torch can batch it; None where the gradient is constant."""
        if gradient is None or not gradient.requires_grad:
            return None
        if self._batched:
            try:
                return torch.autograd.grad(
                    gradient, weight, vectors, retain_graph=True, is_grads_batched=True, allow_unused=True
                )[0]
            except RuntimeError:  # an operation has no batched form; a real fault shows again below
                self._batched = False
        single = [torch.autograd.grad(gradient, weight, v, retain_graph=True, allow_unused=True)[0] for v in vectors]
        return None if single[0] is None else torch.stack(single)


def _rademacher(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, (count, *weight.shape), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(weight)


def _standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))


def _is_known(values: Tensor, options: HutchinsonOptions) -> bool:
    if len(values) >= options.max_probes:
        return True
    enough = len(values) >= options.min_probes
    return enough and _standard_error(values) <= options.relative_error * abs(float(values.mean()))
