"""Checks of arrays that become data sets."""

from pathlib import Path

import numpy as np
import pytest

from codesign.errors import CodesignError, InputError
from codesign.training.dataset import Dataset, save_dataset
from codesign.training.loading import load_npz

IMAGES = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
LABELS = np.array([0, 2, 1, 2], dtype=np.uint8)


def test_types_become_uint8_or_float32_and_int64() -> None:
    dataset = Dataset.of(IMAGES, LABELS, "here")
    assert str(dataset.images.dtype) == "uint8"
    assert str(dataset.labels.dtype) == "int64"
    assert dataset.class_names == ("0", "1", "2")
    assert str(Dataset.of(IMAGES.astype(np.float64), LABELS, "here").images.dtype) == "float32"
    assert len(dataset) == 4


def test_subset_keeps_order_and_names() -> None:
    part = Dataset.of(IMAGES, LABELS, "here", ("a", "b", "c")).subset(np.array([3, 0]))
    assert part.labels.tolist() == [2, 0]
    assert np.array_equal(part.images, IMAGES[[3, 0]])
    assert part.class_names == ("a", "b", "c")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_sample(bad: float) -> None:
    images = IMAGES.astype(np.float32)
    images[2, 1, 0, 1] = bad
    with pytest.raises(InputError, match=r"d\.npz: sample 2 holds NaN or infinity \(1 of 4"):
        Dataset.of(images, LABELS, "d.npz")


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (IMAGES.astype(np.int32), LABELS, None, "images are int32, allowed are uint8"),
        (IMAGES[:0], LABELS[:0], None, "images have shape"),
        (IMAGES, LABELS[:3], None, "4 images but labels of shape"),
        (IMAGES, LABELS.astype(np.float32), None, "labels are float32, allowed are integers"),
        (IMAGES, LABELS, ("a", "b"), "sample 1 has label 2, allowed are 0 to 1"),
        (IMAGES, np.array([0, 1, -1, 0]), None, "sample 2 has label -1, allowed are 0 to 1"),
    ],
)
def test_malformed_arrays_are_refused(
    images: np.ndarray, labels: np.ndarray, names: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Dataset.of(images, labels, "here", names)


def test_saved_data_set_loads_back(tmp_path: Path) -> None:
    dataset = Dataset.of(IMAGES, LABELS, "here", ("a", "b", "c"))
    save_dataset(dataset, tmp_path / "cache" / "d.npz")
    loaded = load_npz(tmp_path / "cache" / "d.npz")
    assert loaded.digest == dataset.digest
    assert loaded.class_names == dataset.class_names
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["d.npz"]


def test_saving_where_nothing_can_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CodesignError, match="cannot be written"):
        save_dataset(Dataset.of(IMAGES, LABELS, "here"), tmp_path / "file" / "d.npz")


def test_digest_sees_every_part() -> None:
    changed_pixel = IMAGES.copy()
    changed_pixel[0, 0, 0, 0] += 1
    sets = [
        Dataset.of(IMAGES, LABELS, "here"),
        Dataset.of(changed_pixel, LABELS, "here"),
        Dataset.of(IMAGES, LABELS[::-1], "here"),
        Dataset.of(IMAGES.reshape(4, 2, 3, 2), LABELS, "here"),
        Dataset.of(IMAGES, LABELS, "here", ("a", "b", "c")),
    ]
    assert len({dataset.digest for dataset in sets}) == 5
    assert sets[0].digest == Dataset.of(IMAGES, LABELS, "elsewhere").digest
