"""What layers take on several array designs, before bandwidth and energy are applied.

Compute depends on the layer, the dataflow and the array only, and DRAM traffic on the layer, the
widths and the buffer only.
Both are tabulated once and laid side by side; designs with equal buffers share their traffic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.cost.array_cycles import array_cycles
from codesign.cost.dram_traffic import DramTraffic, dram_traffic, tiling_problems
from codesign.cost.element_bytes import ElementBytes
from codesign.cost.layer_table import Array, LayerTable
from codesign.cost.on_chip_traffic import on_chip_traffic
from codesign.cost.tilings import Problems
from codesign.errors import InputError
from codesign.hardware.profile import Dataflow, HardwareProfile, PeArray

Bits = tuple[int, int]
"""Widths of weight and activation; any pair that a profile has a rate for."""


@dataclass(frozen=True)
class ArrayTables:
    """Work of all groups of each layer; infinite cycles where a design does not offer a dataflow.

    Attributes:
        cycles: Cycles at the array's native rate, `[layers, dataflows, designs]`.
        compute_s: Seconds that the array is busy, `[layers, pairs, dataflows, designs]`.
        register_bytes: Traffic of the register files, `[layers, pairs, dataflows, designs]`.
        buffer_bytes: Traffic of the global buffer, `[alternatives, layers, pairs, dataflows, designs]`.
        dram_bytes: Traffic of DRAM, same shape; infinite where no tile fits.
        exposed_bytes: Transfers that nothing hides, same shape: the first load and the last store, 0 where they are
            double-buffered.
    """

    cycles: Array
    compute_s: Array
    register_bytes: Array
    buffer_bytes: Array
    dram_bytes: Array
    exposed_bytes: Array


def array_of(profile: HardwareProfile) -> PeArray:
    """The array of a profile.

    Args:
        profile: The device.

    Returns:
        Its array.

    Raises:
        InputError: It has none.
    """
    if profile.array is None:
        raise InputError(f"profile {profile.name!r}: has no array; add an [array] table or use model roofline")
    return profile.array


def array_tables(
    layers: LayerTable, bits: Sequence[Bits], dataflows: Sequence[Dataflow], designs: Sequence[HardwareProfile]
) -> ArrayTables:
    """Tabulates every combination.

    Args:
        layers: The layers.
        bits: Pairs of widths.
        dataflows: Dataflows; a design that does not offer one has infinite cycles there.
        designs: Devices with arrays.

    Returns:
        The tables.
    """
    first_of = {_traffic_key(design): design for design in designs}
    shared = {key: _traffic(layers, bits, design) for key, design in first_of.items()}
    columns = [_Columns.of(layers, bits, dataflows, design, shared[_traffic_key(design)]) for design in designs]
    depth = max(len(column.dram_bytes) for column in columns)
    cycles = np.stack([column.cycles for column in columns], axis=-1)
    clocks = np.asarray([array_of(design).clock_hz for design in designs])
    seconds = np.asarray([[cycles_for_one(design, pair) for design in designs] for pair in bits])[:, None] / clocks
    is_offered = np.isfinite(cycles)[:, None]
    return ArrayTables(
        cycles=cycles,
        compute_s=np.where(is_offered, np.where(is_offered, cycles[:, None], 0.0) * seconds, np.inf),
        register_bytes=np.stack([column.register_bytes for column in columns], axis=-1),
        buffer_bytes=np.stack([_padded(column.buffer_bytes, depth) for column in columns], axis=-1),
        dram_bytes=np.stack([_padded(column.dram_bytes, depth) for column in columns], axis=-1),
        exposed_bytes=np.stack([_padded(column.exposed_bytes, depth) for column in columns], axis=-1),
    )


def cycles_for_one(design: HardwareProfile, pair: Bits) -> float:
    """Cycles that one cycle's work at the native rate takes at a pair of widths.

    Args:
        design: A device with an array.
        pair: Widths of weight and activation.

    Returns:
        `native rate / (rate x efficiency)`, native = one multiply-accumulate in each element and cycle.
    """
    rate = design.rate(*pair)
    return array_of(design).macs_per_s / (rate.macs_per_s * rate.efficiency)


def _traffic_key(design: HardwareProfile) -> tuple[object, ...]:
    """What DRAM traffic depends on, besides layers and widths."""
    _, buffer, dram = design.memories
    return buffer.capacity_bytes, buffer.storage, dram.storage, array_of(design).accumulator_bits


def tiling_problems_of(
    layers: LayerTable, bits: Sequence[Bits], design: HardwareProfile, *, sums_in_buffer: bool = False
) -> Problems:
    """What a design's buffer is tiled for.

    Args:
        layers: The layers.
        bits: Pairs of widths.
        design: A device with an array.
        sums_in_buffer: Whether the dataflow accumulates in the buffer.

    Returns:
        Every layer at every pair of widths, pairs of one layer side by side.
    """
    sizes = array_of(design).accumulator_bits
    buffer, dram = (ElementBytes.at(level, bits, sizes) for level in design.memories[1:])
    capacity = design.memories[1].capacity_bytes
    return tiling_problems(layers, dram, buffer, capacity, sums_in_buffer=sums_in_buffer)


def _traffic(layers: LayerTable, bits: Sequence[Bits], design: HardwareProfile) -> tuple[DramTraffic, DramTraffic]:
    """With sums that stay in the elements, and with sums in the buffer."""
    shape = (len(layers), len(bits))
    return (
        dram_traffic(tiling_problems_of(layers, bits, design), shape),
        dram_traffic(tiling_problems_of(layers, bits, design, sums_in_buffer=True), shape),
    )


@dataclass(frozen=True)
class _Columns:
    """One design's part of the tables, without the last axis."""

    cycles: Array
    register_bytes: Array
    buffer_bytes: Array
    dram_bytes: Array
    exposed_bytes: Array

    @classmethod
    def of(
        cls,
        layers: LayerTable,
        bits: Sequence[Bits],
        dataflows: Sequence[Dataflow],
        design: HardwareProfile,
        traffic: tuple[DramTraffic, DramTraffic],
    ) -> "_Columns":
        array = array_of(design)
        levels = [ElementBytes.at(level, bits, array.accumulator_bits) for level in design.memories]
        depth, shape = max(len(tilings.dram_bytes) for tilings in traffic), (len(layers), len(bits), len(dataflows))
        cycles, registers = np.full((shape[0], shape[2]), np.inf), np.zeros(shape)
        moved = np.zeros((depth, 3, *shape))
        groups = layers.groups[:, None]
        for index, dataflow in enumerate(dataflows):
            if dataflow not in array.dataflows:
                continue
            cycles[:, index] = array_cycles(layers, array, dataflow)
            on_chip = on_chip_traffic(layers, array, dataflow, levels[1], levels[0])
            registers[..., index] = on_chip.register_bytes
            kept, summed = (_padded(_moved_bytes(tilings, array, dataflow), depth) for tilings in traffic)
            moved[..., index] = groups * np.where(on_chip.sums_in_buffer[:, None], summed, kept)
            moved[:, 0, ..., index] += on_chip.buffer_bytes
        return cls(cycles, registers, moved[:, 0], moved[:, 1], moved[:, 2])


