"""What all parts of the curvature benchmark share: networks, images, bars, times, tables."""

import gc
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codesign.ir.loading import load_module
from codesign.training.options import Preprocessing
from codesign.training.preprocessing import preprocess

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data" / "cifar10"
CHECKPOINTS = {
    "resnet20": SHARED / "models" / "cifar10" / "resnet20-12fca82f.th",
    "resnet56": SHARED / "models" / "cifar10" / "resnet56-4bfd9763.th",
}
PREPROCESSING = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), layout="NHWC")
REFERENCE_SAMPLES = 200


@dataclass(frozen=True)
class Bar:
    """One requirement and what was measured.

    Attributes:
        name: What is measured.
        value: The number; None if it could not be measured here.
        least: Smallest allowed value.
        most: Largest allowed value.
        note: Why it could not be measured, or how far it can be resolved.
    """

    name: str
    value: float | None
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value lies within its limits; None if there is no value."""
        if self.value is None:
            return None
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)  # NaN meets nothing

    def __str__(self) -> str:
        limit = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        value = "-" if self.value is None else f"{self.value:.4g}"
        return f"{self.name:72s} {value:>11s}   bar {limit:9s} {verdict:12s} {self.note}".rstrip()

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        limits = {"least": self.least, "most": self.most}
        return {"name": self.name, "value": self.value, **limits, "met": self.met, "note": self.note}


@dataclass
class Part:
    """What one part of the benchmark found.

    Attributes:
        bars: Requirements.
        numbers: Everything else, as JSON values.
    """

    bars: list[Bar] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Seconds:
    """CPU seconds of repeated runs."""

    taken: tuple[float, ...]

    @property
    def least(self) -> float:
        """Of all runs."""
        return min(self.taken)

    @property
    def median(self) -> float:
        """Of all runs."""
        return statistics.median(self.taken)

    def __str__(self) -> str:
        return f"{self.least:.3f} / {self.median:.3f}"


def interleaved(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """CPU seconds of several pieces of work in alternating rounds, so that a busy spell hits all of them.

    Args:
        work: By name.
        rounds: How often each runs; one more round before them is not counted.

    Returns:
        By name.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    for counted in (False, *(True,) * rounds):
        for name, run in work.items():
            start = time.process_time()
            run()
            if counted:
                taken[name].append(time.process_time() - start)
            gc.collect()  # double backward leaves reference cycles; collecting them is nobody's work
    return {name: Seconds(tuple(times)) for name, times in taken.items()}


def module_of(network: str) -> nn.Module:
    """A trained network.

    Args:
        network: `resnet20` or `resnet56`.

    Returns:
        In eval mode.
    """
    return load_module(f"codesign.architecture.resnet_cifar:{network}", CHECKPOINTS[network], ROOT)


def images_of(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All images of a `.npz` file, prepared, and their labels.

    Args:
        name: File name.

    Returns:
        `[N, 3, 32, 32]` and `[N]`.
    """
    with np.load(DATA / name) as archive:
        return preprocess(archive["images"], PREPROCESSING), archive["labels"].astype(np.int64)


def reference_images(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The images that `curvature_resnet20.json` was computed on, and their labels.

    Args:
        dtype: Of the images.

    Returns:
        `[200, 3, 32, 32]` and `[200]`.
    """
    with np.load(DATA / "lossless_test.npz") as archive:
        images, labels = (torch.from_numpy(archive[key][:REFERENCE_SAMPLES]) for key in ("images", "labels"))
    mean, std = (torch.tensor(numbers) for numbers in (PREPROCESSING.mean, PREPROCESSING.std))
    prepared = (images.float() / 255 - mean) / std  # the last bit of the quotient shows at an error of 1e-8
    return prepared.permute(0, 3, 1, 2).contiguous().to(dtype), labels.long()


@dataclass(frozen=True)
class Reference:
    """Float64 values of one layer, computed by another program.

    Attributes:
        trace: Of the layer's Hessian block.
        eigenvalues: The five largest.
    """

    trace: float
    eigenvalues: tuple[float, ...]


def reference_values() -> dict[str, Reference]:
    """Traces and eigenvalues of all layers of ResNet-20.

    Returns:
        By layer.
    """
    layers = json.loads((SHARED / "reference" / "curvature_resnet20.json").read_text())["layers"]
    return {name: Reference(row["trace"], tuple(row["top_eigenvalues"])) for name, row in layers.items()}


def version_of(package: str) -> str | None:
    """The version of an optional package.

    Args:
        package: Its name in the package index.

    Returns:
        The version, or None where it is not installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table with right-aligned columns; the first is left-aligned.

    Args:
        title: Line above it.
        columns: Headings.
        rows: Cells; floats get four significant digits.
    """
    cells = [list(columns), *([f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        rest = "  ".join(f"{cell:>{width}s}" for cell, width in zip(row[1:], widths[1:], strict=True))
        print(f"  {row[0]:{widths[0]}s}  {rest}")
