"""Uniform quantisers: real numbers to integers and back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError

ACTIVATION_LEVELS = 255
"""Largest value of an unsigned 8-bit activation."""
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers with one scale per output channel; real value = integer x scale.

    Attributes:
        values: Integers in [-(2^(bits-1) - 1), 2^(bits-1) - 1], shape of the weight, int8.
        scales: Positive, `[C_out]`, float32.
        axis: Which axis of the weight is the output channel.
        bits: Width.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int
    bits: int

    def dequantized(self) -> NDArray[np.float32]:
        """The real values that the integers stand for, shape of the weight."""
        return self.values * _along(self.scales, self.axis, self.values.ndim)


@dataclass(frozen=True)
class ActivationScale:
    """How an activation is held in unsigned integers: real value = (integer - zero_point) x scale.

    Attributes:
        scale: Step between neighbouring values.
        zero_point: The integer that stands for zero, in [0, levels].
        levels: Largest integer: 255 for 8 bits.
    """

    scale: float
    zero_point: int
    levels: int = ACTIVATION_LEVELS


def quantize_weight(
    weight: NDArray[np.float32], bits: int, axis: int, smallest_scales: NDArray[np.float32] | None = None
) -> QuantizedWeight:
    """Quantises symmetrically to nearest, with one scale per output channel: max|w| / (2^(bits-1) - 1).

    The full range is kept: clipping that lowers the squared error costs accuracy below 5 bits.

    Args:
        weight: Any shape.
        bits: 2 to 8.
        axis: Output channel axis.
        smallest_scales: `[C_out]`; scales are raised to at least these.

    Returns:
        Integers and scales.

    Raises:
        InputError: The weight holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise InputError("a weight holds NaN or infinity and cannot be quantised; repair the model's weights")
    largest = 2 ** (bits - 1) - 1
    other_axes = tuple(i for i in range(weight.ndim) if i != axis)
    scales = (np.abs(weight).max(axis=other_axes) / largest).astype(np.float32)
    if smallest_scales is not None:
        scales = np.maximum(scales, smallest_scales)
    scales = np.where(scales < _SMALLEST_SCALE, np.float32(1), scales).astype(np.float32)
    integers = np.rint(weight / _along(scales, axis, weight.ndim)).clip(-largest, largest)
    return QuantizedWeight(integers.astype(np.int8), scales, axis, bits)


def activation_scale(low: float, high: float, bits: int = 8) -> ActivationScale:
    """The scale and zero point that hold a range, widened to contain zero, in unsigned integers.

    Args:
        low: Smallest value to represent.
        high: Largest value to represent.
        bits: Width of the integers.

    Returns:
        Scale, rounded to float32, and zero point in [0, 2^bits - 1]; values that are never negative get zero point 0.

    Raises:
        InputError: The range is not finite or is reversed.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise InputError(f"activation range [{low}, {high}] is not a finite interval; check the calibration data")
    low, high, levels = min(low, 0.0), max(high, 0.0), 2**bits - 1
    scale = float(np.float32((high - low) / levels))
    if scale < _SMALLEST_SCALE:
        return ActivationScale(1.0, 0, levels)
    return ActivationScale(scale, int(np.clip(np.rint(-low / scale), 0, levels)), levels)


def quantize_activation(values: NDArray[np.float32], to: ActivationScale) -> NDArray[np.uint8]:
    """Integers of an activation, rounded half to even and saturated as `QuantizeLinear` does.

    Args:
        values: Any shape.
        to: Scale and zero point.

    Returns:
        Unsigned integers, same shape.
    """
    integers: NDArray[np.float32] = np.rint(values / np.float32(to.scale)) + to.zero_point
    return np.asarray(integers.clip(0, to.levels), np.uint8)


def _along(values: NDArray[np.float32], axis: int, dimensions: int) -> NDArray[np.float32]:
    shape = [1] * dimensions
    shape[axis] = -1
    return values.reshape(shape)
