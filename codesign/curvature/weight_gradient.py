"""Weight gradients of one sample for several output gradients, and their norms without forming them where cheaper."""

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.curvature.tapped_network import LayerGeometry, Linear


def patches(geometry: LayerGeometry, entering: Tensor, leaving_shape: torch.Size) -> Tensor:
    """What each weight is multiplied with at each place of the output, for one sample.

    Args:
        geometry: How the weight meets the input.
        entering: Input of the layer for one sample: `[R, C_in, (H,) W]` for a convolution, `[R, ..., in]` for a linear
            layer; R is 1 unless the network folds other axes into the first.
        leaving_shape: Shape of the output for that sample, R first.

    Returns:
        `[groups, K, T]`: K weights an output channel, T places.
    """
    if isinstance(geometry, Linear):
        return entering.reshape(1, -1, entering.shape[-1]).mT * geometry.scale
    image = _as_image(entering)
    size = _as_image_size(leaving_shape)
    padding: list[int] = []
    for axis in (1, 0):  # F.pad counts axes from the last
        reach = (size[axis] - 1) * geometry.stride[axis] + geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        begin = geometry.padding[axis]
        padding += [begin, reach - image.shape[2 + axis] - begin]
    columns = F.unfold(F.pad(image, padding), geometry.kernel, geometry.dilation, 0, geometry.stride)
    rows, depth, places = columns.shape
    grouped = columns.reshape(rows, geometry.groups, depth // geometry.groups, places)
    return grouped.permute(1, 2, 0, 3).flatten(2)


def channel_gradients(geometry: LayerGeometry, gradients: Tensor) -> Tensor:
    """Gradients at a layer's output with channels and places apart.

    Args:
        geometry: How the weight meets the input.
        gradients: `[M, R, C_out, (H,) W]` for a convolution, `[M, R, ..., out]` for a linear layer.

    Returns:
        `[groups, M, C_out / groups, T]`.
    """
    count = gradients.shape[0]
    if isinstance(geometry, Linear):
        return gradients.reshape(1, count, -1, gradients.shape[-1]).mT
    spread = gradients.flatten(3).transpose(1, 2).flatten(2)  # [M, C_out, R * T]
    return spread.reshape(count, geometry.groups, -1, spread.shape[2]).transpose(0, 1)


def weight_gradients(columns: Tensor, gradients: Tensor) -> Tensor:
    """Gradients of the weight, one for each output gradient of one sample.

    Args:
        columns: `[groups, K, T]` of `patches`.
        gradients: `[groups, M, C, T]` of `channel_gradients`.

    Returns:
        `[M, groups * C * K]`: convolution weights in their own order, linear weights as `[out, in]`.
    """
    groups, count, channels, _ = gradients.shape
    product = gradients.flatten(1, 2) @ columns.mT
    return product.view(groups, count, -1).transpose(0, 1).reshape(count, groups * channels * columns.shape[1])


def squared_gradient_norms(columns: Tensor, gradients: Tensor) -> Tensor:
    """Squared norms of `weight_gradients`, summed in float64.

    With patches `U` `[K, T]` and an output gradient `g` `[C, T]` of one group the gradient is `g U^T`. Its squared norm
    is also `<g (U^T U), g>`, which is cheaper where the output has few places (Gram form). Multiply-adds for M output
    gradients: `M C K T` directly, `K T^2 + M C T^2` in Gram form.

    Args:
        columns: `[groups, K, T]` of `patches`.
        gradients: `[groups, M, C, T]` of `channel_gradients`.

    Returns:
        `[M]` in float64.
    """
    _, count, channels, places = gradients.shape
    depth = columns.shape[1]
    if places * (depth + count * channels) < count * channels * depth:
        gram = columns.mT @ columns
        product = (gradients.flatten(1, 2) @ gram).view_as(gradients)
        return (product * gradients).sum(dim=(0, 2, 3), dtype=torch.float64)
    product = gradients.flatten(1, 2) @ columns.mT
    return product.square_().sum(-1, dtype=torch.float64).view(-1, count, channels).sum(dim=(0, 2))


def _as_image(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(2) if tensor.ndim == 3 else tensor


def _as_image_size(shape: torch.Size) -> tuple[int, int]:
    return (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])
