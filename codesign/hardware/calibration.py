"""What a calibration found out about a device: seconds of interpretable terms, and a correction of what is left."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from codesign.config import StrictModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Source = Annotated[str, Field(min_length=3)]
KernelClass = Literal["convolution", "depthwise", "dense", "pooling", "elementwise"]
Arithmetic = Literal["float32", "bfloat16", "int8"]


class VectorUnit(StrictModel):
    """Vectors that kernels were compiled for.

    Attributes:
        registers: Vectors that registers hold for sums and operands.
        lanes: Output channels of a vector.
        dot_channels: Input channels that an integer instruction adds up in each lane; 1 without such an instruction.
        amx: Whether integers are multiplied in tiles of AMX where these apply.
        bfloat16: Whether layers in float32 multiply bfloat16 in tiles of AMX where these apply.
    """

    registers: Count
    lanes: Count
    dot_channels: Count
    amx: bool = False
    bfloat16: bool = False


class Term(StrictModel):
    """One addend of a predicted time.

    Attributes:
        name: What is counted, see `codesign.cost.kernel_terms`.
        seconds: Of one.
    """

    name: str
    seconds: NotNegative


class Similarity(StrictModel):
    """A correction by what kernels like one another had in common: a Gaussian process' mean.

    With z = (features - means) / lengths and r = sqrt(3) |z - p|, the natural logarithm of the factor is

        sum over points p of weight_p x variance x (1 + r) exp(-r)

    which is the error that the terms alone make of a kernel that was measured, and 0 far from all of them (Matern 3/2;
    Rasmussen and Williams 2006, 4.2).

    Attributes:
        features: Names of what is compared.
        means: Of each feature over the measured kernels.
        lengths: Difference of each at which kernels have little in common any more.
        points: The measured kernels, a row of z for each.
        weights: One for each point.
        variance: Of the logarithm, before anything is measured.
    """

    features: tuple[str, ...] = Field(min_length=1)
    means: tuple[Finite, ...]
    lengths: tuple[Positive, ...]
    points: tuple[tuple[Finite, ...], ...] = Field(min_length=1)
    weights: tuple[Finite, ...]
    variance: Positive

    @model_validator(mode="after")
    def _sizes(self) -> "Similarity":
        count = len(self.features)
        if any(len(row) != count for row in (self.means, self.lengths, *self.points)):
            raise ValueError(f"means, lengths and each point need one number for each of {count} features")
        if len(self.weights) != len(self.points):
            raise ValueError(f"weights: got {len(self.weights)}, needs one for each of {len(self.points)} points")
        return self


class KernelFit(StrictModel):
    """How long one class of kernels takes.

    Attributes:
        kind: The class.
        arithmetic: What it computes in; weights below 8 bits are unpacked for `int8`, `bfloat16` is of the products of
            float32 layers where these are rounded.
        terms: Addends.
        correction: Of the sum of the terms; None without one.
        samples: Kernels that it was fitted to.
        relative_error: Nine in ten held-out kernels are off by less.
        within_10_percent: Share of the held-out kernels that are off by at most 10 %.
        source: Where the numbers come from.
    """

    kind: KernelClass
    arithmetic: Arithmetic
    terms: tuple[Term, ...] = Field(min_length=1)
    correction: Similarity | None = None
    samples: Count
    relative_error: NotNegative
    within_10_percent: NotNegative
    source: Source


class MeasuredShape(StrictModel):
    """A kernel of a network at hand.

    Attributes:
        shape: What it computes, see `codesign.cost.measured_shapes`.
        weight_bits: Width of its weight; 32 in float32.
        activation_bits: Width of its activations.
        factor: Measured over fitted seconds.
    """

    shape: str
    weight_bits: Count
    activation_bits: Count
    factor: Positive


class Calibration(StrictModel):
    """What was fitted to measurements of one device.

    Attributes:
        source: Device, versions, date, and where the raw samples are.
        unit: Vectors that kernels were compiled for.
        run_s: Seconds that a network takes whatever its kernels.
        call_s: Seconds that a network needs to call a kernel.
        cold_s_per_weight_byte: Seconds for a byte of weights that other layers drove from the first cache.
        far_s_per_weight_byte: Further seconds for a byte that they drove from the second cache as well.
        fits: One for each class and arithmetic that was measured.
        shapes: Kernels of networks at hand, whose own measurements stand above the fits.
    """

    source: Source
    unit: VectorUnit
    call_s: NotNegative
    run_s: NotNegative = 0.0
    cold_s_per_weight_byte: NotNegative = 0.0
    far_s_per_weight_byte: NotNegative = 0.0
    fits: tuple[KernelFit, ...] = Field(min_length=1)
    shapes: tuple[MeasuredShape, ...] = ()

    @field_validator("fits", mode="before")
    @classmethod
    def _of_this_version(cls, fits: object) -> object:
        corrections = (
            [fit.get("correction") for fit in fits if isinstance(fit, dict)] if isinstance(fits, tuple) else []
        )
        if any(isinstance(correction, dict) and "spreads" in correction for correction in corrections):
            raise ValueError("written by an earlier version of codesign; calibrate again")
        return fits

    @field_validator("fits")
    @classmethod
    def _one_fit_for_a_class(cls, fits: tuple[KernelFit, ...]) -> tuple[KernelFit, ...]:
        names = [(fit.kind, fit.arithmetic) for fit in fits]
        if len(set(names)) < len(names):
            raise ValueError("a class has two fits")
        return fits