def _moved_bytes(tiling: DramTraffic, array: PeArray, dataflow: Dataflow) -> Array:
    """Bytes through the buffer, of DRAM, and exposed, of one group; `[alternatives, 3, layers, pairs]`."""
    if array.latency_convention == "double-buffered":
        exposed = np.zeros_like(tiling.dram_bytes)
    else:
        exposed = _exposed_bytes(tiling, dataflow)
    return np.stack([tiling.fill_bytes + tiling.interrupted_bytes, tiling.dram_bytes, exposed], axis=1)


def _exposed_bytes(tiling: DramTraffic, dataflow: Dataflow) -> Array:
    """What is loaded before the arithmetic starts and stored after it ends (observed in ZigZag's schedules).

    Operands come over ports of their own. The operand that stays in the elements streams in while they work; with
    outputs that stay, both operands must be there, and only the last row of outputs is left at the end. The rule for
    inputs that stay follows by symmetry.
    """
    match dataflow:
        case "output-stationary":
            load = np.maximum(tiling.tile_input_bytes, tiling.tile_weight_bytes)
            return np.asarray(load + tiling.tile_output_bytes / tiling.tile_rows)
        case "weight-stationary":
            return tiling.tile_input_bytes + tiling.tile_output_bytes
        case "input-stationary":
            return tiling.tile_weight_bytes + tiling.tile_output_bytes


def _padded(values: Array, alternatives: int) -> Array:
    """The first alternative repeated at the end."""
    missing = alternatives - len(values)
    return np.concatenate([values, np.repeat(values[:1], missing, axis=0)]) if missing else values
