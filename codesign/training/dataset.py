"""Labelled samples in memory, as they were stored: preprocessing comes later."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codesign.errors import InputError
from codesign.files import digest_of, replacing

Images = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and their labels; `of` builds one from any arrays and checks it.

    Attributes:
        images: Raw values, uint8 or float32: `[N, H, W, C]`, `[N, H, W]`, or `[N, ...]` as the model takes them.
        labels: Class of each sample, int64 `[N]`, or of each position of each sample, `[N, ...]`.
        class_names: Names of the classes, in the order of their labels.
        source: Where the samples came from, for messages and reports.
    """

    images: Images
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    source: str

    @classmethod
    def of(
        cls, images: ArrayLike, labels: ArrayLike, source: str, class_names: tuple[str, ...] | None = None
    ) -> "Dataset":
        """Checks arrays and gives them the types that the rest of the program takes.

        Args:
            images: uint8 or floating point, `[N, ...]`; floats become float32.
            labels: Integers from 0, `[N]` or `[N, ...]`.
            source: Where they came from, for messages.
            class_names: Names in the order of the labels; the labels themselves by default.

        Returns:
            The data set.

        Raises:
            InputError: Types, sizes or label range are wrong, or an image holds NaN or infinity.
        """
        image_array, label_array = _checked_images(np.asarray(images), source), np.asarray(labels)
        if not np.issubdtype(label_array.dtype, np.integer):
            raise InputError(
                f"{source}: labels are {label_array.dtype}, allowed are integers; convert them with astype('int64')"
            )
        if label_array.shape[:1] != image_array.shape[:1]:
            raise InputError(
                f"{source}: {len(image_array)} images but labels of shape {label_array.shape}; give one label per image"
            )
        typed_labels = label_array.astype(np.int64)
        names = class_names if class_names is not None else tuple(map(str, range(int(typed_labels.max()) + 1)))
        check_label_range(typed_labels, len(names), source)
        return cls(image_array, typed_labels, names, source)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> "Dataset":
        """The samples at some indices.

        Args:
            indices: Positions in this data set, `[M]`.

        Returns:
            M samples, in the order of `indices`.
        """
        return Dataset(self.images[indices], self.labels[indices], self.class_names, self.source)

    @cached_property
    def digest(self) -> str:
        """Digest of images, labels and class names; the source does not count."""
        images = np.ascontiguousarray(self.images)
        shapes = [str(images.dtype), list(images.shape), list(self.labels.shape), list(self.class_names)]
        return digest_of(images.tobytes(), self.labels.tobytes(), shapes)


def check_label_range(labels: NDArray[np.int64], classes: int, source: str) -> None:
    """Refuses labels that name no class.

    Args:
        labels: `[N]` or `[N, ...]`.
        classes: Number of classes.
        source: Where the labels came from, for the message.

    Raises:
        InputError: A label is below 0 or not below `classes`; the first sample that has one is named.
    """
    wrong = np.argwhere((labels < 0) | (labels >= classes))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise InputError(
            f"{source}: sample {place[0]} has label {int(labels[place])}, allowed are 0 to {classes - 1}; "
            "correct the labels, or use a model with one logit per class"
        )


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Writes a data set as `.npz`, which loads much faster than a folder of images.

    Args:
        dataset: What to write.
        path: A `.npz` file; it appears whole or not at all.
    """
    with replacing(path) as temporary:
        names = np.array(dataset.class_names, dtype=np.str_)
        np.savez(temporary, images=dataset.images, labels=dataset.labels, class_names=names)


def _checked_images(images: NDArray[np.generic], source: str) -> Images:
    if images.ndim < 2 or images.size == 0:
        raise InputError(
            f"{source}: images have shape {images.shape}, expected [N, height, width, channels] with N > 0; "
            "check what the source holds"
        )
    if images.dtype == np.uint8:
        return images.astype(np.uint8, copy=False)
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"{source}: images are {images.dtype}, allowed are uint8 and floating point; convert them before saving"
        )
    floats = images.astype(np.float32, copy=False)
    finite = np.isfinite(floats).reshape(len(floats), -1).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise InputError(
            f"{source}: sample {first} holds NaN or infinity ({int((~finite).sum())} of {len(floats)} samples do); "
            "remove or repair them"
        )
    return floats
