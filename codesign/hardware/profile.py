"""What a device is: compute rates per pair of widths, memories, energies, each number with its source."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from codesign.config import StrictModel
from codesign.errors import InputError
from codesign.hardware.calibration import Calibration
from codesign.quantization.scheme import ACTIVATION_BITS, WEIGHT_BITS, BitWidths

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Source = Annotated[str, Field(min_length=3)]
Dataflow = Literal["output-stationary", "weight-stationary", "input-stationary"]
"""What stays in a processing element while it works: partial sums of outputs, weights, or inputs."""
ArrayKind = Literal["skewed", "broadcast", "squeezelerator"]
"""How operands reach the elements: `skewed`, they pass from neighbour to neighbour, each row one cycle later (systolic
arrays, SCALE-Sim); `broadcast`, every element of a row or column gets them at once (ZigZag); `squeezelerator`, a plane
of outputs with broadcast weights, or weights with sums that run down the columns (Kwon et al., DAC 2018)."""
LatencyConvention = Literal["double-buffered", "load-compute-store"]
"""`double-buffered`: transfers and arithmetic overlap completely. `load-compute-store`: the first tile is loaded before
the arithmetic starts and the last one is stored after it ends, as ZigZag counts."""
DATAFLOWS: dict[ArrayKind, tuple[Dataflow, ...]] = {
    "skewed": ("output-stationary", "weight-stationary", "input-stationary"),
    "broadcast": ("output-stationary", "weight-stationary"),
    "squeezelerator": ("output-stationary", "weight-stationary"),
}
"""Dataflows that each kind of array can run."""
ARRAY_LEVELS = 3
"""An array has a register file, a global buffer and DRAM."""


class ComputeRate(StrictModel):
    """Rate and energy of multiply-accumulates at one pair of widths.

    Attributes:
        weight_bits: Width of the weight; 32 for floating point.
        activation_bits: Width of the activation; 32 for floating point.
        macs_per_s: Peak of the described device, all of its threads together.
        energy_j_per_mac: Joules for one multiply-accumulate.
        efficiency: Share of the peak that the inner loops of real kernels reach.
        unpack_s_per_weight: Seconds to turn one packed weight into an operand, once in a run.
        epilogue_s_per_output: Seconds for bias, activation function and requantisation of one output element.
        output_channel_multiple: Output channels computed side by side; fewer waste the rest.
        input_channel_multiple: Input channels consumed by one instruction; fewer waste the rest.
        source: Where the numbers come from.
    """

    weight_bits: Count
    activation_bits: Count
    macs_per_s: Positive
    energy_j_per_mac: NotNegative
    efficiency: Fraction = 1.0
    unpack_s_per_weight: NotNegative = 0.0
    epilogue_s_per_output: NotNegative = 0.0
    output_channel_multiple: Count = 1
    input_channel_multiple: Count = 1
    source: Source


class MemoryLevel(StrictModel):
    """One level of the memory hierarchy, nearest to the compute first.

    Attributes:
        name: Such as `register-file`, `global-buffer`, `l2`, `dram`.
        capacity_bytes: Size.
        bandwidth_bytes_per_s: Sustained.
        energy_j_per_byte: Joules for one byte read or written.
        storage: How narrow values lie in it, in models of arrays: `packed` without gaps, or each in whole `bytes`.
        source: Where the numbers come from.
    """

    name: str
    capacity_bytes: Positive
    bandwidth_bytes_per_s: Positive
    energy_j_per_byte: NotNegative
    storage: Literal["packed", "bytes"] = "packed"
    source: Source


class PeArray(StrictModel):
    """A two-dimensional array of processing elements.

    Attributes:
        kind: How operands reach the elements.
        rows: Rows of processing elements.
        columns: Columns of processing elements.
        clock_hz: Cycles in a second.
        filters_per_element: Outputs that one element accumulates at once (output-stationary); 1 in skewed arrays.
        accumulator_bits: Width of a partial sum.
        dataflows: Which dataflows each layer may choose from.
        latency_convention: What of the transfers the arithmetic hides.
        folds: Time of a skewed array's fold that fills it only partly: `fitted`, of the rows and columns in use, so
            that a larger array is never slower; `whole`, of the whole array, as SCALE-Sim counts.
        source: Where the numbers come from.
    """

    kind: ArrayKind
    rows: Count
    columns: Count
    clock_hz: Positive
    filters_per_element: Count = 1
    accumulator_bits: Count
    dataflows: tuple[Dataflow, ...] = Field(min_length=1)
    latency_convention: LatencyConvention = "double-buffered"
    folds: Literal["fitted", "whole"] = "fitted"
    source: Source

    @field_validator("filters_per_element")
    @classmethod
    def _one_output_where_skewed(cls, count: int, info: ValidationInfo) -> int:
        if info.data.get("kind") == "skewed" and count != 1:
            raise ValueError("must be 1 in a skewed array")
        return count

    @field_validator("dataflows")
    @classmethod
    def _dataflows_of_the_kind(cls, dataflows: tuple[Dataflow, ...], info: ValidationInfo) -> tuple[Dataflow, ...]:
        kind = info.data.get("kind")
        if kind is not None and not set(dataflows) <= set(DATAFLOWS[kind]):
            raise ValueError(f"a {kind} array runs {', '.join(DATAFLOWS[kind])} only")
        if len(set(dataflows)) < len(dataflows):
            raise ValueError("a dataflow is named twice")
        return dataflows

    @property
    def macs_per_s(self) -> float:
        """Peak at the native rate: one multiply-accumulate in each element and cycle."""
        return self.rows * self.columns * self.clock_hz


class HardwareProfile(StrictModel):
    """A device.

    Attributes:
        name: Same as the file's name.
        description: One line.
        model: Which cost model prices it: `roofline` (processors) or `array`.
        source: Where the description as a whole comes from.
        threads: Threads that the rates are for.
        compute: Rates; a pair of widths without a row is an error, never a guess.
        memories: Levels, nearest to the compute first; the last one holds everything. An array has exactly three:
            register file, global buffer, DRAM.
        array: The array of processing elements, for models of arrays.
        idle_power_w: Power drawn whatever it does.
        dispatch_s: Fixed time of starting one node.
        relative_error: Known relative error of predictions against the device or the reference, None if unknown.
        unverified: Keys whose value was recalled, inferred or assumed, and not checked against the device.
        calibration: What `codesign calibrate` fitted to measured kernels; latency then follows it.
    """

    name: str
    description: str
    model: Literal["roofline", "array"]
    source: Source
    threads: Count = 1
    compute: tuple[ComputeRate, ...] = Field(min_length=1)
    memories: tuple[MemoryLevel, ...] = Field(min_length=1)
    array: PeArray | None = Field(default=None, validate_default=True)
    idle_power_w: NotNegative = 0.0
    dispatch_s: NotNegative = 0.0
    relative_error: NotNegative | None = None
    unverified: tuple[str, ...] = ()
    calibration: Calibration | None = None

    @field_validator("compute")
    @classmethod
    def _one_row_for_a_pair(cls, rows: tuple[ComputeRate, ...]) -> tuple[ComputeRate, ...]:
        pairs = [(row.weight_bits, row.activation_bits) for row in rows]
        twice = sorted({f"{w}x{a}" for w, a in pairs if pairs.count((w, a)) > 1})
        if twice:
            raise ValueError(f"widths {', '.join(twice)} have more than one row")
        return rows

    @field_validator("memories")
    @classmethod
    def _levels_fit_the_model(cls, levels: tuple[MemoryLevel, ...], info: ValidationInfo) -> tuple[MemoryLevel, ...]:
        names = [level.name for level in levels]
        if len(set(names)) < len(names):
            raise ValueError("two levels have the same name")
        model = info.data.get("model")
        if model == "array" and len(levels) != ARRAY_LEVELS:
            raise ValueError("an array has exactly three levels: register file, global buffer, DRAM")
        if model == "roofline" and any(level.storage != "packed" for level in levels):
            raise ValueError("model 'roofline' knows packed storage only")
        return levels

    @field_validator("array")
    @classmethod
    def _array_where_needed(cls, array: PeArray | None, info: ValidationInfo) -> PeArray | None:
        model = info.data.get("model")
        if model is not None and (array is None) != (model != "array"):
            raise ValueError("is needed by model 'array' and by no other")
        return array

    @property
    def bit_widths(self) -> tuple[BitWidths, ...]:
        """Pairs of widths that both a plan can choose and the device has a rate for, narrowest first."""
        chosen = [row for row in self.compute if row.weight_bits in WEIGHT_BITS]
        chosen = [row for row in chosen if row.activation_bits in ACTIVATION_BITS]
        return tuple(sorted(BitWidths(row.weight_bits, row.activation_bits) for row in chosen))

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
