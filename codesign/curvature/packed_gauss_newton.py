"""Traces and top eigenvalues of per-layer Gauss-Newton blocks from per-sample gradients, without any product H v.

The Gauss-Newton block of layer l for the mean cross-entropy over P rows of logits is
`G_l = (1/P) sum_p J_l(p)^T (diag(p) - p p^T) J_l(p)`, with J_l the Jacobian of the logits in the layer's weight. With
the eigenpairs `lambda_k, u_k` of each row's softmax Hessian,

    tr(G_l) = (1/P) sum_pk lambda_pk ||J_l(p)^T u_pk||^2,

a sum over gradients of one sample each. The non-zero eigenvalues of `G_l` are those of the Gram matrix of the vectors
`sqrt(lambda_pk / P) J_l(p)^T u_pk`. Where everything after the layer is piecewise linear in its weight, `G_l` is the
Hessian's block itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.curvature.pair_selection import PairSelection, select_pairs
from codesign.curvature.softmax_hessian import softmax_hessian_eigenvalues, softmax_hessian_eigenvectors
from codesign.curvature.tapped_network import BlockTrace, TappedNetwork
from codesign.curvature.weight_gradient import channel_gradients, patches, squared_gradient_norms, weight_gradients
from codesign.errors import CodesignError, InputError
from codesign.progress import Progress, Silent


@dataclass(frozen=True)
class PackingOptions:
    """How much is run, and how.

    Attributes:
        drop: Share of the sum of softmax-Hessian eigenvalues that is sampled instead of run; 0 is exact.
        tail_draws: Draws from that share.
        pairs_at_once: Pairs in one forward and backward; changes memory and time, not the result.
        top_eigenvalue: Whether the largest eigenvalue is found too: of the pairs that were run whole, hence a lower
            bound unless nothing was sampled.
        gradient_bytes: For the top eigenvalue: most memory for stored gradients. Layers are taken in groups that fit,
            each with its own passes over the data; a layer that does not fit alone gets no eigenvalue.
    """

    drop: float = 0.001
    tail_draws: int = 32
    pairs_at_once: int = 64
    top_eigenvalue: bool = False
    gradient_bytes: int = 2**30

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InputError(f"drop: got {self.drop}, allowed is 0 <= drop < 1; 0 is exact, 0.001 much cheaper")
        if self.tail_draws < 2:
            raise InputError(f"tail draws: got {self.tail_draws}, allowed are 2 or more; a standard error needs two")
        if self.pairs_at_once < 1:
            raise InputError(f"pairs at once: got {self.pairs_at_once}, allowed are 1 or more; try 64")


Watch = Callable[[str, slice, Tensor, Tensor], None]
"""Called as `watch(layer, pairs, columns, gradients)` for pairs of one sample: see `patches`, `channel_gradients`."""


def gauss_newton_traces(
    network: TappedNetwork,
    inputs: Tensor,
    layers: Sequence[str],
    options: PackingOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Mapping[str, BlockTrace]:
    """Traces of the Gauss-Newton blocks of layers, all in one forward and backward over packed pairs.

    Unbiased for every `drop`; with `drop=0` exact up to rounding. Norms are summed in float64 whatever the network's
    type. Cost: one forward over the data, and one forward and backward over the selected pairs; as much again for each
    group of layers if the top eigenvalue is asked for.

    Args:
        network: The network; it must process samples apart.
        inputs: `[N, ...]`.
        layers: Names among the network's geometries.
        options: How much is run.
        seed: Of the draws from the tail.
        progress: Told about each chunk of pairs.

    Returns:
        One block for each name in `layers`.

    Raises:
        InputError: There is no sample, a value is NaN, or an option is out of range.
    """
    options = options or PackingOptions()
    progress = progress or Silent()
    if not len(inputs):
        raise InputError("curvature: got no samples, needs at least 1; give calibration data")
    logits = _logits(network, inputs, options.pairs_at_once)
    eigenvalues = softmax_hessian_eigenvalues(logits.flatten(0, -2))
    generator = torch.Generator().manual_seed(seed)
    selection = select_pairs(eigenvalues, options.drop, options.tail_draws, generator)
    run = PackedRun(network, inputs, logits, selection, options.pairs_at_once, progress)
    norms = {name: torch.zeros(len(selection.rows), dtype=torch.float64) for name in layers}

    def add_norms(name: str, pairs: slice, columns: Tensor, gradients: Tensor) -> None:
        norms[name][pairs] += squared_gradient_norms(columns, gradients).cpu()

    run.each("curvature of layers", layers, add_norms)
    rows = len(eigenvalues)
    top = _top_eigenvalues(run, layers, options, rows) if options.top_eigenvalue else {}
    blocks = {}
    for name in layers:
        total, error = selection.sum_over_pairs(norms[name])
        if not torch.isfinite(norms[name]).all():
            raise InputError(f"layer {name!r}: its gradients hold NaN or infinity; check the weights and the data")
        blocks[name] = BlockTrace(total / rows, error / rows, top.get(name), len(selection.draws))
    return blocks


@dataclass(frozen=True)
class PackedRun:
    """A forward and backward over selected pairs, a chunk at a time, sharing what pairs of one sample have in common.

    Attributes:
        network: The network.
        inputs: `[N, ...]`.
        logits: `[N, ..., C]`, of the whole data.
        selection: Which pairs.
        pairs_at_once: Pairs in a chunk.
        progress: Told about each chunk.
    """

    network: TappedNetwork
    inputs: Tensor
    logits: Tensor
    selection: PairSelection
    pairs_at_once: int
    progress: Progress

    def each(self, label: str, layers: Sequence[str], watch: Watch) -> None:
        """Runs all pairs and shows `watch` what forms the gradient of every layer's weight.

        Args:
            label: What the progress is called.
            layers: The layers of interest.
            watch: Called once for each layer and each run of pairs of the same sample, during the backward pass.
        """
        count = len(self.selection.rows)
        self.progress.start(label, count)
        try:
            for begin in range(0, count, self.pairs_at_once):
                pairs = slice(begin, min(begin + self.pairs_at_once, count))
                self._run(pairs, frozenset(layers), watch)
                self.progress.advance(pairs.stop - begin)
        finally:
            self.progress.finish()

    def _run(self, pairs: slice, layers: frozenset[str], watch: Watch) -> None:
        rows = self.selection.rows[pairs]
        samples = rows // (self.logits[0].numel() // self.logits.shape[-1])
        leaves: list[Tensor] = []
        tapped: list[str] = []

        def tap(name: str, entering: Tensor, leaving: Tensor) -> Tensor:
            if not leaving.requires_grad:
                leaves.append(leaving.detach().requires_grad_())
                leaving = leaves[-1].clone()  # a copy, since the network may change it in place
            tapped.append(name)
            if name in layers:
                report = _Report(name, pairs.start, samples, entering.detach(), watch, self.network)
                leaving.register_hook(report)  # type: ignore[no-untyped-call] # torch gives no types
            return leaving

        logits = self.network(self.inputs[samples.to(self.inputs.device)], tap)
        for name in sorted(layers):
            if tapped.count(name) != 1:
                raise CodesignError(
                    f"layer {name!r}: runs {tapped.count(name)} times in a forward pass, only layers that run once "
                    f"have a Gauss-Newton block of their own; estimate it with Hutchinson's method"
                )
        if leaves and logits.requires_grad:
            torch.autograd.grad(logits, leaves, self._seeds(pairs, logits), allow_unused=True)

    def _seeds(self, pairs: slice, logits: Tensor) -> Tensor:
        """Unit eigenvectors at each pair's own position, `[K, ..., C]`, zero at all other positions."""
        rows, ranks = self.selection.rows[pairs], self.selection.ranks[pairs]
        vectors = softmax_hessian_eigenvectors(self.logits.flatten(0, -2), rows, ranks)
        seeds = torch.zeros(logits.shape, dtype=logits.dtype, device=logits.device)
        positions = seeds.view(len(rows), -1, logits.shape[-1])
        position = rows % positions.shape[1]
        positions[torch.arange(len(rows)), position] = vectors.to(seeds)
        return seeds


