"""What a cost model is."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol

from codesign.hardware.profile import HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import GraphFacts, NodeFacts, packed_weight_bytes
from codesign.plan.plan import Cost, Plan
from codesign.quantization.scheme import BitWidths


@dataclass(frozen=True)
class NodeCost:
    """What one run of one node costs at one pair of widths.

    Attributes:
        latency_s: Seconds.
        energy_j: Joules.
        bound: What limits the latency: `compute`, the name of a memory level, `dispatch`, or `free` for nodes that cost
            nothing, such as a reshape.
    """

    latency_s: float
    energy_j: float
    bound: str


class CostModel(Protocol):
    """Prices nodes on one device; pure and deterministic."""

    @property
    def profile(self) -> HardwareProfile:
        """The device."""

    @property
    def provenance(self) -> Provenance:
        """What its numbers are: `estimated`, `simulated` or `calibrated`."""

    def price_node(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        """Prices one node.

        Args:
            node: The node; nodes without a weight are priced at the activations' width.
            bits: Widths of its weight and activations.

        Returns:
            Its cost.

        Raises:
            InputError: The device has no rate for these widths.
        """


DEFAULT_BITS = BitWidths(8, 8)
"""Widths at which nodes without a weight are priced."""


def price(model: CostModel, facts: GraphFacts, plan: Plan) -> Cost:
    """Prices a whole plan: latency and energy add up over nodes, which run one after the other.

    Args:
        model: Prices nodes.
        facts: The network.
        plan: Widths of its nodes.

    Returns:
        The cost.
    """
    bits_of = plan.bits_of
    priced = [(node, bits_of.get(node.name, DEFAULT_BITS)) for node in facts.nodes]
    costs = [model.price_node(node, bits) for node, bits in priced]
    weighted = [(node, bits) for node, bits in priced if node.weight_elements]
    return Cost(
        latency_s=math.fsum(cost.latency_s for cost in costs),
        energy_j=math.fsum(cost.energy_j for cost in costs),
        peak_memory_bytes=max((live_bytes(node, bits) for node, bits in priced), default=0),
        weight_bytes=sum(packed_weight_bytes(node, bits) for node, bits in weighted),
        bops=math.fsum(float(node.macs) * bits.weight * bits.activation for node, bits in weighted),
    )


def with_latency(cost: NodeCost, latency_s: float, profile: HardwareProfile) -> NodeCost:
    """The same node taking another time; what the device draws while it is idle is paid for that time.

    Args:
        cost: What a model says.
        latency_s: Seconds that it takes instead.
        profile: The device.

    Returns:
        The cost, its energy not below 0.
    """
    idle_j = profile.idle_power_w * (latency_s - cost.latency_s)
    return dataclasses.replace(cost, latency_s=latency_s, energy_j=max(0.0, cost.energy_j + idle_j))


def kernel_latency_s(model: CostModel, node: NodeFacts, bits: BitWidths) -> float:
    """Seconds of a node's kernel: the node and all that is merged into it, without what a run takes beyond kernels.

    Args:
        model: Prices nodes.
        node: A node that begins a kernel, of `facts_of`.
        bits: Its widths.

    Returns:
        Seconds.
    """
    alone = dataclasses.replace(node, is_first=False)
    merged = (model.price_node(other, DEFAULT_BITS).latency_s for other in node.merged)
    return math.fsum([model.price_node(alone, bits).latency_s, *merged])


def run_latency_s(model: CostModel, facts: GraphFacts) -> float:
    """Seconds that a run takes whatever its kernels, which models put on the first node that multiplies.

    Args:
        model: Prices nodes.
        facts: The network.

    Returns:
        Seconds; 0 for models that know of none.
    """
    alone = ((node, dataclasses.replace(node, is_first=False)) for node in facts.nodes if node.is_first)
    prices = (
        model.price_node(first, DEFAULT_BITS).latency_s - model.price_node(other, DEFAULT_BITS).latency_s
        for first, other in alone
    )
    return math.fsum(prices)


def live_bytes(node: NodeFacts, bits: BitWidths) -> int:
    """Bytes of activations alive while a node runs.

    Args:
        node: The node.
        bits: Its widths; all activations of a network have the same width.

    Returns:
        Bytes, rounded up.
    """
    return -(-node.live_elements * bits.activation // 8)
