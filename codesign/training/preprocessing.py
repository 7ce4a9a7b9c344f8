"""Turning stored images into a model's input, and refusing data that does not fit the model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.training.dataset import Dataset, Images, check_label_range
from codesign.training.options import Preprocessing


def preprocess(images: Images, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Computes (image * scale - mean) / std with channels first.

    Args:
        images: Stored images, as `Preprocessing.layout` says.
        preprocessing: The numbers.

    Returns:
        The model's input, float32 `[N, C, H, W]` (`NCHW`: the rank of `images`).
    """
    first = images if preprocessing.layout == "NCHW" else _channels_first(images)
    per_channel = (1, -1) + (1,) * (first.ndim - 2)
    mean = np.asarray(preprocessing.mean, dtype=np.float32).reshape(per_channel)
    std = np.asarray(preprocessing.std, dtype=np.float32).reshape(per_channel)
    scaled = (first * np.float64(preprocessing.scale)).astype(np.float32)  # correctly rounded: equals byte / 255
    prepared: NDArray[np.float32] = np.ascontiguousarray((scaled - mean) / std)
    return prepared


def check_fits(
    dataset: Dataset, preprocessing: Preprocessing, input_shape: Sequence[int], output_shape: Sequence[int]
) -> None:
    """Refuses a data set that a model cannot take.

    Args:
        dataset: The data.
        preprocessing: How it is prepared.
        input_shape: The model's input, batch of one included, such as `[1, 3, 32, 32]`.
        output_shape: The model's logits, batch of one included: `[1, classes]` or `[1, ..., classes]`.

    Raises:
        InputError: Image size, channel count, number of means, shape of labels or a label does not fit.
    """
    stored = dataset.images.shape[1:]
    if preprocessing.layout == "NHWC" and len(stored) not in {2, 3}:
        raise InputError(
            f"{dataset.source}: images of shape {list(stored)} have no layout NHWC; set preprocessing.layout = 'NCHW'"
        )
    got = list(_channels_first(dataset.images[:1]).shape[1:] if preprocessing.layout == "NHWC" else stored)
    channels = max(len(preprocessing.mean), len(preprocessing.std))
    if channels not in {1, got[0]}:
        raise InputError(
            f"preprocessing: mean and std are for {channels} channels, but images of {dataset.source} have {got[0]}; "
            "give one number per channel, or one for all"
        )
    expected = list(input_shape[1:])
    if got != expected:
        raise InputError(_misfit(dataset.source, got, expected, preprocessing.layout))
    check_labels_fit(dataset, output_shape)


def check_labels_fit(dataset: Dataset, output_shape: Sequence[int]) -> None:
    """Refuses labels that a model's logits cannot express.

    Args:
        dataset: The data.
        output_shape: Shape of logits, `[N, classes]` or `[N, ..., classes]` for any N.

    Raises:
        InputError: Labels are per sample where logits are per position, or the other way, or name no class.
    """
    got, expected = list(dataset.labels.shape[1:]), list(output_shape[1:-1])
    if got != expected:
        raise InputError(
            f"{dataset.source}: labels of one sample have shape {got}, but the model gives logits for positions of "
            f"shape {expected}; reshape the labels"
        )
    check_label_range(dataset.labels, output_shape[-1], dataset.source)


def _misfit(source: str, got: list[int], expected: list[int], layout: str) -> str:
    message = f"{source}: images are {got} as channels, height, width, but the model takes {expected}"
    if sorted(got) == sorted(expected):
        other = "NCHW" if layout == "NHWC" else "NHWC"
        return f"{message}; set preprocessing.layout to {other!r}"
    if got[0] != expected[0]:
        return f"{message}; store images with {expected[0]} channel(s), or use a model that takes {got[0]}"
    return f"{message}; resize the images, or use a model that takes this size"


def _channels_first(images: Images) -> Images:
    if images.ndim == 3:
        return images[:, np.newaxis]
    return images.transpose(0, 3, 1, 2)
