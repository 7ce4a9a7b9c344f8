"""Images at the resolution of a variant."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def at_resolution(images: Tensor, input_shape: Sequence[int]) -> Tensor:
    """Scales images to the size that a network takes, bilinearly and with antialiasing.

    Args:
        images: Prepared images, `[N, C, H, W]`; other inputs are left as they are.
        input_shape: The network's input with a batch of one.

    Returns:
        `[N, C, H', W']`.
    """
    size = tuple(input_shape[2:])
    if images.ndim != 4 or tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
