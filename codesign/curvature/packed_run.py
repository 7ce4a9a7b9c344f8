"""Forward and backward passes over packed seeds: many samples at once, one forward pass for all seeds of a sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codesign.curvature.activation_memory import activation_bytes_per_sample
from codesign.curvature.loss import Loss
from codesign.curvature.output_curvature import OutputCurvature
from codesign.curvature.pair_selection import PairSelection, Seeds, drawn_coefficients
from codesign.curvature.recording import Recording, check_activations, record
from codesign.curvature.tapped_network import LayerGeometry, Linear, TappedNetwork
from codesign.curvature.weight_gradient import channel_gradients, patches
from codesign.progress import Progress

_SEEDS_AT_ONCE = 16
"""Backward passes of one forward pass whose gradients are kept together, so that they share the layers' patches."""
_SAMPLES_AT_ONCE = 64
"""More samples at once are no faster on a CPU, whose caches are small."""

LayerWatch = Callable[[str, Tensor, Tensor, Tensor], None]
"""Called as `watch(layer, seeds, columns, gradients)`: indices of seeds `[S, M]` (-1 for none), and what the weight
gradients of S samples are made of: see `patches` and `channel_gradients`."""

ActivationWatch = Callable[[str, Tensor, Tensor], None]
"""Called as `watch(layer, seeds, gradients)` with gradients `[S, M, ...]` in what enters the layer."""


@dataclass(frozen=True)
class Footprint:
    """What one sample takes.

    Attributes:
        forward: Bytes kept by a forward pass for its backward passes, with the largest layer's patches.
        backward: Bytes kept for each backward pass: output gradients of all layers, one layer's weight gradient.
        channels: Output channels of each layer, within each group.
        dtype: Of gradients.
    """

    forward: int
    backward: int
    channels: Mapping[str, int]
    dtype: torch.dtype


def measure_footprint(
    network: TappedNetwork, inputs: Tensor, loss: Loss, layers: Sequence[str], activations: Sequence[str]
) -> Footprint:
    """Measures what a forward and a backward pass keep for a sample; also finds layers that cannot be tapped.

    Cost: three samples forward; one more forward and backward where there are activations.

    Args:
        network: The network.
        inputs: `[N, ...]`; the first sample is used.
        loss: Says which outputs form a row.
        layers: Layers whose weight gradients are formed.
        activations: Layers for which the gradient in what enters them is formed.

    Returns:
        The footprint.
    """
    seen: list[Recording] = []

    def forward(part: Tensor) -> Iterator[Tensor]:
        recording = record(network, part, loss, layers, activations)
        seen.append(recording)
        yield recording.rows
        yield from recording.entering.values()

    if activations:
        check_activations(network, inputs[:1], loss, activations)
    kept = activation_bytes_per_sample(forward, inputs)
    last = seen[-1]
    size = last.rows.element_size()
    leaving = [shape.numel() for shape in last.leaving_shapes.values()]
    taps = [
        _patch_elements(network.geometries[name], last.leaving_shapes[name], last.entering[name]) for name in layers
    ]
    weights = [network.geometries[name].weight_elements for name in layers]
    gradients = sum(leaving) + last.entering_elements
    return Footprint(
        forward=kept + size * (max(taps, default=0) + 3 * max(leaving, default=0)),
        backward=size * (gradients + max(leaving, default=0) + max(weights, default=0))
        + (8 + 8 + size) * last.rows.numel(),  # coefficients, vectors, seeds
        channels={name: _channels(network.geometries[name], shape) for name, shape in last.leaving_shapes.items()},
        dtype=last.rows.dtype,
    )


def _channels(geometry: LayerGeometry, leaving: torch.Size) -> int:
    return leaving[-1] if isinstance(geometry, Linear) else leaving[1] // geometry.groups


