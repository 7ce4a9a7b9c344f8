"""Eigenvalues of `sum_k s_k f_k j_k j_k^T` from the vectors j themselves, on the smaller side, without products H v.

With the scaled vectors `sqrt(f_k) j_k` as rows of V `[K, n]` and signs S the block is `V^T S V` `[n, n]` (weight side).
Its non-zero eigenvalues are those of `G^(1/2) S G^(1/2)` with the Gram matrix `G = V V^T` `[K, K]` (pair side), of G
itself where all signs are positive. All matrices are summed in float64.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.curvature.pair_selection import Seeds
from codesign.curvature.tapped_network import LayerGeometry
from codesign.curvature.weight_gradient import weight_gradients
from codesign.data_parallel import Shard
from codesign.progress import Progress

LARGEST_SIDE = 8192
"""Largest matrix whose eigenvalues are found: minutes and 512 MiB."""
_COLUMNS_AT_ONCE = 2048
_ROWS_AT_ONCE = 256
"""Columns and rows of V that are multiplied in float64 at once."""


@dataclass(frozen=True)
class GramPart:
    """Some of a layer's weight gradient, found in one pass over the seeds.

    Attributes:
        layer: Name.
        channels: Output channels within each group; the weight side takes all of them.
        on_weights: Whether the matrix is on the weight side.
        bytes: Held during the pass.
        last: Whether the layer is complete after it.
    """

    layer: str
    channels: slice
    on_weights: bool
    bytes: int
    last: bool


def plan_passes(
    geometries: Mapping[str, LayerGeometry],
    channels: Mapping[str, int],
    layers: Sequence[str],
    pairs: int,
    element_bytes: int,
    memory_bytes: int,
    progress: Progress,
) -> list[list[GramPart]]:
    """Splits layers into passes over the seeds such that each pass's gradients and matrices fit.

    A layer whose gradients do not fit on the pair side is split by output channels into several passes.

    Args:
        geometries: Of all layers.
        channels: Output channels within each group, by layer.
        layers: Which of them.
        pairs: Vectors, K.
        element_bytes: Of one element of a gradient.
        memory_bytes: Most memory for gradients and matrices at once.
        progress: Told which layers are left out.

    Returns:
        The parts of each pass; layers with a smaller side above `LARGEST_SIDE`, or without room, are not among them.
    """
    parts: list[GramPart] = []
    for name in layers:
        weights = geometries[name].weight_elements
        side = min(weights, pairs)
        room = memory_bytes - 8 * side**2
        per_channel = pairs * (weights // channels[name]) * element_bytes
        fits = room >= (0 if weights <= pairs else per_channel)
        if side > LARGEST_SIDE or not fits:
            progress.note(
                f"layer {name}: no eigenvalues, for {pairs} gradients of {weights} elements need a matrix "
                f"of {side} x {side} within {memory_bytes / 2**20:.0f} MiB, allowed are {LARGEST_SIDE} rows; "
                f"run fewer pairs (drop, max-pairs) or give more memory"
            )
        elif weights <= pairs:
            parts.append(GramPart(name, slice(0, channels[name]), True, 8 * side**2, last=True))
        else:
            at_once = max(1, min(channels[name], room // max(1, per_channel)))
            for begin in range(0, channels[name], at_once):
                own = slice(begin, min(begin + at_once, channels[name]))
                held = 8 * side**2 + per_channel * (own.stop - own.start)
                parts.append(GramPart(name, own, False, held, last=own.stop == channels[name]))
    return list(_grouped(parts, memory_bytes))


def _grouped(parts: Sequence[GramPart], memory_bytes: int) -> Iterator[list[GramPart]]:
    group: list[GramPart] = []
    for part in parts:
        if group and sum(other.bytes for other in group) + part.bytes > memory_bytes:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


class GramSums:
    """Collects the matrices of layers over several passes.

    Args:
        seeds: The vectors' factors and signs, of all processes; ascending by sample.
        samples: Which samples are this process's.
        widths: Elements of the weight for one output channel of each group, by layer.
        dtype: Of the gradients.
        shard: This process's part.
    """

    def __init__(
        self, seeds: Seeds, samples: slice, widths: Mapping[str, int], dtype: torch.dtype, shard: Shard
    ) -> None:
        self._seeds = seeds
        first, end = torch.searchsorted(seeds.samples, torch.tensor([samples.start, samples.stop])).tolist()
        self._own = slice(first, end)
        self._widths = widths
        self._dtype = dtype
        self._shard = shard
        self._scale = seeds.factors.sqrt().unsqueeze(1)
        self._matrices: dict[str, Tensor] = {}
        self._stored: dict[str, Tensor] = {}
        self._parts: dict[str, GramPart] = {}

    def begin(self, parts: Sequence[GramPart]) -> None:
        """Starts a pass.

        Args:
            parts: What is found in it.
        """
        self._parts = {part.layer: part for part in parts}
        for name, part in self._parts.items():
            width = self._widths[name] * (part.channels.stop - part.channels.start)
            side = width if part.on_weights else len(self._seeds)
            if name not in self._matrices:
                self._matrices[name] = torch.zeros(side, side, dtype=torch.float64)
            if not part.on_weights:
                self._stored[name] = torch.zeros(self._own.stop - self._own.start, width, dtype=self._dtype)

    def add(self, name: str, seeds: Tensor, columns: Tensor, gradients: Tensor) -> None:
        """Takes the weight gradients of a chunk.

        Args:
            name: Layer; those without a part in this pass are ignored.
            seeds: Which vectors, `[S, M]`; others than the first K, and -1, are ignored.
            columns: See `patches`.
            gradients: See `channel_gradients`.
        """
        part = self._parts.get(name)
        wanted = (seeds >= 0) & (seeds < len(self._seeds))
        if part is None or not wanted.any():
            return
        vectors = weight_gradients(columns, gradients[:, :, :, part.channels])[wanted.to(gradients.device)].cpu()
        which = seeds[wanted]
        if part.on_weights:
            scaled = vectors.double() * self._scale[which]
            self._matrices[name].addmm_((scaled * self._seeds.signs[which].unsqueeze(1)).mT, scaled)
        else:
            self._stored[name][which - self._own.start] = vectors

    def finish(self) -> dict[str, Tensor]:
        """Ends a pass: stored gradients are multiplied and forgotten.

        Returns:
            All eigenvalues of the layers that are complete: descending, float64 `[min(K, n)]`. Rounding makes up to
            `side * max(eps64, eps^2)` of the largest.
        """
        for name in [name for name, part in self._parts.items() if not part.on_weights]:
            for columns in torch.split(self._stored.pop(name), _COLUMNS_AT_ONCE, dim=1):
                _add_lower_triangle(self._matrices[name], self._shard.gather(columns.double()) * self._scale)
        return {name: self._eigenvalues(name) for name, part in self._parts.items() if part.last}

    def _eigenvalues(self, name: str) -> Tensor:
        matrix = self._matrices.pop(name)
        if not matrix.numel():
            return matrix.new_zeros(0)
        found: Tensor
        if self._parts[name].on_weights:
            found = torch.linalg.eigvalsh(self._shard.sum(matrix))
        elif bool((self._seeds.signs > 0).all()):
            found = torch.linalg.eigvalsh(matrix)
        else:
            squares, vectors = torch.linalg.eigh(matrix)
            half = vectors * squares.clamp_min(0).sqrt()
            found = torch.linalg.eigvalsh(half.mT @ (half * self._seeds.signs.unsqueeze(1)))
        return found.flip(0)


def _add_lower_triangle(matrix: Tensor, columns: Tensor) -> None:
    """Adds `columns columns^T`; only what `torch.linalg.eigh` reads, and a little more, is right."""
    for begin in range(0, len(columns), _ROWS_AT_ONCE):
        end = begin + _ROWS_AT_ONCE
        matrix[begin:end, :end] += columns[begin:end] @ columns[:end].mT


def largest_eigenvalues(eigenvalues: Tensor, count: int, dimension: int) -> tuple[float, ...]:
    """The largest eigenvalues of a block from those of its smaller side: all others are 0.

    Args:
        eigenvalues: Of the smaller side, `[side]`.
        count: How many are wanted.
        dimension: Rows of the block.

    Returns:
        At most `dimension` values, largest first.
    """
    zeros = eigenvalues.new_zeros(min(count, dimension - len(eigenvalues)))
    return tuple(torch.cat([eigenvalues, zeros]).sort(descending=True).values[:count].tolist())
