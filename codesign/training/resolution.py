"""Images at the resolution of a variant."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.training.dataset import Dataset
from codesign.training.options import Preprocessing
from codesign.training.preprocessing import preprocess


class FittingData(NamedTuple):
    """A data set with what still has to be done to it."""

    dataset: Dataset
    preprocessing: Preprocessing


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


def fitting_data(dataset: Dataset, preprocessing: Preprocessing, input_shape: Sequence[int]) -> FittingData:
    """A data set at the resolution of a network, scaled as `at_resolution` does.

    Args:
        dataset: As stored.
        preprocessing: How it is prepared.
        input_shape: The network's input with a batch of one.

    Returns:
        What was given if the size fits; otherwise prepared images in float32, to which nothing needs to be done.
    """
    first = torch.from_numpy(preprocess(dataset.images[:1], preprocessing))
    if at_resolution(first, input_shape) is first:
        return FittingData(dataset, preprocessing)
    scaled = at_resolution(torch.from_numpy(preprocess(dataset.images, preprocessing)), input_shape)
    prepared = Dataset(scaled.numpy(), dataset.labels, dataset.class_names, dataset.source)
    return FittingData(prepared, Preprocessing(layout="NCHW"))
