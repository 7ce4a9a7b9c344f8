"""BatchNorm statistics of a network whose weights were not trained with them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from codesign.quantization.straight_through import fake_quantize_weights


def recalibrate(
    module: nn.Module, images: Tensor, bits: Mapping[str, int] | None = None, batch_size: int = 256
) -> None:
    """Replaces the running statistics of all BatchNorm layers by the mean over batches of those of each batch.

    Images must come from the training data: what is searched or tested on must not decide the network.

    Args:
        module: Changed in place, and put in evaluation mode. Without BatchNorm layers it stays as it is.
        images: Prepared training images at the network's resolution, `[N, ...]`.
        bits: Widths of weights, by parameter name: statistics are those of the network with these weights quantised.
        batch_size: Largest batch; the batches are of nearly equal size.
    """
    module.eval()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    weights = fake_quantize_weights({name: p.detach() for name, p in module.named_parameters()}, bits or {})
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
        layer.train()
    with torch.no_grad():
        for batch in images.chunk(-(-len(images) // batch_size)):
            functional_call(module, weights, (batch,))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
