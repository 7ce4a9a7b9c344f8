"""What every step of a run may use."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.cost.base import CostModel
from codesign.errors import InputError
from codesign.files import digest_of
from codesign.hardware.profile import HardwareProfile
from codesign.hardware.target import Target
from codesign.pass_manager.base import CalibrationData
from codesign.progress import Progress
from codesign.report.contents import TEST
from codesign.run_file import DataSection, RunFile
from codesign.run_folder import RunFolder
from codesign.training.dataset import Dataset
from codesign.training.loading import load_dataset
from codesign.training.preprocessing import check_fits, preprocess
from codesign.training.splits import Splits, split_calibration_search_test


@dataclass(frozen=True)
class RunData:
    """Data for each purpose, never mixed.

    Attributes:
        section: What the run file says.
        splits: Training, calibration, search and test data.
        test_sets: By name, the main one first.
        image_size: Height and width that images are brought to after preprocessing; None for that of the files.
    """

    section: DataSection
    splits: Splits
    test_sets: Mapping[str, Dataset]
    image_size: tuple[int, int] | None = None

    @cached_property
    def calibration(self) -> CalibrationData:
        """Preprocessed calibration samples."""
        split = self.splits.calibration
        return CalibrationData(self.prepared(split), split.labels)

    @cached_property
    def search_images(self) -> NDArray[np.float32]:
        """Preprocessed search samples, `[N, ...]`."""
        return self.prepared(self.splits.search)

    @cached_property
    def test_images(self) -> NDArray[np.float32]:
        """Preprocessed samples of all test sets, one after the other, `[N, ...]`."""
        return np.concatenate([self.prepared(dataset) for dataset in self.test_sets.values()])

    @cached_property
    def training_without_search(self) -> Dataset:
        """What weights may be trained on where whole networks are compared on search samples: all other samples."""
        indices = self.splits.indices
        others = ~np.isin(np.asarray(indices.training), np.asarray(indices.search))
        return self.splits.training.subset(np.flatnonzero(others))

    def prepared(self, dataset: Dataset) -> NDArray[np.float32]:
        """Preprocesses a data set and brings its images to `image_size`.

        Args:
            dataset: Any of them.

        Returns:
            `[N, ...]`.
        """
        images = preprocess(dataset.images, self.section.preprocessing)
        if self.image_size is None:
            return images
        import torch

        from codesign.training.resolution import at_resolution

        scaled: NDArray[np.float32] = at_resolution(
            torch.from_numpy(images), (*images.shape[:2], *self.image_size)
        ).numpy()
        return scaled

    @cached_property
    def tuning_digest(self) -> str:
        """Digest of what decisions are made on."""
        splits = self.splits
        parts = [splits.calibration.digest, splits.search.digest, self.section.preprocessing.model_dump()]
        return digest_of(*parts, *([self.image_size] if self.image_size else []))

    @cached_property
    def test_digest(self) -> str:
        """Digest of what is reported on."""
        parts = [[name, dataset.digest] for name, dataset in self.test_sets.items()]
        return digest_of(
            parts, self.section.preprocessing.model_dump(), *([self.image_size] if self.image_size else [])
        )

    def check(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        """Refuses data that the network cannot take.

        Args:
            input_shape: Of the network, batch of one included.
            output_shape: The same.
        """
        for dataset in (self.splits.training, *self.test_sets.values()):
            check_fits(dataset, self.section.preprocessing, input_shape, output_shape)

    def describe(self) -> dict[str, str]:
        """What each split holds, in words."""
        splits = self.splits
        words = {
            "calibration data": f"{len(splits.calibration)} samples of {_short(splits.calibration.source)}",
            "search data": f"{len(splits.search)} other samples of {_short(splits.search.source)}",
        }
        for name, dataset in self.test_sets.items():
            label = "test data" if name == TEST else f"test data {name}"
            words[label] = f"{len(dataset)} samples of {_short(dataset.source)}"
        return words


def _short(source: str) -> str:
    return Path(source).name if "/" in source else source


def load_data(section: DataSection, seed: int, base: Path, progress: Progress) -> RunData:
    """Loads and splits the data of a run.

    Args:
        section: What the run file says.
        seed: Decides the draw.
        base: Folder that relative paths start from.
        progress: Told how far decoding is.

    Returns:
        The data, each sample in one split only.

    Raises:
        InputError: Data is missing or malformed, a test set has one sample only, or one of `also_test` takes the name
            of the main test set.
    """
    if TEST in section.also_test:
        raise InputError(f"data.also_test: the name {TEST!r} is taken by data.test; choose another")
    training = load_dataset(section.train, base, progress)
    test = load_dataset(section.test, base, progress) if section.test else None
    splits = split_calibration_search_test(
        training,
        test,
        calibration_samples=section.calibration_samples,
        search_samples=section.search_samples,
        seed=seed,
    )
    others = {name: load_dataset(source, base, progress) for name, source in section.also_test.items()}
    tests = {TEST: splits.test, **others}
    for dataset in tests.values():
        if len(dataset) < 2:
            raise InputError(f"{dataset.source}: 1 test sample has no standard error; give at least 2")
    return RunData(section, splits, tests)


@dataclass(frozen=True)
class RunContext:
    """What every step of a run may use.

    Attributes:
        run: The run file.
        base: Folder that relative paths in it start from.
        store: The run's folder.
        target: Where the network shall run.
        profile: The target's device.
        cost_model: Prices nodes on it.
        data: All data.
        progress: Told about long work.
    """

    run: RunFile
    base: Path
    store: RunFolder
    target: Target
    profile: HardwareProfile
    cost_model: CostModel
    data: RunData
    progress: Progress

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.store.path
