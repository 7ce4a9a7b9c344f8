"""Data sets from the one line that a run file gives."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from codesign.errors import InputError
from codesign.factory import call_factory
from codesign.progress import Progress
from codesign.training.dataset import Dataset
from codesign.training.image_folder import load_image_folder

FORMS = "'digits', a .npz, a folder or .zip of CLASS/IMAGE files, 'package.module:factory' or 'path/to/file.py:factory'"


def load_dataset(source: str, base: Path, progress: Progress) -> Dataset:
    """Loads a data set.

    Args:
        source: `digits` (scikit-learn's bundled set), a `.npz` file with `images` and `labels` (and, if wanted,
            `class_names`), a folder or `.zip` of images by class, or a factory that returns (images, labels).
        base: Folder that relative paths start from.
        progress: Told how far decoding is.

    Returns:
        The data set as stored, not preprocessed.

    Raises:
        InputError: The source is missing, malformed or of an unknown form.
    """
    if source == "digits":
        return load_digits_dataset()
    path = base / Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return load_image_folder(path, progress)
    if path.is_file() and path.suffix.lower() == ".npz":
        return load_npz(path)
    if path.is_file():
        raise InputError(f"{path}: unknown kind of data; allowed are {FORMS}")
    if ":" in source:
        return load_from_factory(source, base)
    raise InputError(f"{path}: no such data; check the path, allowed are {FORMS}")


def load_digits_dataset() -> Dataset:
    """scikit-learn's handwritten digits.

    Returns:
        uint8 images `[1797, 8, 8, 1]` with values 0 to 16, labels 0 to 9.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Dataset.of(digits.images.astype(np.uint8)[..., np.newaxis], digits.target, "digits")


def load_npz(path: Path) -> Dataset:
    """Reads `images`, `labels` and, where present, `class_names` of a `.npz` file; pickled contents are refused.

    Args:
        path: The file.

    Returns:
        The data set.

    Raises:
        InputError: The file is damaged, lacks an array or holds Python objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise InputError(f"{path}: holds one unnamed array; save it with np.savez(path, images=..., labels=...)")
        with loaded as archive:
            missing = {"images", "labels"} - set(archive.files)
            if missing:
                raise InputError(
                    f"{path}: lacks {sorted(missing)}, holds {sorted(archive.files)}; save it with "
                    "np.savez(path, images=..., labels=...)"
                )
            images, labels = archive["images"], archive["labels"]
            names = tuple(map(str, archive["class_names"])) if "class_names" in archive.files else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: is not a readable .npz file ({error}); write it again with np.savez") from None
    return Dataset.of(images, labels, str(path), names)


def load_from_factory(reference: str, base: Path) -> Dataset:
    """Calls a factory that returns (images, labels).

    Args:
        reference: `package.module:factory` or `path/to/file.py:factory`.
        base: Folder that a relative path to a file starts from.

    Returns:
        The data set.

    Raises:
        InputError: What the factory returns is not a pair.
    """
    value = call_factory(reference, base)
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(f"{reference}: returned {type(value).__name__}, expected a tuple (images, labels); correct it")
    return Dataset.of(value[0], value[1], reference)
