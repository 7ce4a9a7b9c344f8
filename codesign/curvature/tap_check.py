"""Whether what enters and leaves a layer tells all of its weight's gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor

from codesign.curvature.loss import CrossEntropy, Loss
from codesign.curvature.recording import Recording, record
from codesign.curvature.tapped_network import TappedNetwork, WeightedForward
from codesign.curvature.weight_gradient import channel_gradients, patches, squared_gradient_norms

_SAMPLES = 2


def layers_seen_whole(
    network: TappedNetwork,
    forward: WeightedForward,
    weights: Mapping[str, Tensor],
    weight_of: Mapping[str, str],
    inputs: Tensor,
    loss: Loss | None = None,
    seed: int = 0,
) -> frozenset[str]:
    """Layers whose weight has no use that taps do not see, such as a norm of it that scales something else.

    For two samples and a random direction of the outputs the squared norm of the weight's gradient is found from taps
    and by autograd; another use changes it, almost surely. Cost: two forward and backward passes over two samples.

    Args:
        network: The network.
        forward: The same network as a function of its weights.
        weights: At least those in question, by name.
        weight_of: Layer to the name of its weight; the layers must run once.
        inputs: `[N, ...]`; the first two are used.
        loss: Says which outputs form a row; cross-entropy by default.
        seed: Of the directions.

    Returns:
        The layers for which both agree to the square root of the rounding unit.
    """
    loss = loss or CrossEntropy()
    generator = torch.Generator().manual_seed(seed)
    whole = set(weight_of)
    for sample in torch.split(inputs[:_SAMPLES], 1):
        recording = record(network, sample, loss, list(weight_of))
        direction = torch.randn(recording.rows.shape, generator=generator).to(recording.rows)
        tapped = _tapped_squares(network, recording, direction)
        leaves = {name: weights[name].detach().clone().requires_grad_() for name in weight_of.values()}
        with torch.enable_grad():
            mixed = (loss.as_rows(forward(sample, leaves)) * direction).sum()
        gradients = _gradients(mixed, leaves)
        for layer in sorted(whole):
            wanted = float(gradients[weight_of[layer]].square().sum(dtype=torch.float64))
            if abs(tapped.get(layer, 0.0) - wanted) > torch.finfo(inputs.dtype).eps ** 0.5 * wanted:
                whole.remove(layer)
    return frozenset(whole)


def _tapped_squares(network: TappedNetwork, recording: Recording, direction: Tensor) -> dict[str, float]:
    squares = {}
    for layer, gradient in recording.backward(direction, last=True)[0].items():
        geometry, entering = network.geometries[layer], recording.entering[layer][None]
        columns = patches(geometry, entering, gradient.shape)
        squares[layer] = float(squared_gradient_norms(columns, channel_gradients(geometry, gradient[None, None])))
    return squares


def _gradients(mixed: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not mixed.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(mixed, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
