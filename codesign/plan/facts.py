"""What a decision must know about a network, as immutable values without the graph."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from codesign.quantization.scheme import BitWidths, Widths


@dataclass(frozen=True)
class ConvGeometry:
    """Loop bounds of a convolution; a dense layer is a 1x1 convolution on a 1x1 image.

    Attributes:
        batch: Samples, or rows of a matrix product.
        input_channels: Over all groups.
        output_channels: Over all groups.
        kernel: Height and width.
        stride: Vertical and horizontal.
        output_size: Height and width.
        input_size: Height and width without padding.
        groups: Number of groups.
        dilation: Distance between taps, vertical and horizontal.
    """

    batch: int
    input_channels: int
    output_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    output_size: tuple[int, int]
    input_size: tuple[int, int]
    groups: int
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Footprint:
    """What one run of a network touches: whether a weight is still in a cache when its turn comes again.

    Attributes:
        weight_elements: Of all constant weights.
        live_elements: Activation elements alive at once, at most.
    """

    weight_elements: int
    live_elements: int


@dataclass(frozen=True)
class NodeFacts:
    """What is known of one node.

    Attributes:
        name: Node name.
        op_type: ONNX operator.
        macs: Multiply-accumulates for one run.
        weight_elements: Elements of its constant weight; 0 without one.
        output_channels: Output channels of the weight (each has a scale and a bias); 0 without a weight.
        input_elements: Elements of its operands that are not constant.
        output_elements: Elements of its results.
        live_elements: Activation elements alive while it runs: operands, results and what later nodes still need.
        geometry: Loop bounds, for nodes that multiply matrices or convolve.
        loss_increase_nats: By widths, for nodes with a weight; empty where it was not estimated.
        consumers: Names of the nodes that read its results.
        fused_into: Name of the node whose kernel computes this one on the way out; None where it runs by itself.
        window: Loop bounds of a pooling node, each channel a group of its own; None for other nodes.
        network: What the whole network touches.
        channels: Channels of its first result: the second axis of an image, the last one of rows; 0 where unknown.
        merged: Nodes that its kernel computes on the way out, whose `fused_into` names it, in order.
        is_first: Whether it is the first node of its network that multiplies.
    """

    name: str
    op_type: str
    macs: int
    weight_elements: int
    output_channels: int
    input_elements: int
    output_elements: int
    live_elements: int
    geometry: ConvGeometry | None
    loss_increase_nats: Mapping[BitWidths, float]
    consumers: tuple[str, ...]
    fused_into: str | None = None
    window: ConvGeometry | None = None
    network: Footprint = field(default=Footprint(0, 0), repr=False)  # says nothing of the node itself
    channels: int = field(default=0, repr=False)  # follows from its neighbours
    merged: tuple["NodeFacts", ...] = field(default=(), repr=False, compare=False)  # so does this
    is_first: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class GraphFacts:
    """What is known of a network.

    Attributes:
        nodes: In the order in which they run.
        digest: Names the graph that the facts belong to.
    """

    nodes: tuple[NodeFacts, ...]
    digest: str

    @property
    def weighted(self) -> tuple[NodeFacts, ...]:
        """Nodes for which widths are chosen."""
        return tuple(node for node in self.nodes if node.weight_elements)

    @property
    def by_name(self) -> Mapping[str, NodeFacts]:
        """Nodes by name."""
        return MappingProxyType({node.name: node for node in self.nodes})


def with_merged(nodes: Iterable[NodeFacts]) -> tuple[NodeFacts, ...]:
    """Tells every node which others its kernel computes, as their `fused_into` says.

    Args:
        nodes: Of a network, in the order in which they run.

    Returns:
        The same nodes with `merged`.
    """
    given = tuple(nodes)
    merged: dict[str, list[NodeFacts]] = {}
    for node in given:
        if node.fused_into is not None:
            merged.setdefault(node.fused_into, []).append(node)
    return tuple(
        dataclasses.replace(node, merged=tuple(merged[node.name])) if node.name in merged else node for node in given
    )


def packed_weight_bytes(node: NodeFacts, bits: Widths) -> int:
    """Bytes of a node's weight packed at its width, with one float32 scale and one int32 bias per output channel.

    Args:
        node: A node with a weight.
        bits: Its widths.

    Returns:
        Bytes, the packed weight rounded up to a whole byte.
    """
    return -(-node.weight_elements * bits.weight // 8) + 8 * node.output_channels
