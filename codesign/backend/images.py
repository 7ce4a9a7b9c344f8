"""Inputs and outputs of a measured network, checked before and after."""

import numpy as np
from numpy.typing import NDArray

from codesign.backend.base import Artifact
from codesign.backend.sidecar import Sidecar
from codesign.errors import InputError, MeasurementError


def check_images(images: NDArray[np.float32] | None, sidecar: Sidecar, artifact: Artifact) -> None:
    """Refuses images that a network cannot take.

    Args:
        images: `[N, ...]`, None for none.
        sidecar: What the network takes.
        artifact: The network.

    Raises:
        InputError: They have another shape or type, or hold NaN.
    """
    if images is None:
        return
    if images.ndim < 1 or len(images) == 0 or images.shape[1:] != sidecar.input_shape[1:]:
        allowed = ", ".join(map(str, sidecar.input_shape[1:]))
        raise InputError(f"{artifact.path}: images have shape {images.shape}, allowed is [N, {allowed}] with N > 0")
    if images.dtype != np.float32 or not np.isfinite(images).all():
        raise InputError(f"{artifact.path}: images must be finite float32, got {images.dtype}; clean the data")


def check_outputs(
    outputs: NDArray[np.float32], images: NDArray[np.float32] | None, sidecar: Sidecar, artifact: Artifact
) -> None:
    """Refuses outputs that cannot be right.

    Args:
        outputs: What the network gave.
        images: For what.
        sidecar: What it should give.
        artifact: The network.

    Raises:
        MeasurementError: They have another shape, or hold NaN.
    """
    assert images is not None
    expected = (len(images), *sidecar.output_shape[1:])
    if outputs.shape != expected:
        raise MeasurementError(f"{artifact.path}: outputs have shape {outputs.shape}, expected {expected}")
    if not np.isfinite(outputs).all():
        bad = int(np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))[0])
        raise MeasurementError(f"{artifact.path}: outputs of image {bad} are not finite; check the network's weights")
