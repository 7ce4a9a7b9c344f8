"""Splits share no image, keep class shares and follow from the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.training.dataset import Dataset
from codesign.training.loading import load_digits_dataset
from codesign.training.splits import Splits, split_calibration_search_test


def _dataset(labels: list[int], first_image: int = 0, names: tuple[str, ...] | None = None) -> Dataset:
    """Image i holds the number i + first_image."""
    images = np.arange(first_image, first_image + len(labels), dtype=np.float32)[:, None, None, None]
    return Dataset.of(images, np.array(labels), f"images from {first_image}", names)


def _contents(dataset: Dataset) -> set[float]:
    return set(dataset.images.ravel().tolist())


def _check_disjoint(splits: Splits) -> None:
    calibration, search, test = map(_contents, (splits.calibration, splits.search, splits.test))
    training = _contents(splits.training)
    assert not calibration & search
    assert not training & test
    assert calibration | search <= training


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=12, max_size=60),
    calibration=st.integers(1, 4),
    search=st.integers(1, 4),
    single=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_splits_are_disjoint_and_of_the_asked_size(
    labels: list[int], calibration: int, search: int, single: bool, seed: int
) -> None:
    training = _dataset(labels)
    test = None if single else Dataset.of(np.full((3, 1, 1, 1), 1e6, dtype=np.float32), [0, 0, 0], "test")
    splits = split_calibration_search_test(
        training, test, calibration_samples=calibration, search_samples=search, seed=seed
    )
    _check_disjoint(splits)
    assert (len(splits.calibration), len(splits.search)) == (calibration, search)
    assert len(splits.test) == (round(0.25 * len(labels)) if single else 3)
    for part, indices in (
        (splits.calibration, splits.indices.calibration),
        (splits.search, splits.indices.search),
        (splits.training, splits.indices.training),
    ):
        assert np.array_equal(part.images, training.images[list(indices)])
        assert np.array_equal(part.labels, training.labels[list(indices)])


def test_the_seed_decides() -> None:
    def draw(seed: int) -> tuple[int, ...]:
        digits = load_digits_dataset()
        splits = split_calibration_search_test(digits, None, calibration_samples=50, search_samples=50, seed=seed)
        return splits.indices.calibration + splits.indices.search + splits.indices.test

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_every_prefix_keeps_class_shares() -> None:
    labels = [0] * 600 + [1] * 300 + [2] * 100
    splits = split_calibration_search_test(
        _dataset(labels), None, calibration_samples=200, search_samples=100, test_samples=300, seed=3
    )
    assert np.abs(np.bincount(splits.test.labels) - [180, 90, 30]).max() <= 2
    for count in (20, 50, 200):
        shares = np.bincount(splits.calibration.labels[:count], minlength=3) / count
        assert np.abs(shares - [0.6, 0.3, 0.1]).max() <= 2 / count
    assert np.abs(np.bincount(splits.search.labels) - [60, 30, 10]).max() <= 2


def test_images_of_the_test_data_are_left_out_of_everything_else() -> None:
    training, test = _dataset([0, 1] * 10), _dataset([0, 1] * 5, first_image=15)
    splits = split_calibration_search_test(training, test, calibration_samples=8, search_samples=7)
    _check_disjoint(splits)
    assert splits.indices.leaks == (15, 16, 17, 18, 19)
    assert len(splits.training) == 15


def test_repeated_images_are_drawn_once() -> None:
    images = np.repeat(np.arange(10, dtype=np.uint8), 2)[:, None, None, None]
    training = Dataset.of(images, np.zeros(20, dtype=int), "twins")
    test = _dataset([0])
    splits = split_calibration_search_test(training, test, calibration_samples=5, search_samples=5)
    assert _contents(splits.calibration) | _contents(splits.search) == set(range(10))
    assert splits.indices.duplicates == tuple(range(1, 20, 2))
    assert len(splits.training) == 20
    with pytest.raises(InputError, match="only 10 distinct images are left"):
        split_calibration_search_test(training, test, calibration_samples=6, search_samples=5)


def test_twins_across_a_single_source_do_not_leak() -> None:
    images = np.repeat(np.arange(40, dtype=np.uint8), 2)[:, None, None, None]
    twins = Dataset.of(images, np.arange(80) % 2, "twins")
    splits = split_calibration_search_test(twins, None, calibration_samples=5, search_samples=5, test_samples=20)
    _check_disjoint(splits)
    assert len(splits.training) + len(splits.indices.leaks) == 60


def test_part_of_the_test_data() -> None:
    splits = split_calibration_search_test(
        _dataset([0, 1] * 10),
        _dataset([0, 1] * 50, first_image=1000),
        calibration_samples=4,
        search_samples=4,
        test_samples=10,
    )
    assert np.bincount(splits.test.labels).tolist() == [5, 5]
    assert splits.indices.test_source == "images from 1000"


@pytest.mark.parametrize(
    ("calibration", "search", "test", "message"),
    [(0, 1, None, "at least 1"), (10, 11, None, "only 20 distinct"), (1, 1, 9, "9 test samples were asked for")],
)
def test_impossible_sizes_are_refused(calibration: int, search: int, test: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_calibration_search_test(
            _dataset([0] * 20),
            _dataset([0] * 8, first_image=100),
            calibration_samples=calibration,
            search_samples=search,
            test_samples=test,
        )


def test_classes_must_agree_but_a_source_may_lack_the_last_ones() -> None:
    training = _dataset([0, 1, 2] * 4)
    split_calibration_search_test(training, _dataset([0, 1], 100), calibration_samples=1, search_samples=1)
    other = _dataset([0, 1], 100, ("cat", "dog"))
    with pytest.raises(InputError, match="classes differ"):
        split_calibration_search_test(training, other, calibration_samples=1, search_samples=1)


def test_positions_have_labels_too() -> None:
    training = Dataset.of(np.arange(20, dtype=np.float32)[:, None], np.zeros((20, 3), dtype=int), "tokens")
    splits = split_calibration_search_test(training, None, calibration_samples=5, search_samples=5)
    _check_disjoint(splits)
    assert splits.test.labels.shape == (5, 3)
