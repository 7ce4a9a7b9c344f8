"""Random changes of training images that keep their class."""

import numpy as np
from numpy.typing import NDArray

Batch = NDArray[np.float32]


def flip_at_random(images: Batch, generator: np.random.Generator) -> Batch:
    """Mirrors each image left to right with probability 1/2.

    Args:
        images: `[N, C, H, W]`.
        generator: Source of the choice.

    Returns:
        `[N, C, H, W]`.
    """
    mirrored = generator.random(len(images)) < 0.5
    return np.where(mirrored[:, np.newaxis, np.newaxis, np.newaxis], images[..., ::-1], images)


def crop_at_random(images: Batch, padding: int, generator: np.random.Generator) -> Batch:
    """Puts a border of zeros around each image and cuts a window of the old size out at random.

    Args:
        images: `[N, C, H, W]`.
        padding: Width P of the border; each offset from 0 to 2P is as likely as any other, in both directions.
        generator: Source of the offsets.

    Returns:
        `[N, C, H, W]`.
    """
    count, _, height, width = images.shape
    border = (padding, padding)
    padded = np.pad(images, ((0, 0), (0, 0), border, border))
    offsets = generator.integers(0, 2 * padding + 1, size=(2, count, 1, 1))
    rows = offsets[0] + np.arange(height)[:, np.newaxis]  # [N, H, 1]
    columns = offsets[1] + np.arange(width)  # [N, 1, W]
    windows = padded[np.arange(count)[:, np.newaxis, np.newaxis], :, rows, columns]  # [N, H, W, C]
    return np.ascontiguousarray(windows.transpose(0, 3, 1, 2))
