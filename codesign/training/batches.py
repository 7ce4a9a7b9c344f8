"""The batches of an epoch: shuffled, preprocessed and augmented."""

from collections.abc import Iterator

import numpy as np
import torch

from codesign.training.augmentation import crop_at_random, flip_at_random
from codesign.training.dataset import Dataset
from codesign.training.options import Preprocessing, TrainingOptions
from codesign.training.preprocessing import preprocess

Batch = tuple[torch.Tensor, torch.Tensor]


def steps_per_epoch(dataset: Dataset, options: TrainingOptions) -> int:
    """How many batches `batches` yields.

    Args:
        dataset: What is trained on.
        options: Batch size.

    Returns:
        At least 1.
    """
    return max(1, len(dataset) // options.batch_size)


def batches(
    dataset: Dataset, preprocessing: Preprocessing, options: TrainingOptions, generator: np.random.Generator
) -> Iterator[Batch]:
    """One epoch in random order, without an incomplete batch unless it is the only one.

    Args:
        dataset: What is trained on.
        preprocessing: How it is prepared.
        options: Batch size and augmentation.
        generator: Decides order and augmentation.

    Yields:
        Images `[N, ...]` and labels `[N, ...]`.
    """
    order = generator.permutation(len(dataset))
    whole = len(order) - len(order) % options.batch_size or len(order)
    for start in range(0, whole, options.batch_size):
        chosen = order[start : start + options.batch_size]
        images = preprocess(dataset.images[chosen], preprocessing)
        if options.horizontal_flip:
            images = flip_at_random(images, generator)
        if options.crop_padding:
            images = crop_at_random(images, options.crop_padding, generator)
        yield torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(dataset.labels[chosen])
