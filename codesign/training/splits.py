"""Keeping apart what is calibrated on, searched on and reported on."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.training.dataset import Dataset

HELD_OUT = 0.25
"""Share of a single source that is tested on when no number is asked for."""


@dataclass(frozen=True)
class SplitIndices:
    """Which samples each split is made of, as positions in its source.

    Attributes:
        training_source: What `training`, `calibration` and `search` index.
        test_source: What `test` indexes.
        training: Everything of the training source that may be trained on; holds `calibration` and `search`.
        calibration: For activation ranges and sensitivities.
        search: For comparing candidates.
        test: For what is reported.
        leaks: Samples of the training source left out because an identical image is in `test`.
        duplicates: Samples kept out of calibration and search because an identical image comes earlier.
    """

    training_source: str
    test_source: str
    training: tuple[int, ...]
    calibration: tuple[int, ...]
    search: tuple[int, ...]
    test: tuple[int, ...]
    leaks: tuple[int, ...]
    duplicates: tuple[int, ...]


@dataclass(frozen=True)
class Splits:
    """Data for each purpose. No image of `test` is in any other split; calibration and search share none.

    Attributes:
        training: For training weights.
        calibration: For activation ranges and sensitivities; a part of `training`.
        search: For comparing candidates; another part of `training`.
        test: For what is reported, and for nothing else.
        indices: Where the samples come from.
    """

    training: Dataset
    calibration: Dataset
    search: Dataset
    test: Dataset
    indices: SplitIndices


def split_calibration_search_test(
    training: Dataset,
    test: Dataset | None,
    *,
    calibration_samples: int,
    search_samples: int,
    test_samples: int | None = None,
    seed: int = 0,
) -> Splits:
    """Draws calibration, search and test samples, each stratified by class where labels are one per sample.

    Args:
        training: Source of calibration and search samples, and of test samples where `test` is None.
        test: Source of test samples; None holds samples of `training` out instead.
        calibration_samples: How many samples to calibrate on.
        search_samples: How many samples to search on.
        test_samples: How many samples to test on; by default all of `test`, or a quarter of a single source.
        seed: Decides the draw.

    Returns:
        The splits; every prefix of calibration, search and a drawn test split is itself stratified.

    Raises:
        InputError: There are too few samples, or the two sources have different classes.
    """
    if min(calibration_samples, search_samples) < 1 or (test_samples is not None and test_samples < 1):
        raise InputError(
            f"data: got {calibration_samples} calibration, {search_samples} search and {test_samples} test samples; "
            "each split needs at least 1"
        )
    test_source, test_indices, remaining = _hold_out(training, test, test_samples, seed)
    tested = set(_hashes(test_source, test_indices))
    hashes = dict(zip(remaining.tolist(), _hashes(training, remaining), strict=True))
    leaked = np.array([hashes[i] in tested for i in remaining.tolist()], dtype=bool)
    kept = remaining[~leaked]
    drawable, duplicates = _without_repeats(kept, hashes)
    wanted = calibration_samples + search_samples
    if len(drawable) < wanted:
        raise InputError(
            f"{training.source}: {calibration_samples} calibration and {search_samples} search samples were asked for, "
            f"but only {len(drawable)} distinct images are left beside the test data; ask for fewer"
        )
    drawn = _stratified_order(training.labels, drawable, seed)[:wanted]
    calibration, search = drawn[:calibration_samples], drawn[calibration_samples:]
    indices = SplitIndices(
        training.source,
        test_source.source,
        *(tuple(part.tolist()) for part in (kept, calibration, search, test_indices, remaining[leaked], duplicates)),
    )
    return Splits(
        training.subset(kept),
        training.subset(calibration),
        training.subset(search),
        test_source.subset(test_indices),
        indices,
    )


def _hold_out(
    training: Dataset, test: Dataset | None, test_samples: int | None, seed: int
) -> tuple[Dataset, NDArray[np.int64], NDArray[np.int64]]:
    """Source and indices of the test samples, and the indices of `training` that are left."""
    everything = np.arange(len(training), dtype=np.int64)
    source = training if test is None else test
    if test is None:
        count = test_samples or round(HELD_OUT * len(training))
    else:
        _check_same_classes(training, test)
        count = test_samples or len(test)
    if count > len(source):
        raise InputError(
            f"{source.source}: {count} test samples were asked for, but it has {len(source)}; ask for fewer"
        )
    if test is not None and count == len(test):
        return source, np.arange(count, dtype=np.int64), everything
    order = _stratified_order(source.labels, np.arange(len(source), dtype=np.int64), seed)
    chosen = np.sort(order[:count])
    return source, chosen, everything if test is not None else np.setdiff1d(everything, chosen)


def _check_same_classes(training: Dataset, test: Dataset) -> None:
    shared = min(len(training.class_names), len(test.class_names))
    if training.class_names[:shared] != test.class_names[:shared]:
        ours, theirs = set(training.class_names), set(test.class_names)
        difference = sorted(ours ^ theirs)[:5] or "the order"
        raise InputError(
            f"{test.source}: its classes differ from those of {training.source} ({difference}); "
            "give both the same class folders or names"
        )


def _stratified_order(labels: NDArray[np.int64], candidates: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Candidates in a random order of which every prefix has nearly the class shares of the whole.

    The r-th of a class's n candidates, in random order, sorts by (r + 1/2) / n.
    """
    shuffled = np.random.default_rng(seed).permutation(candidates)
    if labels.ndim > 1:
        return shuffled
    position = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    ordered: NDArray[np.int64] = shuffled[np.argsort(position, kind="stable")]
    return ordered


def _hashes(dataset: Dataset, indices: NDArray[np.int64]) -> list[bytes]:
    return [hashlib.blake2b(dataset.images[i].tobytes(), digest_size=16).digest() for i in indices]


def _without_repeats(
    indices: NDArray[np.int64], hashes: dict[int, bytes]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices with distinct images, and those left out because an earlier one shows the same."""
    seen: set[bytes] = set()
    keep = np.zeros(len(indices), dtype=bool)
    for place, index in enumerate(indices.tolist()):
        keep[place] = hashes[index] not in seen
        seen.add(hashes[index])
    return indices[keep], indices[~keep]