class _Report:
    """Hook on a layer's output that hands the gradient on, sample by sample, when it arrives."""

    def __init__(
        self, name: str, first_pair: int, samples: Tensor, entering: Tensor, watch: Watch, network: TappedNetwork
    ) -> None:
        self._name = name
        self._first_pair = first_pair
        self._samples = samples
        self._entering = entering
        self._version = entering._version
        self._watch = watch
        self._geometry = network.geometries[name]

    def __call__(self, gradient: Tensor) -> None:
        if self._entering._version != self._version:
            raise CodesignError(
                f"layer {self._name!r}: its input was changed in place after the layer ran; "
                f"write the operation after it without inplace=True"
            )
        count = len(self._samples)
        entering = self._entering.reshape(count, -1, *self._entering.shape[1:])
        gradient = gradient.reshape(count, -1, *gradient.shape[1:])
        begin = 0
        for size in torch.unique_consecutive(self._samples, return_counts=True)[1].tolist():
            own = slice(begin, begin + size)
            columns = patches(self._geometry, entering[begin], gradient.shape[1:])
            pairs = slice(self._first_pair + begin, self._first_pair + begin + size)
            self._watch(self._name, pairs, columns, channel_gradients(self._geometry, gradient[own]))
            begin += size


def _logits(network: TappedNetwork, inputs: Tensor, samples_at_once: int) -> Tensor:
    with torch.no_grad():
        logits = torch.cat([network(part).double().cpu() for part in torch.split(inputs, samples_at_once)])
    if not torch.isfinite(logits).all():
        sample = int(torch.isfinite(logits).flatten(1).all(1).logical_not().nonzero()[0])
        raise InputError(f"sample {sample}: the network's logits hold NaN or infinity; check the weights and the data")
    return logits


