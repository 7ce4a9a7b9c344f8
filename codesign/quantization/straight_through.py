"""Quantised weights that gradients pass through, for training in torch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from codesign.errors import InputError, closest
from codesign.quantization.scheme import WEIGHT_BITS

_SMALLEST_SCALE = 1e-30  # as in `quantizer`, whose integers these values stand for


def fake_quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """The values that a quantised weight stands for: those of `quantizer.quantize_weight`, a scale per output channel.

    The gradient is that of the identity (straight-through estimator, Bengio et al., arXiv 1308.3432). A positive factor
    per output channel, such as a folded BatchNorm's, scales the result alike, so it may be quantised before folding.

    Args:
        weight: `[C_out, ...]`.
        bits: Width, at least 2.

    Returns:
        Same shape.
    """
    largest = 2 ** (bits - 1) - 1
    with torch.no_grad():
        scales = weight.abs().flatten(1).amax(1) / largest
        scales = torch.where(scales < _SMALLEST_SCALE, 1.0, scales).reshape(-1, *(1,) * (weight.ndim - 1))
        change = (weight / scales).round_().clamp_(-largest, largest).mul_(scales).sub_(weight)
    return weight + change


def fake_quantize_weights(weights: Mapping[str, Tensor], bits: Mapping[str, int]) -> dict[str, Tensor]:
    """Some of a network's weights quantised, see `fake_quantize_weight`.

    Args:
        weights: By parameter name.
        bits: Widths by parameter name; the others stay as they are.

    Returns:
        All of them, by parameter name.

    Raises:
        InputError: A name or a width is unknown.
    """
    result = dict(weights)
    for name, width in bits.items():
        if name not in weights:
            raise InputError(f"weight bits: the network has no parameter {name!r}{closest(name, weights)}")
        if width not in WEIGHT_BITS:
            raise InputError(f"weight bits of {name!r}: got {width}, allowed are {WEIGHT_BITS}; choose one of these")
        result[name] = fake_quantize_weight(weights[name], width)
    return result
