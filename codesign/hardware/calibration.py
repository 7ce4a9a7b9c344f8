"""What a calibration found out about a device: seconds of interpretable terms, and a correction of what is left."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from codesign.config import StrictModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Source = Annotated[str, Field(min_length=3)]
KernelClass = Literal["convolution", "depthwise", "dense", "pooling", "elementwise"]
Arithmetic = Literal["float32", "int8"]


class VectorUnit(StrictModel):
    """Vectors that kernels were compiled for.

    Attributes:
        registers: Vectors that registers hold for sums and operands.
        lanes: Output channels of a vector.
        dot_channels: Input channels that an integer instruction adds up in each lane; 1 without such an instruction.
        amx: Whether integers are multiplied in tiles of AMX where these apply.
    """

    registers: Count
    lanes: Count
    dot_channels: Count
    amx: bool = False


class Term(StrictModel):
    """One addend of a predicted time.

    Attributes:
        name: What is counted, see `codesign.cost.kernel_terms`.
        seconds: Of one.
    """

    name: str
    seconds: NotNegative


class Tree(StrictModel):
    """A binary tree of decisions on features; node 0 is the root.

    Attributes:
        feature: Index of the feature that a node compares; -1 in a leaf.
        threshold: A sample goes left where the feature is at most this.
        left: Left child.
        right: Right child.
        value: What a leaf adds; 0 in other nodes.
    """

    feature: tuple[int, ...] = Field(min_length=1)
    threshold: tuple[Finite, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[Finite, ...]

    @field_validator("threshold", "left", "right", "value")
    @classmethod
    def _as_many(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        nodes = len(info.data.get("feature", values))
        if len(values) != nodes:
            raise ValueError(f"needs one number for each of {nodes} nodes")
        return values

    @field_validator("left", "right")
    @classmethod
    def _downwards(cls, children: tuple[int, ...]) -> tuple[int, ...]:
        for node, child in enumerate(children):
            if child != -1 and not node < child < len(children):
                raise ValueError("children stand after their parent; -1 in leaves")
        return children


class KernelFit(StrictModel):
    """How long one class of kernels takes.

    Attributes:
        kind: The class.
        arithmetic: What it computes in; weights below 8 bits are unpacked for `int8`.
        terms: Addends.
        features: Names of what the correction looks at.
        correction: Trees whose sum is the natural logarithm of a factor on the sum of the terms; none without one.
        samples: Kernels that it was fitted to.
        relative_error: Nine in ten held-out kernels are off by less.
        within_10_percent: Share of the held-out kernels that are off by at most 10 %.
        source: Where the numbers come from.
    """

    kind: KernelClass
    arithmetic: Arithmetic
    terms: tuple[Term, ...] = Field(min_length=1)
    features: tuple[str, ...] = ()
    correction: tuple[Tree, ...] = ()
    samples: Count
    relative_error: NotNegative
    within_10_percent: NotNegative
    source: Source

    @field_validator("correction")
    @classmethod
    def _features_exist(cls, trees: tuple[Tree, ...], info: ValidationInfo) -> tuple[Tree, ...]:
        count = len(info.data.get("features", ()))
        if any(feature >= count for tree in trees for feature in tree.feature):
            raise ValueError(f"a tree looks at a feature beyond the {count} that have names")
        return trees


class Calibration(StrictModel):
    """What was fitted to measurements of one device.

    Attributes:
        source: Device, versions, date, and where the raw samples are.
        unit: Vectors that kernels were compiled for.
        call_s: Seconds that a network needs to call a kernel.
        cold_s_per_weight_byte: Seconds for a byte of weights that other layers drove from the first cache.
        far_s_per_weight_byte: Further seconds for a byte that they drove from the second cache as well.
        fits: One for each class and arithmetic that was measured.
    """

    source: Source
    unit: VectorUnit
    call_s: NotNegative
    cold_s_per_weight_byte: NotNegative = 0.0
    far_s_per_weight_byte: NotNegative = 0.0
    fits: tuple[KernelFit, ...] = Field(min_length=1)

    @field_validator("fits")
    @classmethod
    def _one_fit_for_a_class(cls, fits: tuple[KernelFit, ...]) -> tuple[KernelFit, ...]:
        names = [(fit.kind, fit.arithmetic) for fit in fits]
        if len(set(names)) < len(names):
            raise ValueError("a class has two fits")
        return fits
