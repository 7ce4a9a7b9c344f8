"""Traces of a loss's Hessian in activations, one sample at a time (HAWQ-V2, arXiv 1911.03852, section 3.4).

Sample n's activation `a_n` enters its own loss `l_n` only, so that the Hessian of `1/N sum_n l_n` in the activations of
all samples is block diagonal. One product with a vector `z` over all samples gives every block's own quadratic form
`z_n^T H_n z_n`. With independent entries +-1 each has mean `tr(H_n)` (Hutchinson), and

    1/N sum_n tr(H_n) ~ 1/(N m) sum_nk z_nk^T H_n z_nk,     variance 1/N^2 sum_n var_k(z_nk^T H_n z_nk) / m,

estimated from the scatter of each sample's own m values. Small activations are multiplied with all unit vectors, which
gives their trace exactly.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from codesign.curvature.curvature_products import SWEEPS_OF_A_GRAPH, SWEEPS_OF_A_PRODUCT, Backward, gradients
from codesign.curvature.loss import CrossEntropy, Loss
from codesign.curvature.probing import StoppingRule, generator_of, random_signs, standard_error_factor
from codesign.curvature.tapped_network import BlockCurvature
from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.progress import Progress, Silent

ActivationForward = Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]]
"""`forward(inputs) -> (outputs, activations by name)`: outputs are differentiable in the activations, `[N, ...]` each,
and no sample sees another."""

_VECTORS_AT_ONCE = 4
_VECTORS_A_ROUND = 16


@dataclass(frozen=True)
class ActivationTraces:
    """What `activation_traces` found.

    Attributes:
        blocks: By name; `draws` is the number of random vectors for each sample, 0 where the trace is exact.
        passes_over_data: Forward and backward sweeps over all samples, each counted as one.
    """

    blocks: Mapping[str, BlockCurvature]
    passes_over_data: float


def activation_traces(
    forward: ActivationForward,
    names: Sequence[str],
    inputs: Tensor,
    targets: Tensor,
    loss: Loss | None = None,
    rule: StoppingRule | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    shard: Shard | None = None,
    samples_at_once: int = 64,
) -> ActivationTraces:
    """Mean over samples of the trace of one sample's Hessian in each activation, which can be negative.

    Cost: for each 16 vectors one forward and one backward with a graph over all data, and for each vector and
    activation two sweeps through the part of that graph behind the activation. Draws depend on the seed, the name, and
    the sample's number only; memory does not grow with the number of samples.

    Args:
        forward: The network as a function that shows its activations.
        names: Which of them.
        inputs: `[N, ...]`: all samples, in every process.
        targets: `[N, ...]`.
        loss: A sample's loss is the mean over its rows; cross-entropy by default.
        rule: When to stop; each activation stops on its own.
        seed: Of the vectors.
        progress: Told about vectors.
        shard: Which of the samples this process runs.
        samples_at_once: Samples in one gradient graph; changes memory and time, not the result.

    Returns:
        One block for each name.

    Raises:
        InputError: There is no sample, targets do not fit, or a value is NaN or infinite.
    """
    if not len(inputs) or len(inputs) != len(targets):
        raise InputError(
            f"curvature: got {len(inputs)} samples and {len(targets)} targets; give as many, at least one of each"
        )
    rule, progress, shard = rule or StoppingRule(), progress or Silent(), shard or Shard()
    own = shard.bounds(len(inputs))
    products = _Products(forward, inputs, targets, loss or CrossEntropy(), seed, own, samples_at_once)
    traces = {name: _Trace(size, rule, len(inputs)) for name, size in products.sizes(names).items()}
    passes = 0.0
    deadline = math.inf if rule.seconds is None else time.monotonic() + rule.seconds
    progress.start("Hessian traces of activations", sum(trace.most for trace in traces.values()))
    try:
        while active := {name: trace for name, trace in traces.items() if not trace.is_done}:
            found = products.quadratic_forms(active)
            is_late = float(shard.sum(torch.tensor(float(time.monotonic() > deadline), device=inputs.device))) > 0
            for name, values in found.items():
                active[name].take(values, shard, is_late)
                _check_finite(name, active[name].block)
            vectors = sum(values.shape[1] for values in found.values())
            passes += SWEEPS_OF_A_GRAPH + SWEEPS_OF_A_PRODUCT * vectors
            progress.advance(vectors)
    finally:
        progress.finish()
    return ActivationTraces({name: trace.block for name, trace in traces.items()}, passes)


def _check_finite(name: str, block: BlockCurvature) -> None:
    if not math.isfinite(block.trace) or not math.isfinite(block.standard_error):  # in all processes alike
        raise InputError(
            f"activation {name!r}: its second derivatives are NaN or infinite; check the weights and the data"
        )


class _Trace:
    """One activation's estimate: all unit vectors, or random ones until it is known well enough."""

    def __init__(self, size: int, rule: StoppingRule, samples: int) -> None:
        self.is_exact = rule.wants_exact(size)
        self.is_done = False
        self.block = BlockCurvature(0.0, 0.0)
        self._size, self._rule, self._samples = size, rule, samples
        self._taken = 0
        self._values: Tensor | None = None

    @property
    def most(self) -> int:
        """Vectors that it takes at most."""
        return self._size if self.is_exact else self._rule.max_probes

    def next_vectors(self) -> range:
        """Numbers of the vectors that it wants next."""
        return range(self._taken, min(self._taken + _VECTORS_A_ROUND, self.most))

    def take(self, values: Tensor, shard: Shard, is_late: bool) -> None:
        """Quadratic forms `[own samples, B]` with these vectors; those with unit vectors are summed."""
        self._taken += values.shape[1]
        if self.is_exact:
            values = values.sum(1, keepdim=True)
            self._values = values if self._values is None else self._values + values
        else:
            self._values = values if self._values is None else torch.cat([self._values, values], 1)
        count = self._values.shape[1]
        variance = self._values.var(1).sum() / count if count > 1 else torch.zeros_like(values[0, 0])
        total, variance = shard.sum(torch.stack([self._values.mean(1).sum(), variance]))
        trace = float(total) / self._samples
        if self.is_exact:
            self.block = BlockCurvature(trace, 0.0)
            self.is_done = self._taken >= self.most
            return
        error = math.sqrt(float(variance)) / self._samples * standard_error_factor(count)
        self.block = BlockCurvature(trace, error, draws=count)
        is_known = count >= self._rule.min_probes and error <= self._rule.relative_error * abs(trace)
        self.is_done = is_late or is_known or count >= self.most


