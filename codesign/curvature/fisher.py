"""Diagonal of the Fisher information: mean over samples of squared gradients of the loss of single samples.

The empirical kind takes the labels of the data (FIT, arXiv 2210.08502, and BRECQ, arXiv 2102.05426, use it in place of
the Hessian; it is not the Hessian, not even at a minimum, Kunstner et al., arXiv 1905.12558). The sampled kind draws
labels from the model; its expectation is the diagonal of the Gauss-Newton matrix of the cross-entropy.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from codesign.curvature.loss import CrossEntropy, Loss
from codesign.curvature.tapped_network import WeightedForward
from codesign.data_parallel import Shard
from codesign.errors import InputError, first_line
from codesign.files import digest_of
from codesign.progress import Progress, Silent

FisherKind = Literal["empirical", "sampled"]
"""Whose labels: the data's, or drawn from the model's own probabilities."""

_GRADIENT_BYTES = 2**28
"""Gradients of single samples that are held at once where the caller does not say how many."""

_MOST_SAMPLES = 256
"""Samples at once for small weights, where activations take the memory."""


def fisher_diagonal(
    forward: WeightedForward,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor | None,
    loss: Loss | None = None,
    kind: FisherKind = "empirical",
    seed: int = 0,
    samples_at_once: int | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
    draws: int = 1,
) -> Mapping[str, Tensor]:
    """`1 / N * sum_n (dl_n / dw)^2` for every element of every weight, exactly, where `l_n` is sample n's own loss.

    The loss of a sample is the mean over its R rows (positions). For one row the sampled kind's expectation over labels
    is the diagonal of the Gauss-Newton matrix; for R rows, whose labels are drawn independently, it is `1 / R` of that.

    Gradients of single samples come from `torch.func.vmap` of `torch.func.grad`; where an operation has no batched form
    samples are run one after the other, which gives the same numbers, and `progress` is told so.

    Cost: two forward passes and one backward a draw, over all data. Memory: `samples_at_once` times the weights, and
    the activations of as many samples.

    Args:
        forward: The network as a function of the weights; no sample may see another.
        weights: In which gradients are taken, by name.
        inputs: `[N, ...]`, all samples in every process.
        targets: `[N, ...]`, all of them; not read for the sampled kind.
        loss: By default the cross-entropy, the only one that the sampled kind takes.
        kind: Whose labels.
        seed: Of sampled labels. A sample's labels depend on the seed, its number and its outputs only.
        samples_at_once: By default what keeps the gradients within 256 MiB; changes memory and time, not the result.
        shard: This process's part of the samples.
        progress: Told about samples.
        draws: Labels drawn for each row, for the sampled kind.

    Returns:
        By name, in the shape of the weight, float64, equal in all processes.

    Raises:
        InputError: Samples, targets and loss do not fit, a loss or gradient is NaN or infinite, or samples are mixed.
    """
    loss = loss or CrossEntropy()
    shard = shard or Shard()
    progress = progress or Silent()
    _check(inputs, targets, loss, kind, draws, samples_at_once)
    gradients = _SampleGradients(forward, weights, progress)
    totals = {name: torch.zeros(w.shape, dtype=torch.float64, device=w.device) for name, w in weights.items()}
    own = shard.bounds(len(inputs))
    at_once = samples_at_once or _samples_that_fit(weights)
    progress.start(f"{kind} Fisher diagonal", own.stop - own.start)
    try:
        for begin in range(own.start, own.stop, at_once):
            part = slice(begin, min(begin + at_once, own.stop))
            outputs = gradients.outputs(inputs[part])
            for draw in range(draws if kind == "sampled" else 1):
                if kind == "sampled" or targets is None:
                    labels = _sampled_labels(outputs, part, seed, draw)
                else:
                    labels = targets[part]
                squares = gradients.sum_of_squares(inputs[part], outputs, _output_gradients(loss, outputs, labels))
                for name in totals:
                    totals[name] += squares[name]
            progress.advance(part.stop - part.start)
    finally:
        progress.finish()
    count = len(inputs) * (draws if kind == "sampled" else 1)
    return {name: total / count for name, total in shard.sum_all(totals).items()}


class _SampleGradients:
    """Gradients of single samples, from the gradients of their losses in their outputs (the chain rule).

    The loss itself is thus differentiated outside `vmap`, so that it may check its values.
    """

    def __init__(self, forward: WeightedForward, weights: Mapping[str, Tensor], progress: Progress) -> None:
        self._forward = forward
        self._weights = {name: weight.detach() for name, weight in weights.items()}
        self._progress = progress
        self._batched = True

    def outputs(self, inputs: Tensor) -> Tensor:
        """The network's, `[N, ...]`."""
        with torch.no_grad():
            return self._forward(inputs, self._weights)

    def sum_of_squares(self, inputs: Tensor, outputs: Tensor, output_gradients: Tensor) -> dict[str, Tensor]:
        """Sum over samples of squared gradients, float64, by weight."""
        if self._batched:
            try:
                return self._all_at_once(inputs, outputs, output_gradients)
            except RuntimeError as error:  # an operation has no batched form; a real fault shows again below
                self._batched = False
                self._progress.note(
                    f"Fisher diagonal: samples are run one after the other, because torch cannot batch an operation "
                    f"of the network ({first_line(error)})"
                )
        return self._one_by_one(inputs, outputs, output_gradients)

    def _all_at_once(self, inputs: Tensor, outputs: Tensor, output_gradients: Tensor) -> dict[str, Tensor]:
        def of_sample(weights: dict[str, Tensor], sample: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
            output = self._forward(sample[None], weights)[0]
            return (output * direction).sum(), output

        per_sample = torch.func.vmap(torch.func.grad(of_sample, has_aux=True), in_dims=(None, 0, 0))
        found, alone = per_sample(self._weights, inputs, output_gradients)
        _check_apart(outputs, alone)
        return {name: _squares(name, gradient).sum(0) for name, gradient in found.items()}

    def _one_by_one(self, inputs: Tensor, outputs: Tensor, output_gradients: Tensor) -> dict[str, Tensor]:
        weights = {name: weight.requires_grad_() for name, weight in self._detached().items()}
        totals = {name: torch.zeros(w.shape, dtype=torch.float64, device=w.device) for name, w in weights.items()}
        for sample, output, direction in zip(inputs, outputs, output_gradients, strict=True):
            alone = self._forward(sample[None], weights)
            _check_apart(output[None], alone.detach())
            if not alone.requires_grad:  # no weight has an influence
                continue
            found = torch.autograd.grad(
                (alone[0] * direction).sum(), list(weights.values()), allow_unused=True, materialize_grads=True
            )
            for name, gradient in zip(weights, found, strict=True):
                totals[name] += _squares(name, gradient)
        return totals

    def _detached(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self._weights.items()}


def _output_gradients(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Gradients of each sample's loss in its own outputs, `[N, ...]`; the loss is the mean over the sample's rows."""
    outputs = outputs.detach().requires_grad_()
    total = loss.total(outputs, targets) / loss.as_rows(outputs).shape[1]
    return torch.autograd.grad(total, outputs)[0]


def _sampled_labels(logits: Tensor, samples: slice, seed: int, draw: int) -> Tensor:
    """One label for each row, drawn from its softmax by inverting the distribution function; `[N, ...]`."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    if not torch.isfinite(cumulative).all():
        raise InputError("Fisher diagonal: the logits are NaN or infinite; check the weights and the data")
    uniform = []
    for sample in range(samples.start, samples.stop):
        generator = torch.Generator().manual_seed(int(digest_of(seed, sample, draw)[:15], 16))
        uniform.append(torch.rand(logits.shape[1:-1], generator=generator, dtype=torch.float64))
    levels = torch.stack(uniform).to(logits.device)[..., None] * cumulative[..., -1:]  # the last sum may miss 1
    labels = torch.searchsorted(cumulative, levels, right=True)[..., 0]
    return labels.clamp(max=logits.shape[-1] - 1)


def _squares(name: str, gradient: Tensor) -> Tensor:
    if not torch.isfinite(gradient).all():
        raise InputError(f"Fisher diagonal: a gradient of {name!r} is NaN or infinite; check the weights and the data")
    return gradient.detach().double().square()


def _check_apart(together: Tensor, alone: Tensor) -> None:
    tolerance = torch.finfo(together.dtype).eps ** 0.5
    if together.shape != alone.shape or bool((together - alone).abs().max() > tolerance * together.abs().max()):
        raise InputError(
            "Fisher diagonal: a sample's outputs depend on the other samples of its batch; use a network in eval mode "
            "whose first axis runs over samples"
        )


def _samples_that_fit(weights: Mapping[str, Tensor]) -> int:
    sample = sum(weight.numel() * weight.element_size() for weight in weights.values())
    return max(1, min(_MOST_SAMPLES, _GRADIENT_BYTES // max(1, sample)))


def _check(
    inputs: Tensor, targets: Tensor | None, loss: Loss, kind: str, draws: int, samples_at_once: int | None
) -> None:
    if kind not in get_args(FisherKind):
        raise InputError(f"Fisher diagonal: got kind {kind!r}, allowed are {', '.join(get_args(FisherKind))}")
    if kind == "sampled" and not isinstance(loss, CrossEntropy):
        raise InputError(
            f"Fisher diagonal: the sampled kind draws class labels, got loss {loss.name!r}, allowed is "
            f"'cross-entropy'; use the empirical kind"
        )
    if kind == "empirical" and targets is None:
        raise InputError(
            "Fisher diagonal: the empirical kind needs targets, got none; give labelled data or use sampled"
        )
    labelled = len(inputs) if targets is None or kind == "sampled" else len(targets)
    if not len(inputs) or labelled != len(inputs):
        raise InputError(
            f"Fisher diagonal: got {len(inputs)} samples and {labelled} targets; give as many, at least one"
        )
    if draws < 1 or (samples_at_once is not None and samples_at_once < 1):
        raise InputError(
            f"Fisher diagonal: got {draws} draws and {samples_at_once} samples at once, allowed is 1 or more of each"
        )
