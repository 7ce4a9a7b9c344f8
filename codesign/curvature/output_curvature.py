"""The output side of the Gauss-Newton matrix: every sample's outputs and the weights of its rank-one terms."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.curvature.loss import Loss
from codesign.curvature.output_factor import Combine, OutputFactor, output_factor
from codesign.curvature.pair_selection import part_sums
from codesign.data_parallel import Shard
from codesign.errors import InputError

_BYTES_PER_PAIR = 48
"""Outputs, weights, their order and the temporaries of sorting, all 8 bytes."""


@dataclass(frozen=True)
class OutputCurvature:
    """What is known of a loss's Hessian in the outputs.

    Attributes:
        loss: The loss.
        factor: How its Hessians are split.
        targets: Of this process's samples, `[n, ...]`, where the loss needs them.
        samples: Of all processes, N.
        rows: Of each sample, R.
        entries: Of each row, C.
        sample_shape: Shape of the outputs of one sample.
        outputs: Of this process's samples, float64 `[n, R, C]`; None where they would not fit.
        weights: Of the pairs of all processes, float64 `[N, R * C]`; None where they would not fit.
        sums: Sums of positive and negative |weights|, float64 `[N, 2]`.
    """

    loss: Loss
    factor: OutputFactor
    targets: Tensor | None
    samples: int
    rows: int
    entries: int
    sample_shape: torch.Size
    outputs: Tensor | None
    weights: Tensor | None
    sums: Tensor

    def rows_of(self, samples: Tensor, live: Tensor) -> Tensor:
        """Outputs of chosen samples, the kept ones where there are any: the same whatever they are run with.

        Args:
            samples: Of this process, `[S]`.
            live: Their outputs now, `[S, R, C]`.

        Returns:
            `[S, R, C]` in float64.
        """
        return live.detach().double().cpu() if self.outputs is None else self.outputs[samples]

    def weights_of(self, samples: Tensor, rows: Tensor) -> Tensor:
        """Weights of all pairs of chosen samples, found from their outputs.

        Args:
            samples: Of this process, `[S]`.
            rows: Their outputs, `[S, R, C]`.

        Returns:
            `[S, R * C]` in float64.
        """
        found = self.factor.weights(rows.flatten(0, 1), self._targets_of(samples), self.sample_shape)
        return found.reshape(len(rows), -1)

    def bind(self, samples: Tensor, rows: Tensor, active: Tensor) -> Combine:
        """See `OutputFactor.bind`.

        Args:
            samples: Of this process, `[S]`.
            rows: Their outputs, `[S, R, C]`.
            active: Which rows are needed, bool `[S, R]`.

        Returns:
            What takes coefficients of the active rows `[A, M, C]` to sums of vectors.
        """
        targets = self._targets_of(samples)
        chosen = None if targets is None else targets[active.flatten()]
        return self.factor.bind(rows[active], chosen, self.sample_shape)

    def _targets_of(self, samples: Tensor) -> Tensor | None:
        return None if self.targets is None else self.loss.row_targets(self.targets[samples])


def measure_outputs(
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor | None,
    loss: Loss,
    shard: Shard,
    samples_at_once: int,
    memory_bytes: int,
) -> OutputCurvature:
    """Runs the network once over this process's samples and finds the weights of all pairs.

    Args:
        forward: The network.
        inputs: All processes' samples, `[N, ...]`.
        targets: All processes' targets, or None.
        loss: The loss.
        shard: This process's part.
        samples_at_once: Samples in one forward pass.
        memory_bytes: Outputs and weights are kept only if they fit.

    Returns:
        The same weights in every process.

    Raises:
        InputError: Outputs are NaN or infinite, or the loss cannot be differentiated.
    """
    own = shard.bounds(len(inputs))
    parts = torch.split(inputs[own], samples_at_once)
    targets = targets[own].cpu() if loss.hessian_needs_targets and targets is not None else None
    measured = _Measured(loss, targets)
    for part in parts:
        measured.add(forward, part, len(inputs), memory_bytes)
    return measured.result(shard, len(inputs))


class _Measured:
    """Collects what `measure_outputs` finds, chunk by chunk."""

    def __init__(self, loss: Loss, targets: Tensor | None) -> None:
        self._loss = loss
        self._targets = targets
        self._seen = 0
        self._blank: OutputCurvature | None = None
        self._keeps = True
        self._found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._slope = torch.zeros(1, dtype=torch.float64)

    def add(self, forward: Callable[[Tensor], Tensor], inputs: Tensor, total: int, memory_bytes: int) -> None:
        with torch.no_grad():
            outputs = forward(inputs).double().cpu()
            rows = self._loss.as_rows(outputs)
        _, count, entries = rows.shape
        self._keeps = total * count * entries * _BYTES_PER_PAIR <= memory_bytes
        if self._blank is None:
            factor = output_factor(self._loss, total * count, entries)
            none = torch.zeros(0, 2)
            self._blank = OutputCurvature(
                self._loss, factor, self._targets, total, count, entries, outputs.shape[1:], None, None, none
            )
        finite = rows.isfinite().flatten(1).all(1)
        own = torch.arange(self._seen, self._seen + len(rows))
        self._seen += len(rows)
        sound = torch.where(finite.view(-1, 1, 1), rows, 0.0)  # the samples at fault are named when all are known
        if self._targets is not None and bool(finite.all()):
            self._slope += self._slope_at(outputs, self._targets[own])
        weights = self._blank.weights_of(own, sound)
        kept = (rows, weights) if self._keeps else (rows[:0], weights[:0])
        self._found.append((*kept, part_sums(weights), finite))

    def result(self, shard: Shard, total: int) -> OutputCurvature:
        assert self._blank is not None
        rows, weights, sums, finite = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        sound = shard.gather(finite.double())
        if not sound.all():
            raise InputError(
                f"sample {int((sound == 0).nonzero()[0])}: the network's outputs hold NaN or infinity; check the "
                f"weights and the data"
            )
        sums = shard.gather(sums)
        if self._targets is not None and not sums.any() and not shard.sum(self._slope).any():
            raise InputError(
                f"loss {self._loss.name!r}: its first and second derivatives are 0 for every sample, as of argmax or "
                f"round; use a loss that is differentiable"
            )
        blank = self._blank
        return OutputCurvature(
            *(blank.loss, blank.factor, blank.targets, total, blank.rows, blank.entries, blank.sample_shape),
            rows if self._keeps else None,
            shard.gather(weights) if self._keeps else None,
            sums,
        )

    def _slope_at(self, outputs: Tensor, targets: Tensor) -> Tensor:
        variable = outputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss.total(variable, targets), variable, allow_unused=True)
        return torch.zeros(1, dtype=torch.float64) if gradient is None else gradient.abs().sum().double().view(1)