def _patch_elements(geometry: LayerGeometry, leaving: torch.Size, entering: Tensor) -> int:
    """Elements of a layer's patches for one sample."""
    if isinstance(geometry, Linear):
        return entering.numel()
    channels_in = entering.shape[1]
    return channels_in * torch.Size(geometry.kernel).numel() * (leaving.numel() // leaving[1])


@dataclass
class PackedRun:
    """Runs seeds of this process's samples.

    Attributes:
        network: The network.
        inputs: Of this process, `[n, ...]`.
        first: Number of its first sample among all.
        outputs: The loss's Hessian in the outputs.
        selection: The head and the tail of its pairs.
        footprint: Memory of one sample.
        memory_bytes: Most memory to use at once.
        pairs_at_once: Most seeds at once; None for as many as fit.
        progress: Told about each chunk.
        sample_passes: Forward and backward passes so far, in samples.
    """

    network: TappedNetwork
    inputs: Tensor
    first: int
    outputs: OutputCurvature
    selection: PairSelection
    footprint: Footprint
    memory_bytes: int
    pairs_at_once: int | None
    progress: Progress
    sample_passes: int = field(default=0)

    def each(
        self,
        label: str,
        seeds: Seeds,
        layers: Sequence[str],
        watch: LayerWatch,
        activations: Sequence[str] = (),
        watch_activation: ActivationWatch | None = None,
    ) -> None:
        """Runs those of the seeds that belong to this process's samples.

        Args:
            label: What the progress is called.
            seeds: All processes' seeds.
            layers: The layers of interest.
            watch: Called for each of them, once for each chunk.
            activations: Layers whose input is of interest.
            watch_activation: Called for each of those.
        """
        own = (seeds.samples >= self.first) & (seeds.samples < self.first + len(self.inputs))
        mine = own.nonzero().flatten()
        self.progress.start(label, len(mine))
        try:
            for samples, table in self._groups(seeds.samples[mine] - self.first, mine):
                recording = record(
                    self.network, self.inputs[samples.to(self.inputs.device)], self.outputs.loss, layers, activations
                )
                self.sample_passes += len(samples)
                blocks = list(torch.split(table, self._seeds_at_once(len(samples)), dim=1))
                form = _SeedForm(self.outputs, self.selection, samples, self.first, recording.rows, seeds, table)
                for block in blocks:
                    outputs, inputs = self._gradients(recording, form(block), block is blocks[-1])
                    for name, gradients in outputs.items():
                        self._show(name, block, recording, gradients, watch)
                    for name, gradients in inputs.items():
                        assert watch_activation is not None
                        watch_activation(name, block, gradients)
                    self.progress.advance(int((block >= 0).sum()))
        finally:
            self.progress.finish()

    def _gradients(
        self, recording: Recording, vectors: Tensor, last: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients `[S, M, ...]` of M backward passes."""
        count = vectors.shape[1]
        passes = [recording.backward(vectors[:, index], last and index == count - 1) for index in range(count)]
        self.sample_passes += count * len(vectors)
        outputs, inputs = (
            {name: _by_sample([found[side][name] for found in passes], len(vectors)) for name in passes[0][side]}
            for side in (0, 1)
        )
        return outputs, inputs

    def _show(self, name: str, block: Tensor, recording: Recording, gradients: Tensor, watch: LayerWatch) -> None:
        geometry = self.network.geometries[name]
        entering = recording.entering[name]
        entering = entering.reshape(len(block), -1, *entering.shape[1:])
        columns = patches(geometry, entering, gradients.shape[2:])
        watch(name, block, columns, channel_gradients(geometry, gradients))

    def _groups(self, samples: Tensor, seeds: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples `[S]` to run together and their seeds `[S, M]`, -1 where a sample has fewer.

        Samples with about as many seeds run together, since every backward pass runs all of a group's samples.
        """
        ordered, order = samples.sort(stable=True)
        distinct, counts = torch.unique_consecutive(ordered, return_counts=True)
        starts = counts.cumsum(0) - counts
        sizes, by_count = counts.sort(descending=True, stable=True)
        begin = 0
        while begin < len(sizes):
            most = int(sizes[begin])
            end, wasted = begin + 1, 0
            while end < len(sizes) and end - begin < self._samples_at_once(most):
                wasted += most - int(sizes[end])
                if wasted > (end - begin) * most // 8 + 2:
                    break
                end += 1
            chosen = by_count[begin:end]
            at = starts[chosen].unsqueeze(1) + torch.arange(most)
            has = torch.arange(most) < counts[chosen].unsqueeze(1)
            yield distinct[chosen], torch.where(has, seeds[order[at.clamp_max(len(order) - 1)]], -1)
            begin = end

    def _samples_at_once(self, seeds: int) -> int:
        together = min(seeds, _SEEDS_AT_ONCE)
        if self.pairs_at_once is not None:
            return max(1, self.pairs_at_once // together)
        need = self.footprint.forward + together * self.footprint.backward
        return max(1, min(_SAMPLES_AT_ONCE, self.memory_bytes // need))

    def _seeds_at_once(self, samples: int) -> int:
        if self.pairs_at_once is not None:
            return max(1, min(_SEEDS_AT_ONCE, self.pairs_at_once // samples))
        left = self.memory_bytes // samples - self.footprint.forward
        return max(1, min(_SEEDS_AT_ONCE, left // self.footprint.backward))


def _by_sample(gradients: list[Tensor], samples: int) -> Tensor:
    return torch.stack([g.reshape(samples, -1, *g.shape[1:]) for g in gradients], 1)


class _SeedForm:
    """Makes the seeds of a group of samples from their outputs; what several seeds share is found once."""

    def __init__(
        self,
        outputs: OutputCurvature,
        selection: PairSelection,
        samples: Tensor,
        first: int,
        live: Tensor,
        seeds: Seeds,
        table: Tensor,
    ) -> None:
        self._seeds = seeds
        self._shape = live.shape
        self._sums = selection.tail_sums[samples + first]
        rows = outputs.rows_of(samples, live)
        drawn = bool((seeds.columns[table[table >= 0]] < 0).any())
        self._tail: Tensor | None = None
        if drawn:
            kept = selection.tail
            self._tail = outputs.weights_of(samples, rows) if kept is None else kept[samples + first]
        active = self._active(table)
        self._active_rows = active.flatten().nonzero().flatten()
        self._combine = outputs.bind(samples, rows, active)

    def _active(self, table: Tensor) -> Tensor:
        """Rows `[S, R]` that any seed touches."""
        count, rows, entries = self._shape
        active = torch.zeros(count, rows, dtype=torch.bool)
        sample, place = (table >= 0).nonzero(as_tuple=True)
        columns = self._seeds.columns[table[sample, place]]
        active[sample[columns >= 0], columns[columns >= 0] // entries] = True
        if self._tail is not None:
            drawn = torch.zeros(count, dtype=torch.bool).index_fill(0, sample[columns < 0], True)
            active |= drawn.unsqueeze(1) & (self._tail.view(count, rows, entries) != 0).any(2)
        return active

    def __call__(self, block: Tensor) -> Tensor:
        """Seeds `[S, M, R, C]` for indices `[S, M]`; zeros for -1."""
        count, rows, entries = self._shape
        coefficients = torch.zeros(*block.shape, rows * entries, dtype=torch.float64)
        sample, place = (block >= 0).nonzero(as_tuple=True)
        chosen = block[sample, place]
        columns = self._seeds.columns[chosen]
        head = columns >= 0
        coefficients[sample[head], place[head], columns[head]] = 1.0
        for s, m, seed in zip(*(index[~head].tolist() for index in (sample, place, chosen)), strict=True):
            assert self._tail is not None
            sign, randomness = int(self._seeds.signs[seed]), int(self._seeds.randomness[seed])
            coefficients[s, m] = drawn_coefficients(self._tail[s], self._sums[s], sign, randomness)
        by_row = coefficients.view(*block.shape, rows, entries).transpose(1, 2).flatten(0, 1)
        found = torch.zeros_like(by_row)
        found[self._active_rows] = self._combine(by_row[self._active_rows])
        return found.view(count, rows, *found.shape[1:]).transpose(1, 2)
