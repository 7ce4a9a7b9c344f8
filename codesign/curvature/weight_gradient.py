"""Weight gradients of single samples for several output gradients, and their norms without forming them where cheaper.

Everything is batched over S samples with M output gradients each.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.curvature.tapped_network import Convolution, LayerGeometry, Linear


def patches(geometry: LayerGeometry, entering: Tensor, leaving_shape: torch.Size) -> Tensor:
    """What each weight is multiplied with at each place of the output, for every sample.

    Args:
        geometry: How the weight meets the input.
        entering: Input of the layer: `[S, R, C_in, (H,) W]` for a convolution, `[S, R, ..., in]` for a linear layer; R
            is 1 unless the network folds other axes into the first.
        leaving_shape: Shape of the output of one sample, R first.

    Returns:
        `[S, groups, K, T]`: K weights an output channel, T places.
    """
    if isinstance(geometry, Linear):
        return entering.reshape(len(entering), 1, -1, entering.shape[-1]).mT * geometry.scale
    rank = len(geometry.kernel)
    image = entering.unsqueeze(3) if entering.ndim == rank + 2 else entering  # a 1-D convolution has height 1
    places = ((1,) * rank + tuple(leaving_shape[2:]))[-rank:]
    padded = _padded(geometry, image.flatten(0, 1), places)
    # Windows as a view and one copy; several times faster than `F.unfold` on a CPU.
    outer, steps = padded.stride()[:2], padded.stride()[2:]
    windows = padded.as_strided(
        (*padded.shape[:2], *geometry.kernel, *places),
        (
            *outer,
            *(step * apart for step, apart in zip(steps, geometry.dilation, strict=True)),
            *(step * apart for step, apart in zip(steps, geometry.stride, strict=True)),
        ),
        padded.storage_offset(),
    )
    samples, folded = image.shape[:2]
    columns = windows.reshape(samples, folded, geometry.groups, -1, math.prod(places))
    return columns.permute(0, 2, 3, 1, 4).flatten(3)


def _padded(geometry: Convolution, image: Tensor, places: tuple[int, ...]) -> Tensor:
    """Padded to what the windows reach over; they may leave out the last rows and columns."""
    widths: list[int] = []
    for axis in range(len(places)):
        begin = geometry.padding[axis]
        reach = (places[axis] - 1) * geometry.stride[axis] + geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        widths = [begin, max(0, reach - image.shape[2 + axis] - begin), *widths]  # F.pad counts axes from the last
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    return F.pad(image, widths, mode=mode) if any(widths) else image


def channel_gradients(geometry: LayerGeometry, gradients: Tensor) -> Tensor:
    """Gradients at a layer's output with channels and places apart.

    Args:
        geometry: How the weight meets the input.
        gradients: `[S, M, R, C_out, (H,) W]` for a convolution, `[S, M, R, ..., out]` for a linear layer.

    Returns:
        `[S, groups, M, C_out / groups, T]`.
    """
    samples, count = gradients.shape[:2]
    if isinstance(geometry, Linear):
        return gradients.reshape(samples, 1, count, -1, gradients.shape[-1]).mT
    spread = gradients.flatten(4).transpose(2, 3).flatten(3)  # [S, M, C_out, R * T]
    return spread.view(samples, count, geometry.groups, -1, spread.shape[3]).transpose(1, 2)


def weight_gradients(columns: Tensor, gradients: Tensor) -> Tensor:
    """Gradients of the weight, one for each output gradient of each sample.

    Args:
        columns: `[S, groups, K, T]` of `patches`.
        gradients: `[S, groups, M, C, T]` of `channel_gradients`.

    Returns:
        `[S, M, groups * C * K]`: convolution weights in their own order, linear weights as `[out, in]`.
    """
    samples, groups, count, channels, _ = gradients.shape
    product = gradients.flatten(2, 3) @ columns.mT
    return product.view(samples, groups, count, channels, -1).transpose(1, 2).flatten(2)


def squared_gradient_norms(columns: Tensor, gradients: Tensor) -> Tensor:
    """Squared norms of `weight_gradients`, summed in float64.

    With patches `U` `[K, T]` and an output gradient `g` `[C, T]` of one group the gradient is `g U^T`. Its squared norm
    is also `<g (U^T U), g>`, which is cheaper where the output has few places (Gram form). Multiply-adds a sample and
    group for M output gradients: `M C K T` directly, `K T^2 + M C T^2` in Gram form.

    Args:
        columns: `[S, groups, K, T]` of `patches`.
        gradients: `[S, groups, M, C, T]` of `channel_gradients`.

    Returns:
        `[S, M]` in float64.
    """
    samples, groups, count, channels, places = gradients.shape
    depth = columns.shape[2]
    spread = gradients.flatten(2, 3)
    if places * (depth + count * channels) < count * channels * depth:
        product = spread @ (columns.mT @ columns) * spread
    else:
        product = (spread @ columns.mT).square_()
    return product.sum(-1, dtype=torch.float64).view(samples, groups, count, channels).sum(dim=(1, 3))
