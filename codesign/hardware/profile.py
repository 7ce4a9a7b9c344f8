"""What a device is: compute rates per pair of widths, memories, energies, each number with its source."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from codesign.config import StrictModel
from codesign.errors import InputError
from codesign.quantization.scheme import BitWidths

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Source = Annotated[str, Field(min_length=3)]


class ComputeRate(StrictModel):
    """Rate and energy of multiply-accumulates at one pair of widths.

    Attributes:
        weight_bits: Width of the weight; 32 for floating point.
        activation_bits: Width of the activation; 32 for floating point.
        macs_per_s: Peak of the whole device.
        energy_j_per_mac: Joules for one multiply-accumulate.
        source: Where both numbers come from.
    """

    weight_bits: int
    activation_bits: int
    macs_per_s: Positive
    energy_j_per_mac: NotNegative
    source: Source


class MemoryLevel(StrictModel):
    """One level of the memory hierarchy, nearest to the compute first.

    Attributes:
        name: Such as `register-file`, `global-buffer`, `dram`.
        capacity_bytes: Size.
        bandwidth_bytes_per_s: Sustained.
        energy_j_per_byte: Joules for one byte read or written.
        source: Where the numbers come from.
    """

    name: str
    capacity_bytes: Positive
    bandwidth_bytes_per_s: Positive
    energy_j_per_byte: NotNegative
    source: Source


class PeArray(StrictModel):
    """A two-dimensional array of processing elements.

    Attributes:
        rows: Rows of processing elements.
        columns: Columns of processing elements.
        clock_hz: Cycles in a second.
        filters_per_element: Output channels that one element accumulates at once (output-stationary).
        dataflows: Which dataflows each layer may choose from.
        source: Where the numbers come from.
    """

    rows: Annotated[int, Field(gt=0)]
    columns: Annotated[int, Field(gt=0)]
    clock_hz: Positive
    filters_per_element: Annotated[int, Field(gt=0)]
    dataflows: tuple[Literal["output-stationary", "weight-stationary"], ...]
    source: Source


class HardwareProfile(StrictModel):
    """A device.

    Attributes:
        name: Same as the file's name.
        description: One line.
        model: Which cost model prices it: `roofline` (processors) or `squeezelerator` (arrays).
        source: Where the description as a whole comes from.
        compute: Rates; a pair of widths without a row is an error, never a guess.
        memories: Levels, nearest to the compute first; the last one holds everything.
        array: The array of processing elements, for models of arrays.
        idle_power_w: Power drawn whatever it does.
        dispatch_s: Fixed time of starting one node.
        relative_error: Known relative error of predictions against the device or the reference, None if unknown.
        unverified: Keys whose source was recalled and not checked.
    """

    name: str
    description: str
    model: Literal["roofline", "squeezelerator"]
    source: Source
    compute: tuple[ComputeRate, ...] = Field(min_length=1)
    memories: tuple[MemoryLevel, ...] = Field(min_length=1)
    array: PeArray | None = None
    idle_power_w: NotNegative = 0.0
    dispatch_s: NotNegative = 0.0
    relative_error: NotNegative | None = None
    unverified: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _array_where_needed(self) -> "HardwareProfile":
        if (self.array is None) != (self.model != "squeezelerator"):
            raise ValueError("key 'array' is needed by model 'squeezelerator' and by no other")
        return self

    def rate(self, weight_bits: int, activation_bits: int) -> ComputeRate:
        """The row for one pair of widths.

        Args:
            weight_bits: Width of the weight.
            activation_bits: Width of the activation.

        Returns:
            The row.

        Raises:
            InputError: The profile has none.
        """
        for row in self.compute:
            if (row.weight_bits, row.activation_bits) == (weight_bits, activation_bits):
                return row
        have = ", ".join(f"{r.weight_bits}x{r.activation_bits}" for r in self.compute)
        raise InputError(
            f"profile {self.name!r}: compute has no rate for {weight_bits}-bit weights with {activation_bits}-bit "
            f"activations (it has {have}); add a [[compute]] row or leave these widths out of the search"
        )

    def rate_of(self, bits: BitWidths) -> ComputeRate:
        """The row for one pair of widths.

        Args:
            bits: The widths.

        Returns:
            The row.
        """
        return self.rate(bits.weight, bits.activation)
