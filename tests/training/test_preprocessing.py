"""Stored images to model input, against the formula written out; and data that does not fit."""

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.training.dataset import Dataset
from codesign.training.options import Preprocessing
from codesign.training.preprocessing import check_fits, preprocess

IMAGES = np.random.default_rng(0).integers(0, 256, size=(5, 6, 4, 3), dtype=np.uint8)
COLOUR = Preprocessing(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
CHANNELS_FIRST = Preprocessing(layout="NCHW")
LABELS = np.array([0, 1, 2, 3, 4])


def test_formula_and_layout() -> None:
    got = preprocess(IMAGES, COLOUR)
    assert got.shape == (5, 3, 6, 4)
    assert str(got.dtype) == "float32"
    assert got.flags.c_contiguous
    for sample, row, column, channel in np.ndindex(IMAGES.shape):
        exact = (IMAGES[sample, row, column, channel] / 255 - COLOUR.mean[channel]) / COLOUR.std[channel]
        assert got[sample, channel, row, column] == pytest.approx(exact, abs=1e-6)


def test_images_without_channel_axis_have_one_channel() -> None:
    assert np.array_equal(
        preprocess(IMAGES[..., 0], Preprocessing()), IMAGES[:, np.newaxis, :, :, 0].astype(np.float32)
    )


def test_channels_first_is_any_rank() -> None:
    sequence = np.ones((2, 7, 3), dtype=np.float32)
    assert np.array_equal(preprocess(sequence, CHANNELS_FIRST), sequence)
    per_channel = Preprocessing(layout="NCHW", mean=tuple(float(i) for i in range(7)))
    assert preprocess(sequence, per_channel)[0, :, 0].tolist() == [1.0 - i for i in range(7)]


@pytest.mark.parametrize(
    ("images", "preprocessing", "input_shape"),
    [
        (IMAGES, COLOUR, (1, 3, 6, 4)),
        (IMAGES[..., 0], Preprocessing(), (1, 1, 6, 4)),
        (IMAGES, CHANNELS_FIRST, (1, 6, 4, 3)),
    ],
)
def test_fitting_data_passes(
    images: NDArray[np.uint8], preprocessing: Preprocessing, input_shape: tuple[int, ...]
) -> None:
    dataset = Dataset.of(images, LABELS, "d")
    check_fits(dataset, preprocessing, input_shape, (1, 5))
    assert preprocess(images, preprocessing).shape[1:] == input_shape[1:]


@pytest.mark.parametrize(
    ("images", "preprocessing", "input_shape", "message"),
    [
        (
            IMAGES,
            COLOUR,
            (1, 3, 8, 8),
            r"\[3, 6, 4\] as channels, height, width, but the model takes \[3, 8, 8\]; resize",
        ),
        (IMAGES, Preprocessing(), (1, 1, 6, 4), r"store images with 1 channel"),
        (IMAGES, CHANNELS_FIRST, (1, 3, 6, 4), r"set preprocessing.layout to 'NHWC'"),
        (IMAGES[..., 0], COLOUR, (1, 1, 6, 4), "mean and std are for 3 channels, but images of d have 1"),
        (IMAGES[..., 0, 0], Preprocessing(), (1, 6), "have no layout NHWC"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    images: NDArray[np.uint8], preprocessing: Preprocessing, input_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_fits(Dataset.of(images, LABELS, "d"), preprocessing, input_shape, (1, 5))


def test_labels_must_have_logits() -> None:
    with pytest.raises(InputError, match="sample 4 has label 4, allowed are 0 to 3"):
        check_fits(Dataset.of(IMAGES, LABELS, "d"), COLOUR, (1, 3, 6, 4), (1, 4))


def test_labels_per_position_must_match_logits() -> None:
    dataset = Dataset.of(IMAGES, np.zeros((5, 7), dtype=int), "d")
    check_fits(dataset, COLOUR, (1, 3, 6, 4), (1, 7, 2))
    with pytest.raises(InputError, match=r"one sample have shape \[7\], but the model gives logits for positions of"):
        check_fits(dataset, COLOUR, (1, 3, 6, 4), (1, 2))
