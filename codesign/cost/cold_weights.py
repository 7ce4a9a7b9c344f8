"""Weights that have left the near caches when their turn comes.

A kernel that is timed in a loop finds its weights where its last run left them. In a network all other weights and the
activations have passed through the caches since: weights come at least from the second cache, and from beyond it where
the network's footprint F exceeds its capacity C. Caches do not evict strictly by age, hence a share that grows with F:

    share = min(1, max(0, F / C - 1) / 0.5)
"""

from codesign.hardware.profile import MemoryLevel
from codesign.plan.facts import NodeFacts, packed_weight_bytes
from codesign.quantization.scheme import Widths

TRANSITION = 0.5
"""Footprints beyond the capacity, as a share of it, from which on nothing is found in the cache."""


def cold_bytes(node: NodeFacts, bits: Widths, memories: tuple[MemoryLevel, ...]) -> tuple[float, float]:
    """Bytes of a node's weights that a network fetches again.

    The footprint is that of a network with these widths everywhere, so that nodes can be priced one by one.

    Args:
        node: The node.
        bits: Its widths.
        memories: Memory levels, nearest first.

    Returns:
        Bytes that left the first cache, and those of them that left the second one as well.
    """
    if not node.weight_elements:
        return 0.0, 0.0
    weights = float(packed_weight_bytes(node, bits))
    if len(memories) < 3:  # two caches and a memory
        return weights, 0.0
    footprint = (node.network.weight_elements * bits.weight + node.network.live_elements * bits.activation) / 8
    beyond = footprint / memories[1].capacity_bytes - 1
    return weights, weights * min(1.0, max(0.0, beyond) / TRANSITION)
