"""The samples of an analysis: those that are analysed, and those that it is judged on."""

from dataclasses import dataclass

import numpy as np

from codesign.errors import InputError
from codesign.flow.analyze_request import AnalyzeRequest, ValidationRequest
from codesign.flow.samples import load_fitting, prepared
from codesign.ir.program import Program
from codesign.pass_manager.base import CalibrationData
from codesign.progress import Progress
from codesign.training.dataset import Dataset

_EVERYTHING = slice(None)


@dataclass(frozen=True)
class AnalysisSamples:
    """Prepared samples; no image is in both parts.

    Attributes:
        analysed: What passes see.
        held_out: What predictors are judged on; None without validation.
        held_out_source: Where these came from.
    """

    analysed: CalibrationData
    held_out: CalibrationData | None
    held_out_source: str


def load_analysis_samples(request: AnalyzeRequest, program: Program, progress: Progress) -> AnalysisSamples:
    """Loads the data of a request.

    Args:
        request: Names the data.
        program: The network that must take it.
        progress: Told about loading, and about what the user should know of the data.

    Returns:
        The samples.
    """
    dataset = load_fitting(request.data, request.images, program, progress)
    count = min(request.samples, len(dataset))
    analysed = dataset.subset(np.arange(count))
    _note_missing_classes(analysed, dataset, progress)
    held_out, source = None, ""
    if request.validation is not None:
        others = _others(request, request.validation, program, dataset, count, progress)
        held_out = prepared(unseen(others, analysed, progress), request.images, slice(request.validation.samples))
        source = request.validation.held_out or f"{request.data} after the first {count}"
    return AnalysisSamples(prepared(analysed, request.images, _EVERYTHING), held_out, source)


def unseen(others: Dataset, analysed: Dataset, progress: Progress) -> Dataset:
    """Takes images off that the analysis sees.

    Args:
        others: Samples to judge on.
        analysed: Samples that the analysis sees.
        progress: Told how many are taken off.

    Returns:
        The rest.

    Raises:
        InputError: Fewer than two are left, so that a mean has no standard error.
    """
    seen = {image.tobytes() for image in analysed.images}
    kept = np.array([i for i, image in enumerate(others.images) if image.tobytes() not in seen], dtype=np.int64)
    if len(kept) < 2:
        raise InputError(
            f"--validate: {others.source} has {len(kept)} held-out samples beside the {len(analysed)} that are "
            f"analysed, at least 2 are needed; name other data with --held-out, or lower --samples"
        )
    if len(kept) < len(others):
        progress.note(f"{len(others) - len(kept)} held-out samples are among the analysed ones: left out")
    return others.subset(kept)


def _others(
    request: AnalyzeRequest,
    validation: ValidationRequest,
    program: Program,
    dataset: Dataset,
    count: int,
    progress: Progress,
) -> Dataset:
    if validation.held_out is not None:
        return load_fitting(validation.held_out, request.images, program, progress)
    return dataset.subset(np.arange(count, len(dataset)))


def _note_missing_classes(analysed: Dataset, dataset: Dataset, progress: Progress) -> None:
    """Data that is ordered by class, as folders are, shows in the first labels."""
    found, known = len(np.unique(analysed.labels)), len(np.unique(dataset.labels))
    if found < known <= len(analysed):
        progress.note(
            f"{dataset.source}: the first {len(analysed)} samples hold {found} of {known} classes; shuffle the data, "
            f"or raise --samples"
        )
