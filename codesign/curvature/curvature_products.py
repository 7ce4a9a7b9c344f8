"""Products of curvature matrices with vectors, summed over parts of the data in kept or rebuilt gradient graphs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from codesign.curvature.loss import Loss
from codesign.curvature.tapped_network import WeightedForward
from codesign.data_parallel import Shard
from codesign.errors import InputError, first_line

SWEEPS_OF_A_GRAPH = 2
"""One forward, and one backward that can be differentiated again."""

SWEEPS_OF_A_PRODUCT = 2
"""Differentiating the backward runs through its graph once forwards and once backwards."""


@dataclass(frozen=True)
class Part:
    """The network after it has run on some of the samples.

    Attributes:
        weights: Where the curvature is taken, by name; leaves of the graph of `outputs`.
        outputs: `[N, ...]`.
        targets: Of these samples.
        loss: Whose curvature is wanted.
        rows: Rows of all samples, those of other parts included: the loss is a mean over them.
    """

    weights: Mapping[str, Tensor]
    outputs: Tensor
    targets: Tensor
    loss: Loss
    rows: int


class Backward:
    """Gradients for several output gradients at once, one after the other where torch cannot batch an operation."""

    def __init__(self) -> None:
        self._batched = True

    def __call__(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Products with the transposed Jacobian; the graph is kept.

        Args:
            outputs: What is differentiated, M tensors.
            inputs: In what, K tensors.
            vectors: M tensors `[B, *shape of the output]`.

        Returns:
            K tensors `[B, *shape of the input]`; None where no output depends on an input.

        Raises:
            InputError: An operation has no derivative.
        """
        if self._batched:
            try:
                return self._run(outputs, inputs, vectors, batched=True)
            except RuntimeError:  # no batched form; a real fault shows again below
                self._batched = False
        try:
            single = [self._run(outputs, inputs, one, batched=False) for one in zip(*vectors, strict=True)]
        except RuntimeError as error:
            raise not_differentiable(error) from error
        columns = zip(*single, strict=True)
        return [None if column[0] is None else torch.stack([g for g in column if g is not None]) for column in columns]

    @staticmethod
    def _run(
        outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor], batched: bool
    ) -> list[Tensor | None]:
        return list(
            torch.autograd.grad(
                list(outputs),
                list(inputs),
                list(vectors),
                retain_graph=True,
                is_grads_batched=batched,
                allow_unused=True,
            )
        )


class ProductGraph(Protocol):
    """A gradient graph over a part of the data that can be multiplied with vectors again and again."""

    def product(self, vectors: Mapping[str, Tensor], backward: Backward) -> Mapping[str, Tensor | None]:
        """This part's share of the product with the matrix whose rows and columns are the named weights.

        Args:
            vectors: `[B, *weight]` for each of these weights.
            backward: Runs the differentiation.

        Returns:
            `[B, *weight]` for each, None for zero.
        """
        ...


GraphOf = Callable[[Part], ProductGraph]