def _top_eigenvalues(run: PackedRun, layers: Sequence[str], options: PackingOptions, rows: int) -> dict[str, float]:
    """Largest eigenvalue of the Gram matrix of each layer's gradients of the head pairs, on its smaller side."""
    head = run.selection.head
    scale = (run.selection.eigenvalues[head] / rows).sqrt().unsqueeze(1)
    top: dict[str, float] = {}
    for group in _groups(run.network, layers, options.gradient_bytes, len(head) * run.inputs.element_size()):
        stored: dict[str, Tensor] = {}

        def store(
            name: str, pairs: slice, columns: Tensor, gradients: Tensor, into: dict[str, Tensor] = stored
        ) -> None:
            found = weight_gradients(columns, gradients)
            if name not in into:
                into[name] = found.new_zeros(len(head), found.shape[1])
            into[name][pairs] += found

        run.each("top eigenvalues of layers", group, store)
        for name in group:
            vectors = stored.pop(name)[head].cpu() * scale if name in stored else scale.new_zeros(1, 1)
            gram = vectors @ vectors.mT if len(vectors) <= vectors.shape[1] else vectors.mT @ vectors
            top[name] = float(torch.linalg.eigvalsh(gram)[-1]) if len(gram) else 0.0
    return top


def _groups(
    network: TappedNetwork, layers: Sequence[str], limit_bytes: int, bytes_per_weight: int
) -> Iterator[list[str]]:
    """Splits layers so that the gradients of each group fit; leaves out those that do not fit alone."""
    group: list[str] = []
    used = 0
    for name in layers:
        need = network.geometries[name].weight_elements * bytes_per_weight
        if need > limit_bytes:
            continue
        if used + need > limit_bytes:
            yield group
            group, used = [], 0
        group.append(name)
        used += need
    if group:
        yield group
