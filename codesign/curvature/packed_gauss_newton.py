"""Gauss-Newton blocks of layers from gradients of single samples, without any product H v.

The Gauss-Newton block of layer l for a loss that is a mean over P rows of outputs is
`G_l = (1/P) sum_p J_l(p)^T H_p J_l(p)`, with J_l the Jacobian of the outputs in the layer's weight and H_p the loss's
Hessian in the outputs of row p. With a factor `H_p = sum_k w_pk v_pk v_pk^T` (`output_factor`),

    tr(G_l) = (1/P) sum_pk w_pk ||J_l(p)^T v_pk||^2,

a sum over gradients of one sample each. The non-zero eigenvalues of `G_l` are those of the signed Gram matrix of the
vectors `sqrt(|w_pk| / P) J_l(p)^T v_pk` (`gram_spectrum`). Where everything after the layer is piecewise linear in its
weight, `G_l` is the Hessian's block itself.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.curvature.gram_spectrum import GramSums, largest_eigenvalues, plan_passes
from codesign.curvature.loss import CrossEntropy, Loss
from codesign.curvature.output_curvature import measure_outputs
from codesign.curvature.packed_run import PackedRun, measure_footprint
from codesign.curvature.pair_selection import Seeds, only_draws, select_pairs
from codesign.curvature.tapped_network import BlockCurvature, TappedNetwork
from codesign.curvature.weight_gradient import squared_gradient_norms
from codesign.data_parallel import Shard
from codesign.errors import InputError, closest
from codesign.progress import Progress, Silent

_MOST_DRAWS = 2**14
"""Draws after which a relative error that is still not reached is given up, with a note."""
_FORWARD_SAMPLES = 64
"""Samples in a forward pass without gradients: independent of options, so that outputs are."""


@dataclass(frozen=True)
class PackingOptions:
    """How much is run, and how.

    Attributes:
        drop: Share of the sum of |weights| of pairs that is sampled instead of run; 0 is exact.
        tail_draws: Draws from that share, at first.
        max_pairs: Most pairs that are run as they are; all others are sampled.
        relative_error: Draws go on until every standard error is at most this share of its |trace|.
        seconds: Draws do not go on after that; a note says what was reached.
        eigenvalues: How many of the largest eigenvalues are found, of the pairs that were run as they are: lower
            bounds where something was sampled and the loss is convex.
        memory_bytes: Most memory to plan with, half for activations and gradients of a chunk, half for eigenvalues.
        pairs_at_once: Gradients found together; changes memory and time, not results. None: as many as fit.
    """

    drop: float = 0.001
    tail_draws: int = 32
    max_pairs: int | None = None
    relative_error: float | None = None
    seconds: float | None = None
    eigenvalues: int = 0
    memory_bytes: int = 2**30
    pairs_at_once: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InputError(f"drop: got {self.drop}, allowed is 0 <= drop < 1; 0 is exact, 0.001 much cheaper")
        _at_least("tail draws", self.tail_draws, 2, "a standard error needs two")
        _at_least("max pairs", self.max_pairs, 0, "0 samples everything")
        _at_least("eigenvalues", self.eigenvalues, 0, "try 5")
        _at_least("memory bytes", self.memory_bytes, 2**20, "give at least 1 MiB")
        _at_least("pairs at once", self.pairs_at_once, 1, "leave it out for as many as fit")
        for name, value in (("relative error", self.relative_error), ("seconds", self.seconds)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}: got {value}, allowed are positive numbers")


def _at_least(name: str, value: int | None, least: int, cure: str) -> None:
    if value is not None and value < least:
        raise InputError(f"{name}: got {value}, allowed are {least} or more; {cure}")


@dataclass(frozen=True)
class GaussNewtonResult:
    """Gauss-Newton blocks.

    Attributes:
        blocks: Of layers' weights.
        activations: Of what enters layers: the mean over samples of `tr(J_a^T H J_a)`, H of that sample's own loss.
        passes_over_data: Forward and backward sweeps, each counted as one, in units of all samples.
    """

    blocks: Mapping[str, BlockCurvature]
    activations: Mapping[str, BlockCurvature]
    passes_over_data: float


def gauss_newton_blocks(
    network: TappedNetwork,
    inputs: Tensor,
    layers: Sequence[str],
    loss: Loss | None = None,
    targets: Tensor | None = None,
    options: PackingOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    shard: Shard | None = None,
    activations: Sequence[str] = (),
) -> GaussNewtonResult:
    """Traces and largest eigenvalues of the Gauss-Newton blocks of layers, all from the same packed gradients.

    Traces are unbiased for every option, and exact up to rounding with `drop=0` and no `max_pairs`. Sums are in float64
    whatever the network's type. Cost: one forward over the data, one forward over the samples that are selected, and
    one backward for each selected pair or draw of a sample; more of these where gradients for eigenvalues do not fit.

    Args:
        network: The network; it must process samples apart.
        inputs: `[N, ...]`, all processes' samples.
        layers: Names among the network's geometries.
        loss: The loss; the cross-entropy if None.
        targets: `[N, ...]`, all processes' targets, where the loss's Hessian depends on them.
        options: How much is run.
        seed: Of the draws.
        progress: Told about each chunk.
        shard: This process's part of the samples; results are the same in all.
        activations: Layers for which the trace in what enters them is found too.

    Returns:
        One block for each name in `layers` and in `activations`.

    Raises:
        InputError: There is no sample or layer, a value is NaN, or the loss has no curvature.
    """
    options, shard = options or PackingOptions(), shard or Shard()
    estimate = _Estimate(
        network,
        inputs,
        layers,
        activations,
        loss or CrossEntropy(),
        targets,
        options,
        seed,
        progress or Silent(),
        shard,
    )
    eigenvalues = estimate.run_head(layers if options.eigenvalues else ())
    estimate.refine()
    sizes = {name: network.geometries[name].weight_elements for name in layers}
    top = {name: largest_eigenvalues(v, options.eigenvalues, sizes[name]) for name, v in eigenvalues.items()}
    blocks = {name: estimate.block(("weight", name), top.get(name, ())) for name in layers}
    entering = {name: estimate.block(("entering", name), ()) for name in activations}
    return GaussNewtonResult(blocks, entering, estimate.passes_over_data())


def gauss_newton_spectrum(
    network: TappedNetwork,
    inputs: Tensor,
    layer: str,
    loss: Loss | None = None,
    targets: Tensor | None = None,
    memory_bytes: int = 2**30,
    progress: Progress | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """All non-zero eigenvalues of one layer's Gauss-Newton block: the exact spectral density, but for zeros.

    Args:
        network: The network; it must process samples apart.
        inputs: `[N, ...]`, all processes' samples.
        layer: Name among the network's geometries.
        loss: The loss; the cross-entropy if None.
        targets: `[N, ...]`, where the loss's Hessian depends on them.
        memory_bytes: See `PackingOptions`.
        progress: Told about each chunk.
        shard: This process's part of the samples.

    Returns:
        Float64, descending; those that rounding cannot tell from zero are left out.

    Raises:
        InputError: As `gauss_newton_blocks`; or the spectrum is too large.
    """
    options = PackingOptions(drop=0, memory_bytes=memory_bytes)
    progress, shard = progress or Silent(), shard or Shard()
    estimate = _Estimate(network, inputs, [layer], (), loss or CrossEntropy(), targets, options, 0, progress, shard)
    found = estimate.run_head([layer]).get(layer)
    if found is None or estimate.has_tail:
        raise InputError(
            f"layer {layer!r}: its spectrum does not fit {memory_bytes / 2**20:.0f} MiB or 8192 rows; use fewer "
            f"samples, or Lanczos quadrature"
        )
    single = torch.finfo(estimate.dtype).eps ** 2  # squared: eigenvalues are squares of singular values
    noise = len(found) * max(torch.finfo(torch.float64).eps, single)
    return found[found.abs() > noise * found.abs().max()] if len(found) else found


_Key = tuple[str, str]
"""`weight` or `entering`, and a layer."""


class _Estimate:
    """Runs the head and draws from the tail until the error is small enough."""

    def __init__(
        self,
        network: TappedNetwork,
        inputs: Tensor,
        layers: Sequence[str],
        activations: Sequence[str],
        loss: Loss,
        targets: Tensor | None,
        options: PackingOptions,
        seed: int,
        progress: Progress,
        shard: Shard,
    ) -> None:
        self._begin = time.monotonic()
        self._generator = torch.Generator().manual_seed(seed)
        _check(network, inputs, layers, activations, targets)
        self._network, self._layers, self._activations = network, layers, activations
        self._options, self._progress, self._shard = options, progress, shard
        half = options.memory_bytes // 2
        footprint = measure_footprint(network, inputs, loss, layers, activations)
        self.dtype = footprint.dtype
        at_once = max(1, min(_FORWARD_SAMPLES, half // footprint.forward))
        outputs = measure_outputs(network, inputs, targets, loss, shard, at_once, half)
        self._rows = outputs.samples * outputs.rows
        if outputs.weights is None:
            self._selection = only_draws(outputs.sums)
        else:
            self._selection = select_pairs(outputs.weights, options.drop, options.tail_draws, options.max_pairs)
        bound = outputs.rows * outputs.factor.bytes_per_row(outputs.entries)
        footprint = dataclasses.replace(footprint, forward=footprint.forward + bound)
        own = shard.bounds(len(inputs))
        self._own = own
        self._run = PackedRun(
            network,
            inputs[own],
            own.start,
            outputs,
            self._selection,
            footprint,
            half,
            options.pairs_at_once,
            progress,
            sample_passes=3 + 2 * bool(activations) + own.stop - own.start,
        )
        self._sums: dict[_Key, float] = {}
        self._draws: dict[_Key, Tensor] = {}

    @property
    def has_tail(self) -> bool:
        """Whether anything is left out of the head."""
        return self._selection.has_tail

    def run_head(self, spectrum: Sequence[str]) -> dict[str, Tensor]:
        """Runs the head and the first draws; finds the eigenvalues of some layers."""
        head, seeds = self._selection.head, self._selection.head
        if self._selection.has_tail:
            seeds = head.joined(self._selection.draw(self._options.tail_draws, self._generator))
        if spectrum and self._selection.tail is None:
            self._progress.note("no eigenvalues: the outputs of all samples do not fit the memory limit")
            spectrum = ()
        channels = self._run.footprint.channels
        weights = {name: self._network.geometries[name].weight_elements for name in self._layers}
        size, half = torch.empty(0, dtype=self.dtype).element_size(), self._options.memory_bytes // 2
        passes = plan_passes(self._network.geometries, channels, spectrum, len(head), size, half, self._progress)
        gram = GramSums(head, self._own, {n: weights[n] // channels[n] for n in spectrum}, self.dtype, self._shard)
        found: dict[str, Tensor] = {}
        for index in range(max(1, len(passes))):
            gram.begin(passes[index] if passes else [])
            if index == 0:
                norms = self._norms("curvature of layers", seeds, gram)
            else:
                self._run.each("eigenvalues of layers", head, [part.layer for part in passes[index]], gram.add)
            found |= {name: values / self._rows for name, values in gram.finish().items()}
        for key, value in norms.items():
            self._sums[key] = float(value[: len(head)].sum())
            self._draws[key] = value[len(head) :]
        return found

    def refine(self) -> None:
        """Draws more until the errors are small enough or time is up."""
        wanted = self._options.relative_error
        while wanted is not None and self._selection.has_tail:
            errors = {key: self._relative_error(key) for key in self._sums}
            key = max(errors, key=errors.__getitem__)
            if errors[key] <= wanted or self._is_over(key, errors[key]):
                return
            done = len(self._draws[key])
            need = done * (errors[key] / wanted) ** 2 * 1.1 - done
            more = int(min(max(need, self._options.tail_draws), 3 * done, _MOST_DRAWS - done))
            values = self._norms("more draws", self._selection.draw(more, self._generator), None)
            self._draws = {name: torch.cat([self._draws[name], value]) for name, value in values.items()}

    def _is_over(self, key: _Key, error: float) -> bool:
        seconds = self._options.seconds
        late = seconds is not None and time.monotonic() - self._begin > seconds
        late = bool(self._shard.sum(torch.tensor([float(late)])) > 0)  # the same answer in all processes
        if late or len(self._draws[key]) >= _MOST_DRAWS:
            self._progress.note(
                f"curvature: stopped {'after the time allowed' if late else 'at the most draws'}, "
                f"{len(self._draws[key])}; the largest standard error is {error:.2%} of the trace ({key[0]} of layer "
                f"{key[1]}), asked for was {self._options.relative_error:.2%}"
            )
            return True
        return False

    def _norms(self, label: str, seeds: Seeds, gram: GramSums | None) -> dict[_Key, Tensor]:
        """`sign * factor * squared norm` of every seed's gradients, of all processes, `[K]`."""
        keys = [("weight", name) for name in self._layers] + [("entering", name) for name in self._activations]
        squares = {key: torch.zeros(len(seeds), dtype=torch.float64) for key in keys}

        def keep(key: _Key, which: Tensor, found: Tensor) -> None:
            squares[key][which[which >= 0]] = found.cpu()[which >= 0]

        def watch(name: str, which: Tensor, columns: Tensor, gradients: Tensor) -> None:
            keep(("weight", name), which, squared_gradient_norms(columns, gradients))
            if gram is not None:
                gram.add(name, which, columns, gradients)

        def watch_activation(name: str, which: Tensor, gradients: Tensor) -> None:
            keep(("entering", name), which, gradients.flatten(2).double().square().sum(2))

        self._run.each(label, seeds, self._layers, watch, self._activations, watch_activation)
        summed = self._shard.sum(torch.stack(list(squares.values())))
        for (_, name), found in zip(keys, summed, strict=True):
            if not found.isfinite().all():
                raise InputError(f"layer {name!r}: its gradients hold NaN or infinity; check the weights and the data")
        return dict(zip(keys, summed * seeds.signs * seeds.factors, strict=True))

    def _relative_error(self, key: _Key) -> float:
        trace, error = self._trace(key)
        return error / abs(trace) if trace else (math.inf if error else 0.0)

    def _trace(self, key: _Key) -> tuple[float, float]:
        draws = self._draws[key]
        if not len(draws):
            return self._sums[key] / self._rows, 0.0
        trace = (self._sums[key] + float(draws.mean())) / self._rows
        return trace, float(draws.std()) / math.sqrt(len(draws)) / self._rows

    def block(self, key: _Key, eigenvalues: tuple[float, ...]) -> BlockCurvature:
        """What was found for one layer."""
        trace, error = self._trace(key)
        return BlockCurvature(trace, error, eigenvalues, len(self._draws[key]))

    def passes_over_data(self) -> float:
        """Of all processes, in units of all samples."""
        run = self._shard.sum(torch.tensor([float(self._run.sample_passes)], dtype=torch.float64))
        return float(run) / (self._rows / self._run.outputs.rows)


def _check(
    network: TappedNetwork,
    inputs: Tensor,
    layers: Sequence[str],
    activations: Sequence[str],
    targets: Tensor | None,
) -> None:
    if not len(inputs):
        raise InputError("curvature: got no samples, needs at least 1; give calibration data")
    if targets is not None and len(targets) != len(inputs):
        raise InputError(f"curvature: got {len(targets)} targets for {len(inputs)} samples; give one for each")
    if not layers and not activations:
        raise InputError(
            "curvature: got no layers; allowed are layers with a weight (convolutions, linear layers) that the network "
            "taps; name one, or check that the network has any"
        )
    for name in [*layers, *activations]:
        if name not in network.geometries:
            raise InputError(f"curvature: the network taps no layer {name!r}{closest(name, network.geometries)}")
