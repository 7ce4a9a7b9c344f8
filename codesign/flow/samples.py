"""Samples that a command names on its line, prepared for a network and checked against it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codesign.config import validate
from codesign.ir.program import Program
from codesign.pass_manager.base import CalibrationData
from codesign.progress import Progress
from codesign.training.dataset import Dataset
from codesign.training.loading import load_dataset
from codesign.training.options import Preprocessing
from codesign.training.preprocessing import check_fits, preprocess

OF_BYTES = 1 / 255
"""Default factor of images that are stored as bytes, so that mean and standard deviation are those of [0, 1]."""


@dataclass(frozen=True)
class ImageOptions:
    """How stored images become the network's input: (image * scale - mean) / std.

    Attributes:
        scale: Factor of raw values; None for 1/255 where images are bytes and 1 elsewhere.
        mean: One for each channel or one for all.
        std: One for each channel or one for all.
        layout: Of the stored images: NHWC or NCHW.
    """

    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NHWC"

    def preprocessing_of(self, dataset: Dataset) -> Preprocessing:
        """The numbers for one data set.

        Args:
            dataset: Stored images.

        Returns:
            Checked options.
        """
        default = OF_BYTES if dataset.images.dtype == np.uint8 else 1.0
        scale = default if self.scale is None else self.scale
        values = {"scale": scale, "mean": self.mean, "std": self.std, "layout": self.layout}
        return validate(Preprocessing, values, "--scale, --mean, --std, --layout")


def load_fitting(source: str, options: ImageOptions, program: Program, progress: Progress) -> Dataset:
    """Loads a data set and checks that the network can take it.

    Args:
        source: What `load_dataset` takes, relative to the current folder.
        options: How images are prepared.
        program: The network.
        progress: Told how far decoding is.

    Returns:
        All samples as they are stored.
    """
    dataset = load_dataset(source, Path(), progress)
    shape = program.graph.graph.outputs[0].shape
    assert shape is not None
    check_fits(dataset, options.preprocessing_of(dataset), program.input_shape, shape.numpy())
    return dataset


def prepared(dataset: Dataset, options: ImageOptions, part: slice) -> CalibrationData:
    """Prepares some samples.

    Args:
        dataset: Stored samples.
        options: How images are prepared.
        part: Which samples.

    Returns:
        The network's inputs with their labels.
    """
    images = preprocess(dataset.images[part], options.preprocessing_of(dataset))
    return CalibrationData(images, dataset.labels[part])
