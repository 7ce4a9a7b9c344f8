"""How values are quantised: widths, ranges and rounding, as small frozen values."""

from dataclasses import dataclass
from typing import Literal

from codesign.errors import InputError

WEIGHT_BITS = (2, 3, 4, 5, 6, 8)
"""Widths that a weight can have."""
ACTIVATION_BITS = (8,)
"""Widths that an activation can have: unsigned 8 bits is what x86 and our kernels multiply."""

RangeRule = Literal["min-max", "percentile", "mse"]


@dataclass(frozen=True, order=True)
class Widths:
    """Widths in bits of a node's weight and of the activations that enter it: any that a device may have a rate for.

    Attributes:
        weight: Of the weight; 32 for floating point.
        activation: Of the activations; 32 for floating point.
    """

    weight: int
    activation: int

    def __str__(self) -> str:
        return f"w{self.weight}a{self.activation}"


@dataclass(frozen=True, order=True)
class BitWidths(Widths):
    """Widths that a plan can choose."""

    def __post_init__(self) -> None:
        if self.weight not in WEIGHT_BITS:
            raise InputError(f"weight bits: got {self.weight}, allowed are {WEIGHT_BITS}; choose one of these")
        if self.activation not in ACTIVATION_BITS:
            raise InputError(
                f"activation bits: got {self.activation}, allowed are {ACTIVATION_BITS}; choose one of these"
            )


@dataclass(frozen=True)
class QuantizationOptions:
    """How a choice of widths becomes numbers.

    Attributes:
        range_rule: How activation ranges are chosen from calibration data.
        percentile: For `percentile`: the share of values, in percent, that the range keeps.
        bias_correction: Whether the mean error that quantised weights add to each output channel is taken off the
            bias: b - dW E[x] (curvature.md 3).
    """

    range_rule: RangeRule = "min-max"
    percentile: float = 99.99
    bias_correction: bool = True
