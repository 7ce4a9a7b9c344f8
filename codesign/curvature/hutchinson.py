"""Hutchinson's estimate of the traces of per-layer blocks of the true Hessian, with a standard error.

For random `v` with independent entries +-1, `E[v^T H v] = tr(H)`. One probe takes all weights together: with
`h = H v`, the estimate for layer l is `v_l^T h_l = v_l^T H_ll v_l + sum_(m != l) v_l^T H_lm v_m`. The cross terms have
mean zero, so each layer's estimate is unbiased, with variance

    2 (||H_ll||_F^2 - sum_i H_ll,ii^2) + sum_(m != l) ||H_lm||_F^2.

One product H v serves all L layers, where probing each layer alone (HAWQ-V2) takes L products and has no cross terms.
For a positive semi-definite H, `||H_lm||_F^2 <= ||H_ll||_F ||H_mm||_F`: summed over layers the joint variance is at
most `(2 + L) sum_l ||H_ll||_F^2` against `2 L sum_l ||H_ll||_F^2` for single layers at the same cost, so joint probes
are the better choice from two layers on (without the diagonal's part of the variance).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.curvature.tapped_network import BlockTrace, WeightedForward
from codesign.errors import InputError
from codesign.progress import Progress, Silent


@dataclass(frozen=True)
class HutchinsonOptions:
    """When to stop, and how much to run at once.

    Attributes:
        max_probes: Most random vectors.
        min_probes: Fewest, so that the standard error means something.
        relative_error: Stops once every layer's standard error is below this share of its trace. Stopping on the
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

    Cost: for each `probes_at_once` probes one forward and one backward with a graph, and for each probe one backward
    through that graph, over all data.

    Args:
        forward: The network as a function of the weights.
        weights: Where the Hessian is taken, by name; each gives one block.
        inputs: `[N, ...]`.
        labels: Class indices `[N]`, or `[N, ...]` for logits `[N, ..., C]`.
        options: When to stop.
        seed: Of the probes.
        progress: Told about each batch of probes.

    Returns:
        One block for each weight, with the standard error over probes.
    """
    options = options or HutchinsonOptions()
    progress = progress or Silent()
    generator = torch.Generator().manual_seed(seed)
    products = _Products(forward, weights, inputs, labels, options.samples_at_once)
    values = torch.empty(0, len(weights), dtype=torch.float64)
    progress.start("Hessian traces by random probes", options.max_probes)
    try:
        while len(values) < options.max_probes:
            count = min(options.probes_at_once, options.max_probes - len(values))
            probes = [_rademacher(weight, count, generator) for weight in weights.values()]
            values = torch.cat([values, products.quadratic_forms(probes)])
            progress.advance(count)
            if len(values) >= options.min_probes and _is_close_enough(values, options.relative_error):
                break
    finally:
        progress.finish()
    means, errors = values.mean(0).tolist(), _standard_errors(values).tolist()
    return {
        name: BlockTrace(mean, error, draws=len(values))
        for name, mean, error in zip(weights, means, errors, strict=True)
    }


class _Products:
    """Quadratic forms `v_l^T (H v)_l` of the mean cross-entropy over all data."""

    def __init__(
        self, forward: WeightedForward, weights: Mapping[str, Tensor], inputs: Tensor, labels: Tensor, at_once: int
    ) -> None:
        self._forward = forward
        self._weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        self._inputs = inputs
        self._labels = labels
        self._at_once = at_once
        self._batched = True

    def quadratic_forms(self, probes: list[Tensor]) -> Tensor:
        """`v_l^T (H v)_l` for B probes `[B, *weight]` a weight; `[B, L]` in float64."""
        total = torch.zeros(len(probes[0]), len(probes), dtype=torch.float64)
        for inputs, labels in zip(
            torch.split(self._inputs, self._at_once), torch.split(self._labels, self._at_once), strict=True
        ):
            loss = self._loss(inputs, labels)
            gradients = torch.autograd.grad(loss, list(self._weights.values()), create_graph=True, allow_unused=True)
            total += self._products(gradients, probes)
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

    def _products(self, gradients: tuple[Tensor | None, ...], probes: list[Tensor]) -> Tensor:
        used = [i for i, gradient in enumerate(gradients) if gradient is not None and gradient.requires_grad]
        total = torch.zeros(len(probes[0]), len(probes), dtype=torch.float64)
        if not used:
            return total
        outputs = [gradient for i in used if (gradient := gradients[i]) is not None]
        weights = [list(self._weights.values())[i] for i in used]
        vectors = [probes[i] for i in used]
        for column, vector, product in zip(used, vectors, self._backward(outputs, weights, vectors), strict=True):
            if product is not None:
                total[:, column] = (vector * product).flatten(1).sum(1, dtype=torch.float64).cpu()
        return total

    def _backward(self, outputs: list[Tensor], weights: list[Tensor], vectors: list[Tensor]) -> list[Tensor | None]:
        """H v for all probes at once where torch can batch every operation, else one after another."""
        if self._batched:
            try:
                return list(
                    torch.autograd.grad(
                        outputs, weights, vectors, retain_graph=True, is_grads_batched=True, allow_unused=True
                    )
                )
            except RuntimeError:  # an operation has no batched form; a real fault shows again below
                self._batched = False
        single = [
            torch.autograd.grad(outputs, weights, [v[i] for v in vectors], retain_graph=True, allow_unused=True)
            for i in range(len(vectors[0]))
        ]
        return [None if products[0] is None else torch.stack(products) for products in zip(*single, strict=True)]


def _rademacher(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, (count, *weight.shape), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(weight)


def _standard_errors(values: Tensor) -> Tensor:
    return values.std(0) / math.sqrt(len(values))


def _is_close_enough(values: Tensor, relative_error: float) -> bool:
    return bool((_standard_errors(values) <= relative_error * values.mean(0).abs()).all())
