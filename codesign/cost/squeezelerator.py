"""Cost on a simulated array of processing elements that chooses a dataflow for each layer (Squeezelerator).

    latency_s = max(cycles / clock, DRAM bytes / DRAM bandwidth, buffer bytes / buffer bandwidth) + dispatch
    energy_j  = MACs e_mac + register bytes e_rf + buffer bytes e_buffer + DRAM bytes e_dram + idle power x latency

Double buffering is ideal: transfers and arithmetic overlap completely. Feature maps go through DRAM between layers.
Every tiling that fits the buffer is tried under every dataflow (`tiling`, `dataflows`) and the best mapping is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from codesign.cost.base import NodeCost
from codesign.cost.dataflows import OnChip, output_stationary, weight_stationary
from codesign.cost.layer import ElementBytes, Layer, layer_of
from codesign.cost.operators import kind_of, moved_elements
from codesign.cost.tiling import fitting_tilings
from codesign.errors import InputError
from codesign.hardware.profile import Dataflow, HardwareProfile, PeArray
from codesign.ir.annotations import Provenance
from codesign.plan.facts import ConvGeometry, NodeFacts
from codesign.quantization.scheme import BitWidths

Objective = Literal["latency", "energy"]
FILTER_OVERHEAD_BYTES = 8.0
"""A float32 scale and an int32 bias for each output channel."""

_DATAFLOWS: dict[Dataflow, Callable[[Layer, ElementBytes, PeArray], OnChip]] = {
    "output-stationary": output_stationary,
    "weight-stationary": weight_stationary,
}


@dataclass(frozen=True)
class Mapping:
    """The best way to run one node, all of its groups together.

    Attributes:
        dataflow: What stays in the elements.
        latency_s: Seconds, dispatch included.
        energy_j: Joules.
        bound: `compute` or the name of a memory level.
        compute_s: Seconds that the array is busy.
        dram_bytes: Traffic of DRAM.
        buffer_bytes: Traffic of the global buffer.
        register_bytes: Traffic of the register files.
    """

    dataflow: Dataflow
    latency_s: float
    energy_j: float
    bound: str
    compute_s: float
    dram_bytes: float
    buffer_bytes: float
    register_bytes: float


@dataclass(frozen=True)
class SqueezeleratorModel:
    """Prices nodes on an array.

    Attributes:
        profile: The device.
        objective: What the mapping of each node minimises first; the other breaks ties.
    """

    profile: HardwareProfile
    objective: Objective = "latency"

    def __post_init__(self) -> None:
        if self.profile.array is None:
            raise InputError(f"profile {self.profile.name!r}: has no array; add an [array] table or use model roofline")

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
            mapping = self.best_mapping(
                node.geometry,
                bits.weight if node.weight_elements else bits.activation,
                bits.activation,
                FILTER_OVERHEAD_BYTES if node.weight_elements else 0.0,
            )
        except InputError as error:
            raise InputError(f"node {node.name!r} ({node.op_type}): {error}") from None
        return NodeCost(mapping.latency_s, mapping.energy_j, mapping.bound)

    def best_mapping(
        self,
        geometry: ConvGeometry,
        weight_bits: int,
        activation_bits: int,
        filter_overhead_bytes: float = FILTER_OVERHEAD_BYTES,
    ) -> Mapping:
        """The best dataflow and tiling of a convolution or matrix product.

        Args:
            geometry: Loop bounds.
            weight_bits: Width of the weight, any that the profile has a rate for.
            activation_bits: Width of the activations.
            filter_overhead_bytes: Bytes of scale and bias of one output channel.

        Returns:
            The mapping.
        """
        return _best_mapping(
            self.profile, self.objective, geometry, weight_bits, activation_bits, filter_overhead_bytes
        )

    def _price_move(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        _, buffer, dram = self.profile.memories
        moved_bytes = moved_elements(node) * bits.activation / 8
        dispatch_s = 0.0 if node.fused_into is not None else self.profile.dispatch_s
        parts = {level.name: moved_bytes / level.bandwidth_bytes_per_s for level in (buffer, dram)}
        latency_s = max(parts.values()) + dispatch_s
        energy_j = moved_bytes * (buffer.energy_j_per_byte + dram.energy_j_per_byte)
        bound = max(parts | {"dispatch": dispatch_s}, key=(parts | {"dispatch": dispatch_s}).__getitem__)
        return NodeCost(latency_s, energy_j + self.profile.idle_power_w * latency_s, bound)


@dataclass(frozen=True)
class _Candidates:
    """All tilings of one node under one dataflow.

    Attributes:
        compute_s: Seconds that the array is busy.
        dram_bytes: Traffic of each tiling.
        buffer_bytes: Traffic of each tiling.
        register_bytes: Traffic.
        arithmetic_j: Joules of the multiply-accumulates.
    """

    compute_s: float
    dram_bytes: NDArray[np.float64]
    buffer_bytes: NDArray[np.float64]
    register_bytes: float
    arithmetic_j: float


@lru_cache(maxsize=16384)
def _best_mapping(
    profile: HardwareProfile,
    objective: Objective,
    geometry: ConvGeometry,
    weight_bits: int,
    activation_bits: int,
    filter_overhead_bytes: float,
) -> Mapping:
    assert profile.array is not None
    element = ElementBytes(
        weight_bits / 8, activation_bits / 8, profile.array.accumulator_bits / 8, filter_overhead_bytes
    )
    found = []
    for dataflow in profile.array.dataflows:
        candidates = _candidates(profile, dataflow, layer_of(geometry), element, (weight_bits, activation_bits))
        found.append(_best(profile, objective, dataflow, candidates))
    return min(found, key=lambda mapping: _order(mapping, objective))


def _order(mapping: Mapping, objective: Objective) -> tuple[float, float]:
    pair = (mapping.latency_s, mapping.energy_j)
    return pair if objective == "latency" else pair[::-1]


def _candidates(
    profile: HardwareProfile, dataflow: Dataflow, layer: Layer, element: ElementBytes, bits: tuple[int, int]
) -> _Candidates:
    array = profile.array
    assert array is not None
    rate = profile.rate(*bits)
    on_chip = _DATAFLOWS[dataflow](layer, element, array)
    buffer = profile.memories[1]
    tilings = fitting_tilings(layer, element, buffer.capacity_bytes, on_chip.sums_in_buffer)
    fills = tilings.weight_bytes + tilings.input_bytes
    interrupted = 2 * (tilings.channel_tiles - 1) * layer.positions * layer.filters * element.partial_sum
    if on_chip.sums_in_buffer:  # only sums that live in the elements must be put aside between channel tiles
        interrupted = np.zeros_like(interrupted)
    peak = array.rows * array.columns * array.clock_hz
    return _Candidates(
        compute_s=layer.groups * on_chip.cycles / array.clock_hz * peak / (rate.macs_per_s * rate.efficiency),
        dram_bytes=layer.groups * tilings.total_bytes,
        buffer_bytes=layer.groups * (on_chip.buffer_bytes + fills + interrupted),
        register_bytes=layer.groups * on_chip.register_bytes,
        arithmetic_j=layer.groups * layer.macs * rate.energy_j_per_mac,
    )


def _best(profile: HardwareProfile, objective: Objective, dataflow: Dataflow, candidates: _Candidates) -> Mapping:
    register, buffer, dram = profile.memories
    dram_s = candidates.dram_bytes / dram.bandwidth_bytes_per_s
    buffer_s = candidates.buffer_bytes / buffer.bandwidth_bytes_per_s
    latency_s = np.maximum(np.maximum(dram_s, buffer_s), candidates.compute_s) + profile.dispatch_s
    energy_j = (
        candidates.arithmetic_j
        + candidates.register_bytes * register.energy_j_per_byte
        + candidates.buffer_bytes * buffer.energy_j_per_byte
        + candidates.dram_bytes * dram.energy_j_per_byte
        + profile.idle_power_w * latency_s
    )
    keys = (energy_j, latency_s) if objective == "latency" else (latency_s, energy_j)
    best = int(np.lexsort(keys)[0])
    parts = {"compute": candidates.compute_s, buffer.name: float(buffer_s[best]), dram.name: float(dram_s[best])}
    return Mapping(
        dataflow=dataflow,
        latency_s=float(latency_s[best]),
        energy_j=float(energy_j[best]),
        bound=max(parts, key=parts.__getitem__),
        compute_s=candidates.compute_s,
        dram_bytes=float(candidates.dram_bytes[best]),
        buffer_bytes=float(candidates.buffer_bytes[best]),
        register_bytes=candidates.register_bytes,
    )