class _Products:
    """Quadratic forms `z_n^T H_n z_n` of this process's samples."""

    def __init__(
        self,
        forward: ActivationForward,
        inputs: Tensor,
        targets: Tensor,
        loss: Loss,
        seed: int,
        own: slice,
        samples_at_once: int,
    ) -> None:
        self._forward, self._loss, self._seed = forward, loss, seed
        self._inputs, self._targets = inputs, targets
        self._parts = [
            range(begin, min(begin + samples_at_once, own.stop))
            for begin in range(own.start, own.stop, samples_at_once)
        ]
        self._backward = Backward()

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Elements of each activation for one sample."""
        with torch.no_grad():
            _, found = self._forward(self._inputs[:1])
        return {name: found[name].numel() for name in names}

    def quadratic_forms(self, traces: Mapping[str, _Trace]) -> dict[str, Tensor]:
        """By name `[own samples, B]`, float64, with the vectors that each trace wants next."""
        found: dict[str, list[Tensor]] = {name: [] for name in traces}
        for samples in self._parts:
            activations, slopes = self._graph(samples, list(traces))
            for name, trace in traces.items():
                vectors = trace.next_vectors()
                groups = [vectors[i : i + _VECTORS_AT_ONCE] for i in range(0, len(vectors), _VECTORS_AT_ONCE)]
                forms = []
                for group in groups:
                    z = self._vectors(name, samples, group, activations[name], trace.is_exact)
                    forms.append(self._forms(slopes[name], activations[name], z))
                found[name].append(torch.cat(forms, 1))
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _graph(self, samples: range, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """Activations of some samples and the gradients in them, which can be differentiated again."""
        part = slice(samples.start, samples.stop)
        # The fused attention kernels cannot be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            outputs, shown = self._forward(self._inputs[part])
            activations = {name: shown[name] for name in names}
            total = self._loss.total(outputs, self._targets[part]) / self._loss.as_rows(outputs).shape[1]
            slopes = gradients(total, list(activations.values()))
        return activations, dict(zip(names, slopes, strict=True))

    def _vectors(self, name: str, samples: range, group: range, activation: Tensor, is_exact: bool) -> Tensor:
        """`[B, n, ...]`: the unit vectors of these numbers for every sample, or random signs of each sample's own."""
        size = activation[0].numel()
        if is_exact:
            units = torch.zeros(len(group), size, dtype=activation.dtype, device=activation.device)
            units[torch.arange(len(group)), torch.tensor(group)] = 1
            return units[:, None].expand(-1, len(samples), -1).reshape(len(group), *activation.shape)
        drawn = [
            random_signs(size, len(group), generator_of(self._seed, name, sample, group.start)).mT for sample in samples
        ]
        return torch.stack(drawn, 1).to(activation).reshape(len(group), *activation.shape)

    def _forms(self, slope: Tensor | None, activation: Tensor, z: Tensor) -> Tensor:
        """`z_n^T H_n z_n`, `[n, B]`, float64."""
        product = None if slope is None else self._backward([slope], [activation], [z])[0]
        if product is None:
            return torch.zeros(z.shape[1], len(z), dtype=torch.float64)
        return (z * product).flatten(2).sum(2, dtype=torch.float64).mT.cpu()
