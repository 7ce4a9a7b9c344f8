"""Cost on processors: the slower of arithmetic and memory (roofline), with what real kernels add to both.

For a node with W bytes of packed weight and I, O bytes of activations, working set S = W + I + O:

    compute_s = MACs, padded to whole vectors / (peak x efficiency) + weights x unpack + outputs x epilogue
    memory_s  = S / bandwidth of the slowest level that the data crosses: up to the first level that holds S
    latency_s = max(compute_s, memory_s) + dispatch
    energy_j  = MACs x e_mac + S x sum of e_level over crossed levels + power x latency

after Williams, Waterman, Patterson, "Roofline" (CACM 2009). Data that fits a cache is taken to be there already, as it
is when a network runs again and again.
"""

from dataclasses import dataclass

from codesign.cost.base import NodeCost
from codesign.cost.operators import kind_of, moved_elements, operand_widths
from codesign.hardware.profile import ComputeRate, HardwareProfile, MemoryLevel
from codesign.ir.annotations import Provenance
from codesign.plan.facts import ConvGeometry, NodeFacts, packed_weight_bytes
from codesign.quantization.scheme import Widths

LONE_PRODUCT_INSTRUCTIONS = 2
"""A multiplication and an addition, for products that no dot-product instruction takes up."""


@dataclass(frozen=True)
class RooflineModel:
    """Prices nodes on a processor.

    Attributes:
        profile: The device.
    """

    profile: HardwareProfile

    @property
    def provenance(self) -> Provenance:
        """Peak rates and published energies are estimates."""
        return "estimated"

    def price_node(self, node: NodeFacts, bits: Widths) -> NodeCost:
        """Prices one node.

        Args:
            node: The node; nodes without a weight are priced at the activations' width.
            bits: Widths of its weight and activations.

        Returns:
            Its cost.
        """
        kind = kind_of(node)
        if kind == "free":
            return NodeCost(0.0, 0.0, "free")
        if kind == "move":
            return self._price_move(node, bits)
        rate = self.profile.rate(*operand_widths(node, bits))
        assert node.geometry is not None
        arithmetic_s = padded_macs(node.geometry, rate) / (rate.macs_per_s * rate.efficiency)
        unpack_s = node.weight_elements * rate.unpack_s_per_weight
        epilogue_s = node.output_elements * rate.epilogue_s_per_output
        return self._combine(
            arithmetic_s + unpack_s + epilogue_s,
            moved_bytes(node, bits),
            node.macs * rate.energy_j_per_mac,
            self.profile.dispatch_s,
        )

    def _price_move(self, node: NodeFacts, bits: Widths) -> NodeCost:
        if node.fused_into is not None:
            return self._combine(0.0, moved_bytes(node, bits), 0.0, 0.0)
        rate = self.profile.rate(bits.activation, bits.activation)
        elements = max(node.input_elements, node.output_elements)
        return self._combine(
            elements * rate.epilogue_s_per_output, moved_bytes(node, bits), 0.0, self.profile.dispatch_s
        )

    def _combine(self, compute_s: float, working_set: float, arithmetic_j: float, dispatch_s: float) -> NodeCost:
        crossed = self.crossed_levels(working_set)
        slowest = min(crossed, key=lambda level: level.bandwidth_bytes_per_s)
        memory_s = working_set / slowest.bandwidth_bytes_per_s
        latency_s = max(compute_s, memory_s) + dispatch_s
        parts = {"compute": compute_s, slowest.name: memory_s, "dispatch": dispatch_s}
        memory_j = working_set * sum(level.energy_j_per_byte for level in crossed)
        energy_j = arithmetic_j + memory_j + self.profile.idle_power_w * latency_s
        return NodeCost(latency_s, energy_j, max(parts, key=parts.__getitem__))

    def crossed_levels(self, working_set_bytes: float) -> tuple[MemoryLevel, ...]:
        """Levels that data crosses on its way to the core.

        Args:
            working_set_bytes: Bytes that a node touches.

        Returns:
            Every level up to the first that holds the working set.
        """
        levels = self.profile.memories
        for count, level in enumerate(levels, start=1):
            if level.capacity_bytes >= working_set_bytes:
                return levels[:count]
        return levels


def moved_bytes(node: NodeFacts, bits: Widths) -> float:
    """Bytes that a node reads and writes, each operand once.

    Args:
        node: A node that multiplies or is bound by memory.
        bits: Its widths.

    Returns:
        Packed weights with their scales and biases, and activations.
    """
    elements = moved_elements(node) if node.geometry is None else node.input_elements + node.output_elements
    weight_bytes = packed_weight_bytes(node, bits) if node.weight_elements else 0
    return elements * bits.activation / 8 + weight_bytes


def padded_macs(geometry: ConvGeometry, rate: ComputeRate) -> int:
    """Multiply-accumulates with lanes that carry nothing counted in.

    A vector holds neighbouring output channels, and an instruction consumes neighbouring input channels of each. Small
    groups, such as depthwise ones, run side by side instead: one lane an output channel, one input channel at a time,
    with a multiplication and an addition where a dot-product instruction would have taken several channels.

    Args:
        geometry: Loop bounds.
        rate: How many channels a vector and an instruction take.

    Returns:
        Multiply-accumulates that the machine's peak is measured in.
    """
    group_in = geometry.input_channels // geometry.groups
    group_out = geometry.output_channels // geometry.groups
    by_group = geometry.groups * _round_up(group_out, rate.output_channel_multiple)
    by_group *= _round_up(group_in, rate.input_channel_multiple)
    side_by_side = _round_up(geometry.output_channels, rate.output_channel_multiple)
    if rate.input_channel_multiple > 1:
        side_by_side *= rate.input_channel_multiple * LONE_PRODUCT_INSTRUCTIONS
    side_by_side *= group_in
    positions = geometry.batch * geometry.output_size[0] * geometry.output_size[1]
    return positions * geometry.kernel[0] * geometry.kernel[1] * min(by_group, side_by_side)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
