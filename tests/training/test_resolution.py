"""Images at a variant's resolution."""

import torch

from codesign.training.resolution import at_resolution


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
