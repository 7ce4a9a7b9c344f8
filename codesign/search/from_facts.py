"""The multiple-choice problem of a network on a device, and its answer as a plan."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from codesign.cost.base import DEFAULT_BITS, CostModel, live_bytes
from codesign.errors import InputError
from codesign.plan.facts import GraphFacts, NodeFacts, packed_weight_bytes
from codesign.plan.plan import Plan
from codesign.quantization.scheme import BitWidths
from codesign.search.problem import AllocationProblem, Choice, LayerOption, LayerOptions

COST_METRICS = ("latency_s", "energy_j", "weight_bytes", "bops", "peak_memory_bytes")
"""Metrics of a network's problem."""


def problem_from_facts(
    facts: GraphFacts,
    cost_model: CostModel,
    choices: Sequence[BitWidths] | Mapping[str, Sequence[BitWidths]],
    ties: Sequence[Sequence[str]] = (),
    fixed: Mapping[str, BitWidths] | None = None,
) -> AllocationProblem:
    """Builds the problem for a network on a device; nodes without a weight become the constant part.

    Args:
        facts: The network, with `loss_increase_nats` for each choice of each weighted node.
        cost_model: Prices nodes.
        choices: Widths to choose from, for all weighted nodes or by node name.
        ties: Names of nodes that must take the same widths.
        fixed: Widths that are given.

    Returns:
        The problem, with the metrics of `COST_METRICS`.

    Raises:
        InputError: A node has no loss for a choice, or `choices` does not name it.
    """
    layers = []
    for node in facts.weighted:
        widths = widths_of_node(node, choices)
        layers.append(LayerOptions(node.name, tuple(_priced(node, cost_model, bits) for bits in widths)))
    others = [node for node in facts.nodes if not node.weight_elements]
    prices = [cost_model.price_node(node, DEFAULT_BITS) for node in others]
    constant = {
        "latency_s": math.fsum(price.latency_s for price in prices),
        "energy_j": math.fsum(price.energy_j for price in prices),
        "peak_memory_bytes": float(max((live_bytes(node, DEFAULT_BITS) for node in others), default=0)),
    }
    return AllocationProblem(tuple(layers), tuple(tuple(tie) for tie in ties), dict(fixed or {}), constant)


def widths_of_node(
    node: NodeFacts, choices: Sequence[BitWidths] | Mapping[str, Sequence[BitWidths]]
) -> Sequence[BitWidths]:
    """Widths that a node may take.

    Args:
        node: A node with a weight.
        choices: Widths to choose from, for all weighted nodes or by node name.

    Returns:
        Its widths.

    Raises:
        InputError: `choices` does not name it.
    """
    if isinstance(choices, Mapping) and node.name not in choices:
        raise InputError(f"node {node.name!r}: no widths to choose from; name it in the choices")
    return choices[node.name] if isinstance(choices, Mapping) else choices


def loss_of_node(node: NodeFacts, bits: BitWidths) -> float:
    """Loss increase of a node at some widths.

    Args:
        node: A node with a weight.
        bits: Its widths.

    Returns:
        Nats.

    Raises:
        InputError: It was not estimated.
    """
    if bits not in node.loss_increase_nats:
        have = ", ".join(map(str, node.loss_increase_nats)) or "none"
        raise InputError(
            f"node {node.name!r}: no loss increase for {bits} (there is: {have}); "
            "run the sensitivity pass with these widths or leave them out of the search"
        )
    return node.loss_increase_nats[bits]


def _priced(node: NodeFacts, cost_model: CostModel, bits: BitWidths) -> LayerOption:
    loss = loss_of_node(node, bits)
    cost = cost_model.price_node(node, bits)
    metrics = {
        "latency_s": cost.latency_s,
        "energy_j": cost.energy_j,
        "weight_bytes": float(packed_weight_bytes(node, bits)),
        "bops": float(node.macs) * bits.weight * bits.activation,
        "peak_memory_bytes": float(live_bytes(node, bits)),
    }
    return LayerOption(bits, loss, metrics)


def plan_of_choice(choice: Choice, architecture: str) -> Plan:
    """The plan that makes a choice.

    Args:
        choice: One pair of widths a layer.
        architecture: Name of the architecture variant.

    Returns:
        The plan.

    Raises:
        InputError: The choice comes from a table of bare widths.
    """
    pairs = []
    for name, bits in choice:
        if not isinstance(bits, BitWidths):
            raise InputError(f"layer {name!r}: a plan needs weight and activation bits, got the bare width {bits}")
        pairs.append((name, bits))
    return Plan(architecture, tuple(pairs))


def weight_bytes_limit(facts: GraphFacts, average_bits: float) -> int:
    """Packed bytes of a network whose weights all had one width, which may be fractional.

    It is `sum_v ceil(n_v * average_bits / 8) + 8 * c_v` over nodes with `n_v` weights and `c_v` output channels, so the
    uniform plan keeps the limit of its own width exactly.

    Args:
        facts: The network.
        average_bits: Bits for each weight, taken as the decimal number that it is written as.

    Returns:
        Bytes.

    Raises:
        InputError: The average is not a positive finite number.
    """
    if not (math.isfinite(average_bits) and average_bits > 0):
        raise InputError(f"average bits: got {average_bits}, allowed are numbers above 0; correct it")
    average = Fraction(repr(average_bits))
    return sum(math.ceil(node.weight_elements * average / 8) + 8 * node.output_channels for node in facts.weighted)
