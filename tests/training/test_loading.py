"""Every form of a data source, and every way in which one can be wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.progress import Silent
from codesign.training.loading import load_dataset

IMAGES = np.zeros((3, 4, 4, 1), dtype=np.uint8)
LABELS = np.array([0, 1, 1])
FACTORY = """
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

@dataclass
class Options:
    count: int = 2

def data():
    return np.ones((Options().count, 3, 3), dtype=np.float32), np.array([1, 0])

def only_images():
    return np.ones((2, 3, 3))

def fails():
    raise KeyError("gone")
"""


def test_digits() -> None:
    dataset = load_dataset("digits", Path(), Silent())
    assert dataset.images.shape == (1797, 8, 8, 1)
    assert (int(dataset.images.max()), dataset.class_names[-1], len(dataset.class_names)) == (16, "9", 10)


def test_npz_relative_to_base(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=LABELS)
    dataset = load_dataset("d.npz", tmp_path, Silent())
    assert np.array_equal(dataset.images, IMAGES)
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.source == str(tmp_path / "d.npz")


def test_npz_without_an_array_names_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, y=LABELS)
    with pytest.raises(InputError, match=r"lacks \['labels'\], holds \['images', 'y'\]"):
        load_dataset("d.npz", tmp_path, Silent())


def test_pickled_contents_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.array([{}, {}], dtype=object), labels=LABELS)
    with pytest.raises(InputError, match=r"d\.npz: is not a readable"):
        load_dataset("d.npz", tmp_path, Silent())


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_truncated_npz_is_refused(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "whole.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "d.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:keep])
    with pytest.raises(InputError, match=r"d\.npz: is not a readable"):
        load_dataset("d.npz", tmp_path, Silent())


def test_npz_with_flipped_bytes_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=LABELS)
    data = bytearray((tmp_path / "d.npz").read_bytes())
    data[190] ^= 0xFF  # in the pixels
    (tmp_path / "d.npz").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"d\.npz: is not a readable"):
        load_dataset("d.npz", tmp_path, Silent())


def test_array_file_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", IMAGES)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"d\.npz: holds one unnamed array"):
        load_dataset("d.npz", tmp_path, Silent())


@pytest.mark.parametrize("by_module", [False, True])
def test_factory(tmp_path: Path, by_module: bool) -> None:
    (tmp_path / "factory_of_samples.py").write_text(FACTORY)
    path = list(sys.path)
    reference = "factory_of_samples:data" if by_module else "factory_of_samples.py:data"
    dataset = load_dataset(reference, tmp_path, Silent())
    assert dataset.images.shape == (2, 3, 3)
    assert dataset.labels.tolist() == [1, 0]
    assert sys.path == path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.npz", "no such data"),
        ("nowhere", "no such data"),
        ("notes.txt", "unknown kind of data"),
        ("f.py:dta", "did you mean 'data'"),
        ("f.py:only_images", "returned ndarray, expected a tuple"),
        ("f.py:fails", "failed .KeyError"),
        ("g.py:data", r"g\.py: no such file"),
        ("no_such_package.data:load", "no_such_package"),
    ],
)
def test_sources_that_do_not_work_are_explained(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "f.py").write_text(FACTORY)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=message):
        load_dataset(source, tmp_path, Silent())
