"""Cost on a simulated two-dimensional array of processing elements that chooses a dataflow for each layer.

A node that multiplies is priced by `array_grid`: the best tiling under the best dataflow. Other nodes are bound by
memory: their operands and results cross the global buffer and DRAM once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from codesign.cost.array_grid import GridCost, Objective, price_grid
from codesign.cost.array_tables import Bits, array_of, cycles_for_one, tiling_problems_of
from codesign.cost.base import NodeCost
from codesign.cost.element_bytes import ElementBytes
from codesign.cost.layer_table import LayerTable
from codesign.cost.operators import kind_of, moved_elements, operand_widths
from codesign.cost.tilings import smallest_tile_bytes
from codesign.errors import InputError
from codesign.hardware.profile import Dataflow, HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import ConvGeometry, NodeFacts
from codesign.quantization.scheme import BitWidths

FILTER_OVERHEAD_BYTES = 8.0
"""A float32 scale and an int32 bias for each output channel."""
CYCLE_DIGITS = 6
"""Decimals of cycles: a rate that was scaled to another array may miss the native one by a rounding error."""


@dataclass(frozen=True)
class Mapping:
    """The best way to run one node, all of its groups together.

    Attributes:
        dataflow: What stays in the elements.
        cycles: Cycles that the array is busy at these widths.
        utilisation: Share of the array's peak at these widths while it is busy.
        latency_s: Seconds, dispatch included.
        energy_j: Joules.
        bound: `compute` or the name of a memory level.
        compute_s: Seconds that the array is busy.
        dram_bytes: Traffic of DRAM.
        buffer_bytes: Traffic of the global buffer.
        register_bytes: Traffic of the register files.
    """

    dataflow: Dataflow
    cycles: float
    utilisation: float
    latency_s: float
    energy_j: float
    bound: str
    compute_s: float
    dram_bytes: float
    buffer_bytes: float
    register_bytes: float


@dataclass(frozen=True)
class ArrayModel:
    """Prices nodes on an array.

    Attributes:
        profile: The device.
        objective: What the mapping of each node minimises first; the other breaks ties.
    """

    profile: HardwareProfile
    objective: Objective = "latency"

    def __post_init__(self) -> None:
        array_of(self.profile)

    @property
    def provenance(self) -> Provenance:
        """The device exists as this model only."""
        return "simulated"

    def price_node(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        """Prices one node.

        Args:
            node: The node; nodes without a weight are priced at the activations' width.
            bits: Widths of its weight and activations.

        Returns:
            Its cost.

        Raises:
            InputError: The device has no rate for these widths, or its buffer is too small for the node.
        """
        kind = kind_of(node)
        if kind == "free":
            return NodeCost(0.0, 0.0, "free")
        if kind == "move":
            return self._price_move(node, bits)
        assert node.geometry is not None
        try:
            mapping = self.best_mapping(node.geometry, *operand_widths(node, bits), filter_overhead_bytes(node))
        except InputError as error:
            raise InputError(f"node {node.name!r} ({node.op_type}): {error}") from None
        return NodeCost(mapping.latency_s, mapping.energy_j, mapping.bound)

    def best_mapping(
        self,
        geometry: ConvGeometry,
        weight_bits: int,
        activation_bits: int,
        overhead_bytes: float = FILTER_OVERHEAD_BYTES,
    ) -> Mapping:
        """The best dataflow and tiling of a convolution or matrix product.

        Args:
            geometry: Loop bounds.
            weight_bits: Width of the weight, any that the profile has a rate for.
            activation_bits: Width of the activations.
            overhead_bytes: Bytes of scale and bias of one output channel.

        Returns:
            The mapping.

        Raises:
            InputError: The device has no rate for these widths, or its buffer is too small for the layer.
        """
        bits = (weight_bits, activation_bits)
        self.profile.rate(*bits)  # refuses widths without a rate
        mapping = _mappings_by_bits(self.profile, self.objective, geometry, overhead_bytes)[bits]
        if math.isinf(mapping.latency_s):
            raise _too_small(self.profile, LayerTable.of([geometry], overhead_bytes), bits)
        return mapping

    def _price_move(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        return move_cost(self.profile, moved_by_level(self.profile, node, bits.activation), node.fused_into is not None)


def filter_overhead_bytes(node: NodeFacts) -> float:
    """Bytes of scale and bias of one output channel.

    Args:
        node: A node that multiplies.

    Returns:
        `FILTER_OVERHEAD_BYTES`, or 0 for products of two activations and layers described without scales.
    """
    return FILTER_OVERHEAD_BYTES if node.output_channels else 0.0


def moved_by_level(profile: HardwareProfile, node: NodeFacts, activation_bits: int) -> tuple[float, float, float]:
    """Bytes that a node that is bound by memory moves: each operand and result crosses the buffer and DRAM once.

    Args:
        profile: A device with an array.
        node: The node.
        activation_bits: Width of its operands and results.

    Returns:
        Bytes of the register files (none), the global buffer and DRAM.
    """
    pair, sums = (activation_bits, activation_bits), array_of(profile).accumulator_bits
    buffer, dram = (ElementBytes.at(level, [pair], sums).activation[0] for level in profile.memories[1:])
    elements = moved_elements(node)
    return 0.0, float(elements * buffer), float(elements * dram)


def move_cost(profile: HardwareProfile, moved_bytes: tuple[float, float, float], is_fused: bool) -> NodeCost:
    """Cost of a node that is bound by memory.

    Args:
        profile: A device with an array.
        moved_bytes: What it reads and writes at each level.
        is_fused: Whether the kernel before it computes it, so that it is not started by itself.

    Returns:
        Its cost.
    """
    dispatch_s = 0.0 if is_fused else profile.dispatch_s
    levels = list(zip(profile.memories, moved_bytes, strict=True))
    parts = {level.name: moved / level.bandwidth_bytes_per_s for level, moved in levels}
    latency_s = max(parts.values()) + dispatch_s
    energy_j = sum(moved * level.energy_j_per_byte for level, moved in levels)
    parts["dispatch"] = dispatch_s
    return NodeCost(latency_s, energy_j + profile.idle_power_w * latency_s, max(parts, key=parts.__getitem__))


def best_mappings(
    profile: HardwareProfile,
    geometries: Sequence[ConvGeometry],
    bits: Bits,
    objective: Objective = "latency",
    overhead_bytes: Sequence[float] | float = FILTER_OVERHEAD_BYTES,
    names: Sequence[str] | None = None,
) -> list[Mapping]:
    """The best dataflow and tiling of each of several layers, computed together.

    Args:
        profile: The device.
        geometries: Loop bounds.
        bits: Widths of weight and activations.
        objective: What each mapping minimises first; the other breaks ties.
        overhead_bytes: Bytes of scale and bias of one output channel, of each layer or of all.
        names: Of the layers, for messages.

    Returns:
        The mappings, in the same order.

    Raises:
        InputError: The device has no rate for these widths, or its buffer is too small for a layer.
    """
    layers = LayerTable.of(geometries, overhead_bytes)
    mappings = _mappings(price_grid(layers, [bits], [profile], objective=objective), 0, objective)
    for index, mapping in enumerate(mappings):
        if math.isinf(mapping.latency_s):
            where = "" if names is None else f"layer {names[index]!r}: "
            raise _too_small(profile, layers.take(np.asarray([index])), bits, where)
    return mappings


@lru_cache(maxsize=16384)
def _mappings_by_bits(
    profile: HardwareProfile, objective: Objective, geometry: ConvGeometry, overhead_bytes: float
) -> dict[Bits, Mapping]:
    """At every pair of widths that the device has a rate for: together they take hardly longer than one alone."""
    pairs = [(row.weight_bits, row.activation_bits) for row in profile.compute]
    grid = price_grid(LayerTable.of([geometry], overhead_bytes), pairs, [profile], objective=objective)
    return {pair: _mappings(grid, index, objective)[0] for index, pair in enumerate(pairs)}


def _mappings(grid: GridCost, pair: int, objective: Objective) -> list[Mapping]:
    """The best mapping of each layer on the only design at one pair of widths, infinite where nothing fits."""
    (profile,) = grid.designs
    names = ("compute", profile.memories[1].name, profile.memories[2].name)
    stretch = cycles_for_one(profile, grid.bits[pair])
    bound, dram_bytes, buffer_bytes, utilisation = grid.bound, grid.dram_bytes, grid.buffer_bytes, grid.utilisation
    found = []
    for layer, dataflow in enumerate(grid.best_dataflow(objective)[:, pair, 0, 0].tolist()):
        point = (layer, pair, dataflow, 0)
        found.append(
            Mapping(
                dataflow=grid.dataflows[dataflow],
                cycles=round(float(grid.tables.cycles[layer, dataflow, 0]) * stretch, CYCLE_DIGITS),
                utilisation=float(utilisation[layer, dataflow, 0]),
                latency_s=float(grid.latency_s[point][0]),
                energy_j=float(grid.energy_j[point][0]),
                bound=names[bound[point][0]],
                compute_s=float(grid.tables.compute_s[point]),
                dram_bytes=float(dram_bytes[point][0]),
                buffer_bytes=float(buffer_bytes[point][0]),
                register_bytes=float(grid.tables.register_bytes[point]),
            )
        )
    return found


def _too_small(profile: HardwareProfile, layer: LayerTable, bits: Bits, where: str = "") -> InputError:
    smallest = float(smallest_tile_bytes(tiling_problems_of(layer, [bits], profile))[0])
    return InputError(
        f"{where}one filter, row and channel at a time take {smallest:.0f} bytes on chip, the buffer holds "
        f"{profile.memories[1].capacity_bytes:.0f}; use a profile with a larger buffer"
    )
