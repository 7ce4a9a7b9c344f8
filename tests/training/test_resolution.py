"""Images at a variant's resolution."""

import numpy as np
import torch

from codesign.training.dataset import Dataset
from codesign.training.options import Preprocessing
from codesign.training.preprocessing import preprocess
from codesign.training.resolution import at_resolution, fitting_data


def test_the_size_that_fits_is_left_alone() -> None:
    images = torch.randn(2, 3, 8, 8)
    assert at_resolution(images, (1, 3, 8, 8)) is images
    features = torch.randn(2, 5)
    assert at_resolution(features, (1, 7)) is features


def test_scaling_keeps_constants_and_the_mean() -> None:
    assert torch.allclose(at_resolution(torch.ones(1, 2, 8, 8), (1, 2, 5, 5)), torch.ones(1, 2, 5, 5))
    images = torch.rand(1, 1, 8, 8)
    halved = at_resolution(images, (1, 1, 4, 4))
    assert halved.shape == (1, 1, 4, 4)
    assert abs(float(halved.mean() - images.mean())) < 0.05


def test_data_sets_are_scaled_after_preprocessing() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), dtype=np.uint8)
    dataset, preprocessing = Dataset.of(images, [0, 1, 2, 1, 0], "five"), Preprocessing(scale=1 / 255, mean=(0.4,))
    same = fitting_data(dataset, preprocessing, (1, 3, 8, 8))
    assert same == (dataset, preprocessing)
    smaller = fitting_data(dataset, preprocessing, (1, 3, 4, 4))
    expected = at_resolution(torch.from_numpy(preprocess(images, preprocessing)), (1, 3, 4, 4)).numpy()
    assert np.array_equal(preprocess(smaller.dataset.images, smaller.preprocessing), expected)
    assert smaller.dataset.class_names == dataset.class_names
