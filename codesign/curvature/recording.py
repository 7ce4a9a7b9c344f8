"""One forward pass of a tapped network that keeps what weight gradients of single samples are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from codesign.curvature.loss import Loss
from codesign.curvature.tapped_network import TappedNetwork
from codesign.errors import CodesignError, InputError


@dataclass(frozen=True)
class Recording:
    """A forward pass over S samples, ready to be differentiated.

    Attributes:
        rows: Outputs `[S, R, C]`, as the loss sees them.
        leaving: Where the gradient in each layer's output is found.
        leaving_shapes: Shape of each layer's output, samples first.
        entering: What entered each layer.
        entering_edges: Where the gradient in it is found, of the layers whose input is asked about.
        entering_elements: Elements of what those edges' gradients will hold.
    """

    rows: Tensor
    leaving: dict[str, GradientEdge]
    leaving_shapes: dict[str, torch.Size]
    entering: dict[str, Tensor]
    entering_edges: dict[str, GradientEdge]
    entering_elements: int

    def backward(self, seeds: Tensor, last: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients of `sum(rows * seeds)`.

        Args:
            seeds: `[S, R, C]`.
            last: Whether the pass is not needed again.

        Returns:
            In the outputs of layers, and in what enters layers; none for those that the outputs do not depend on.
        """
        edges = [*self.leaving.values(), *self.entering_edges.values()]
        if not edges or not self.rows.requires_grad:
            return {}, {}
        found = torch.autograd.grad(self.rows, edges, seeds.to(self.rows), retain_graph=not last, allow_unused=True)
        outputs, inputs = found[: len(self.leaving)], found[len(self.leaving) :]
        return (
            {name: value for name, value in zip(self.leaving, outputs, strict=True) if value is not None},
            {name: value for name, value in zip(self.entering_edges, inputs, strict=True) if value is not None},
        )


def record(
    network: TappedNetwork, inputs: Tensor, loss: Loss, layers: Sequence[str], activations: Sequence[str] = ()
) -> Recording:
    """Runs the network forward with its graph kept.

    Args:
        network: The network.
        inputs: `[S, ...]`.
        loss: Says which outputs form a row.
        layers: Layers whose output gradients are wanted.
        activations: Layers for which the gradient in what enters them is wanted.

    Returns:
        The recording.

    Raises:
        CodesignError: A layer does not run exactly once, or its input is changed in place afterwards.
        InputError: What enters a layer of `activations` cannot be differentiated.
    """
    found = Recording(inputs, {}, {}, {}, {}, 0)
    versions: list[tuple[str, Tensor, int]] = []
    elements: list[int] = []
    uses = dict.fromkeys([*layers, *activations], 0)

    def tap(name: str, entering: Tensor, leaving: Tensor) -> Tensor:
        if name not in uses:
            return leaving
        uses[name] += 1
        if name in activations:
            found.entering_edges[name] = _edge(name, entering)
            elements.append(entering.numel())
        if name in layers:
            if not leaving.requires_grad:
                leaving = leaving.detach().requires_grad_().clone()  # a copy, since the network may change it in place
            found.leaving[name] = get_gradient_edge(leaving)
            found.leaving_shapes[name] = leaving.shape
            found.entering[name] = entering.detach()
            versions.append((name, found.entering[name], entering._version))
        return leaving

    if activations and inputs.is_floating_point():
        inputs = inputs.detach().requires_grad_().clone()
    with torch.enable_grad():
        rows = loss.as_rows(network(inputs, tap))
    _check_uses(uses)
    for name, entering, version in versions:
        if entering._version != version:
            raise CodesignError(
                f"layer {name!r}: its input was changed in place after the layer ran; "
                f"write the operation after it without inplace=True"
            )
    return Recording(rows, found.leaving, found.leaving_shapes, found.entering, found.entering_edges, sum(elements))


def check_activations(network: TappedNetwork, inputs: Tensor, loss: Loss, activations: Sequence[str]) -> None:
    """Checks that taps see the very tensors that the network goes on with, by one forward and backward pass.

    Args:
        network: The network.
        inputs: `[S, ...]`.
        loss: Says which outputs form a row.
        activations: Layers for which the gradient in what enters them is wanted.

    Raises:
        CodesignError: A tap sees a copy or another view, in which every gradient would be zero.
    """
    recording = record(network, inputs, loss, activations, activations)
    leaving, entering = recording.backward(torch.ones_like(recording.rows), last=True)
    for name in leaving.keys() - entering.keys():
        raise CodesignError(
            f"layer {name!r}: its tap sees a rearrangement of what enters it, so that the trace in it cannot be found; "
            f"leave this layer out"
        )


def _edge(name: str, entering: Tensor) -> GradientEdge:
    if not entering.requires_grad:
        raise InputError(
            f"layer {name!r}: what enters it is no differentiable function of the network's inputs, so that it has no "
            f"trace of its own; leave this layer out"
        )
    return get_gradient_edge(entering)


def _check_uses(uses: dict[str, int]) -> None:
    for name, count in uses.items():
        if count != 1:
            raise CodesignError(
                f"layer {name!r}: runs {count} times in a forward pass, only layers that run once have a Gauss-Newton "
                f"block of their own; estimate it with Hutchinson's method"
            )
