"""Loop bounds of a torch module's layers, to price published networks without exporting them."""

from collections.abc import Callable

import torch
from torch import nn

from codesign.plan.facts import ConvGeometry


def geometries_of(build: Callable[[], nn.Module], input_shape: tuple[int, ...]) -> tuple[ConvGeometry, ...]:
    """Builds a module and runs it once, both on torch's meta device, where nothing is computed.

    Args:
        build: Makes a network of two-dimensional convolutions and linear layers.
        input_shape: `[N, C, H, W]`.

    Returns:
        Its convolutions and linear layers, in the order in which they run.
    """
    found: list[ConvGeometry] = []

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            found.append(_convolution(layer, inputs[0], output))
        elif isinstance(layer, nn.Linear):
            one = (1, 1)
            rows = output.numel() // layer.out_features
            found.append(ConvGeometry(rows, layer.in_features, layer.out_features, one, one, one, one, 1))

    with torch.device("meta"):
        module = build().eval()
        for layer in module.modules():
            layer.register_forward_hook(note)
        module(torch.empty(input_shape))
    return tuple(found)


def _convolution(layer: nn.Conv2d, entering: torch.Tensor, output: torch.Tensor) -> ConvGeometry:
    def pair(values: tuple[int, ...]) -> tuple[int, int]:
        return values[0], values[1]

    return ConvGeometry(
        batch=entering.shape[0],
        input_channels=layer.in_channels,
        output_channels=layer.out_channels,
        kernel=pair(layer.kernel_size),
        stride=pair(layer.stride),
        output_size=pair(tuple(output.shape[2:])),
        input_size=pair(tuple(entering.shape[2:])),
        groups=layer.groups,
        dilation=pair(layer.dilation),
    )