class CurvatureProducts:
    """Products of a curvature matrix of a mean loss with vectors, jointly in all weights or in each alone.

    If all samples of this process fit one graph it is built once and kept; otherwise each part's graph is built for
    each call and dropped, so that memory does not grow with the number of parts. Sums over parts are in float64.

    Args:
        graph_of: Builds the graph of one part; says which matrix this is.
        forward: The network as a function of the weights.
        weights: Where the curvature is taken, by name, all of one floating type and device.
        inputs: `[N, ...]`: all samples, in every process.
        targets: `[N, ...]`.
        loss: A mean over rows.
        samples_at_once: Samples in one graph, None for all; changes memory and time only.
        shard: Which part of the samples is this process's.
        vectors_at_once: Vectors in one batched backward; changes memory and time only.

    Raises:
        InputError: There are no weights or samples, types differ, or a size is out of range.
    """

    def __init__(
        self,
        graph_of: GraphOf,
        forward: WeightedForward,
        weights: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        loss: Loss,
        samples_at_once: int | None = 64,
        shard: Shard | None = None,
        vectors_at_once: int = 4,
    ) -> None:
        _check_data(weights, inputs, targets)
        _check_size("samples_at_once", samples_at_once)
        _check_size("vectors_at_once", vectors_at_once)
        self._graph_of = graph_of
        self._forward = forward
        self._weights = {name: weight.detach() for name, weight in weights.items()}
        self._loss = loss
        self._shard = shard or Shard()
        self._samples = len(inputs)
        own = self._shard.bounds(self._samples)
        size = samples_at_once or self._samples
        self._parts = list(zip(torch.split(inputs[own], size), torch.split(targets[own], size), strict=True))
        self._vectors_at_once = vectors_at_once
        self._backward = Backward()
        self._kept: ProductGraph | None = None
        self.passes_over_data = 0.0

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Where the curvature is taken, by name."""
        return self._weights

    def joint(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Products with the matrix in all weights.

        Cost: two sweeps over the data for each of B vectors, and two for the graph unless it is kept.

        Args:
            vectors: `[B, *weight]` for every weight.

        Returns:
            `[B, *weight]` in float64 for every weight.
        """
        self.passes_over_data += SWEEPS_OF_A_PRODUCT * len(next(iter(vectors.values())))
        return self._products([list(vectors)], vectors)

    def blocks(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Products with the diagonal blocks, each weight alone; all of them share the gradient graphs.

        Cost: counted as two sweeps for each vector and two for the graph unless it is kept; a product with the block
        of a late layer costs less, for it runs through the layers from this one on only.

        Args:
            vectors: `[B, *weight]` for each weight whose block is wanted; B may differ.

        Returns:
            `[B, *weight]` in float64 for each of them.
        """
        self.passes_over_data += SWEEPS_OF_A_PRODUCT * sum(map(len, vectors.values()))
        return self._products([[name] for name in vectors], vectors)

    def _products(self, groups: Sequence[Sequence[str]], vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(vector, dtype=torch.float64) for name, vector in vectors.items()}
        for graph in self._graphs(list(vectors)):
            for names in groups:
                for columns in _slices(len(vectors[names[0]]), self._vectors_at_once):
                    chunk = {name: vectors[name][columns] for name in names}
                    for name, found in graph.product(chunk, self._backward).items():
                        if found is not None:
                            total[name][columns] += found
        total = self._shard.sum_all(total)
        for name, found in total.items():
            if not torch.isfinite(found).all():
                raise InputError(
                    f"curvature: a product is NaN or infinite in weight {name!r}; the loss has no finite second "
                    f"derivative there: check the weights, the data and the loss"
                )
        return total

    def _graphs(self, names: Sequence[str]) -> Iterator[ProductGraph]:
        if self._kept is not None:
            yield self._kept
            return
        self.passes_over_data += SWEEPS_OF_A_GRAPH
        if len(self._parts) == 1:
            self._kept = self._graph(*self._parts[0], list(self._weights))
            yield self._kept
            return
        for inputs, targets in self._parts:
            yield self._graph(inputs, targets, names)

    def _graph(self, inputs: Tensor, targets: Tensor, names: Sequence[str]) -> ProductGraph:
        leaves = {name: self._weights[name].clone().requires_grad_() for name in names}
        # The fused attention kernels cannot be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            outputs = self._forward(inputs, {**self._weights, **leaves})
            if not outputs.ndim or len(outputs) != len(inputs):
                raise InputError(
                    f"curvature: the network returned shape {tuple(outputs.shape)} for {len(inputs)} samples, allowed "
                    f"is {len(inputs)} on the first axis; give a network whose first axis runs over samples"
                )
            rows = self._loss.as_rows(outputs).shape[1] * self._samples
            return self._graph_of(Part(leaves, outputs, targets, self._loss, rows))


def gradients(total: Tensor, inputs: Sequence[Tensor], vector: Tensor | None = None) -> list[Tensor | None]:
    """Gradients that can be differentiated again.

    Args:
        total: A scalar, or a tensor that is contracted with `vector`.
        inputs: In what.
        vector: Of the shape of `total`.

    Returns:
        One for each input; None where the gradient is constant, so that its derivative is zero.

    Raises:
        InputError: An operation has no derivative.
    """
    if not total.requires_grad:
        return [None] * len(inputs)
    try:
        found = torch.autograd.grad(total, list(inputs), vector, create_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise not_differentiable(error) from error
    kept = [gradient if gradient is not None and gradient.requires_grad else None for gradient in found]
    _check_twice_differentiable(kept)
    return kept


def _check_twice_differentiable(found: Sequence[Tensor | None]) -> None:
    """Looks for what torch leaves where a function is marked as differentiable once only.

    It is not connected to the weights, so that torch itself would pass it over and silently give a wrong product.
    """
    waiting = [gradient.grad_fn for gradient in found if gradient is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::Error":
            raise not_differentiable(RuntimeError("a function is marked as once_differentiable"))
        following = {after for after, _ in node.next_functions} - seen
        seen |= following
        waiting += following


def not_differentiable(error: RuntimeError) -> InputError:
    """What to tell a user whose network or loss has no second derivative.

    Args:
        error: As torch raised it.

    Returns:
        The error to raise.
    """
    return InputError(
        f"curvature: the loss cannot be differentiated twice ({first_line(error)}); compose the network and the loss "
        f"of torch operations that can"
    )


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _check_size(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"curvature: {name} is {value}, allowed are 1 or more; try the default")


def _check_data(weights: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> None:
    if not weights or not any(weight.numel() for weight in weights.values()):
        raise InputError("curvature: got no weights, allowed are one or more; give a network with parameters")
    kinds = {(weight.dtype, weight.device) for weight in weights.values()}
    if len(kinds) > 1 or not next(iter(kinds))[0].is_floating_point:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise InputError(f"curvature: got weights of {found}, allowed is one floating type; convert the network")
    if not inputs.ndim or not targets.ndim or not len(inputs) or len(inputs) != len(targets):
        raise InputError(
            f"curvature: got inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}, allowed are as many "
            f"targets as samples, at least one; give a target for each sample"
        )
