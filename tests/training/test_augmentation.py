"""Random changes of images against all that they may produce."""

import numpy as np

from codesign.training.augmentation import crop_at_random, flip_at_random

IMAGES = np.random.default_rng(0).normal(size=(200, 2, 3, 4)).astype(np.float32)


def test_each_image_is_itself_or_its_mirror_image() -> None:
    got = flip_at_random(IMAGES, np.random.default_rng(1))
    mirrored = [np.array_equal(g, i[..., ::-1]) for g, i in zip(got, IMAGES, strict=True)]
    same = [np.array_equal(g, i) for g, i in zip(got, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_each_crop_is_a_window_of_the_padded_image_and_all_windows_occur() -> None:
    got = crop_at_random(IMAGES, 1, np.random.default_rng(2))
    assert got.shape == IMAGES.shape
    counts = np.zeros((3, 3), dtype=int)
    for image, crop in zip(IMAGES, got, strict=True):
        padded = np.zeros((2, 5, 6), dtype=np.float32)
        padded[:, 1:4, 1:5] = image
        windows = [(r, c) for r in range(3) for c in range(3) if np.array_equal(crop, padded[:, r : r + 3, c : c + 4])]
        assert len(windows) == 1
        counts[windows[0]] += 1
    assert counts.min() > 8
