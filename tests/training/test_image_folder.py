"""Images by class in folders and archives."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from codesign.errors import InputError
from codesign.progress import Silent
from codesign.training.loading import load_dataset

SHARED = Path(__file__).parents[2] / ".." / "shared"
PIXELS = np.random.default_rng(0).integers(0, 256, size=(6, 5, 4, 3), dtype=np.uint8)
NAMES = ("bee/2.png", "ant/1.png", "ant/0.PNG", "cat/a.bmp", "bee/10.png", "cat/deep/b.png")


def _encoded(pixels: NDArray[np.uint8], name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="BMP" if name.endswith("bmp") else "PNG")
    return buffer.getvalue()


def _files(images: NDArray[np.uint8] = PIXELS) -> dict[str, bytes]:
    return {name: _encoded(pixels, name) for name, pixels in zip(NAMES, images, strict=True)}


def _store(files: dict[str, bytes], folder: Path, form: str) -> str:
    if form == "zip":
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return "images.zip"
    for name, data in files.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return "images"


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("around", ["", "top/"])
def test_classes_and_files_are_in_alphabetical_order(tmp_path: Path, form: str, around: str) -> None:
    files = {around + name: data for name, data in _files().items()}
    notes: list[str] = []
    files |= {f"{around}README.txt": b"text", f"__MACOSX/{around}ant/0.png": b"junk", f"{around}.hidden/x.png": b"junk"}
    dataset = load_dataset(_store(files, tmp_path, form), tmp_path, Silent(notes.append))
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(dataset.images, PIXELS[[2, 1, 4, 0, 3, 5]])
    assert len(notes) == 1
    assert "README.txt" in notes[0]


def test_images_keep_one_channel_only_where_all_are_grey(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    files = _files(grey)
    dataset = load_dataset(_store(files, tmp_path, "zip"), tmp_path, Silent())
    assert np.array_equal(dataset.images, grey[[2, 1, 4, 0, 3, 5], ..., np.newaxis])
    files["ant/1.png"] = _encoded(PIXELS[1], "ant/1.png")
    mixed = load_dataset(_store(files, tmp_path, "zip"), tmp_path, Silent())
    assert np.array_equal(mixed.images[1], PIXELS[1])
    assert np.array_equal(mixed.images[0], np.repeat(grey[2][..., np.newaxis], 3, axis=2))


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("damage", ["truncated", "noise", "empty"])
def test_a_broken_image_is_named(tmp_path: Path, form: str, damage: str) -> None:
    files = _files()
    whole = files["bee/10.png"]
    files["bee/10.png"] = {"truncated": whole[: len(whole) // 2], "noise": b"x" * 100, "empty": b""}[damage]
    with pytest.raises(InputError, match=r"bee/10\.png cannot be read as an image"):
        load_dataset(_store(files, tmp_path, form), tmp_path, Silent())


def test_an_image_damaged_inside_an_archive_is_named(tmp_path: Path) -> None:
    source = _store(_files(), tmp_path, "zip")
    data = bytearray((tmp_path / source).read_bytes())
    with zipfile.ZipFile(tmp_path / source) as archive:
        start = archive.getinfo("cat/a.bmp").header_offset + 80
    data[start] ^= 0xFF
    (tmp_path / source).write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"cat/a\.bmp cannot be read"):
        load_dataset(source, tmp_path, Silent())


def test_sizes_must_agree(tmp_path: Path) -> None:
    files = _files() | {"cat/c.png": _encoded(PIXELS[0][:3], "c.png")}
    with pytest.raises(InputError, match=r"cat/c\.png has height x width 3x4, but ant/0\.PNG has 5x4"):
        load_dataset(_store(files, tmp_path, "zip"), tmp_path, Silent())


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(20, dtype=np.uint16).reshape(5, 4)).save(buffer, format="PNG")
    files = _files() | {"cat/c.png": buffer.getvalue()}
    with pytest.raises(InputError, match=r"cat/c\.png has pixels of mode I;16"):
        load_dataset(_store(files, tmp_path, "folder"), tmp_path, Silent())


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_layouts_that_are_not_by_class_are_refused(tmp_path: Path, form: str) -> None:
    loose = _files() | {"loose.png": _encoded(PIXELS[0], "loose.png")}
    with pytest.raises(InputError, match=r"loose\.png lies in no class folder"):
        load_dataset(_store(loose, tmp_path, form), tmp_path, Silent())


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    source = _store(_files(), tmp_path, "folder")
    (tmp_path / source / "dog").mkdir()
    with pytest.raises(InputError, match="class folder dog holds no image"):
        load_dataset(source, tmp_path, Silent())
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no class folder"):
        load_dataset("nothing", tmp_path, Silent())


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    source = _store(_files(), tmp_path, "zip")
    (tmp_path / source).write_bytes((tmp_path / source).read_bytes()[:-40])
    with pytest.raises(InputError, match=r"images\.zip: is not a readable zip archive"):
        load_dataset(source, tmp_path, Silent())


def test_published_archive_has_ten_classes_in_order() -> None:
    if not (SHARED / "data/cifar10/jpeg_test.zip").exists():
        pytest.skip("needs ../shared/data/cifar10/jpeg_test.zip")
    dataset = load_dataset("data/cifar10/jpeg_test.zip", SHARED, Silent())
    assert dataset.images.shape == (5000, 32, 32, 3)
    assert (dataset.class_names[0], dataset.class_names[9]) == ("airplane", "truck")
    assert np.bincount(dataset.labels).min() > 450
