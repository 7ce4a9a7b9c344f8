"""What each node of a network takes on a device, with traffic and energy of every memory level."""

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.cost.array_model import Mapping, best_mappings, filter_overhead_bytes, move_cost, moved_by_level
from codesign.cost.array_tables import Bits
from codesign.cost.base import NodeCost
from codesign.cost.calibrated import CalibratedModel
from codesign.cost.operators import check_operators, kind_of, operand_widths
from codesign.cost.roofline import RooflineModel, moved_bytes
from codesign.cost.select import processor_model
from codesign.hardware.profile import Dataflow, HardwareProfile
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import Widths


@dataclass(frozen=True)
class LayerReport:
    """One node.

    Attributes:
        name: Node name.
        op_type: ONNX operator.
        macs: Multiply-accumulates.
        widths: Of the two factors of a product, second factor first; None where nothing is multiplied.
        dataflow: What stays in the elements; None without an array, or where nothing is multiplied.
        cycles: Cycles that the array is busy at these widths; None likewise.
        utilisation: Share of the peak at these widths that multiply-accumulates reach: of an array's while it is busy,
            of a processor's while the node runs; 0 where nothing is multiplied.
        latency_s: Seconds.
        energy_j: Joules.
        energy_by_part_j: Joules of `compute`, each memory level, and `static` power; they add up to `energy_j`.
        traffic_bytes: Read and written at each memory level.
        bound: What limits the latency.
    """

    name: str
    op_type: str
    macs: int
    widths: Widths | None
    dataflow: Dataflow | None
    cycles: float | None
    utilisation: float
    latency_s: float
    energy_j: float
    energy_by_part_j: MappingOf[str, float]
    traffic_bytes: MappingOf[str, float]
    bound: str


def report_layers(
    profile: HardwareProfile, nodes: Sequence[NodeFacts], weight_bits: int, activation_bits: int
) -> tuple[LayerReport, ...]:
    """Prices nodes one by one, all at the same widths, by the cost model that the profile asks for.

    Args:
        profile: The device.
        nodes: The nodes.
        weight_bits: Width of weights, any that the device has a rate for; 32 for floating point.
        activation_bits: Width of activations; likewise.

    Returns:
        A report for each node that does something at run time, in the same order.

    Raises:
        UnsupportedOperatorError: No cost model knows an operator.
        InputError: The device has no rate for these widths, its buffer is too small for a node, or its calibration did
            not measure what a node needs.
    """
    check_operators(nodes)
    busy = [node for node in nodes if kind_of(node) != "free"]
    if profile.array is None:
        model, bits = processor_model(profile), Widths(weight_bits, activation_bits)
        return tuple(_on_processor(model, node, bits) for node in busy)
    mappings = _mappings(profile, busy, weight_bits, activation_bits)
    return tuple(
        _move(profile, node, activation_bits)
        if mapping is None
        else _multiply(profile, node, mapping, _widths(node, weight_bits, activation_bits))
        for node, mapping in zip(busy, mappings, strict=True)
    )


def _widths(node: NodeFacts, weight_bits: int, activation_bits: int) -> Bits:
    """Widths of the two factors of a product; without a weight, both are activations."""
    return (weight_bits if node.weight_elements else activation_bits), activation_bits


def _mappings(
    profile: HardwareProfile, nodes: Sequence[NodeFacts], weight_bits: int, activation_bits: int
) -> list[Mapping | None]:
    """Mappings of the nodes that multiply, None for others; those of equal widths are computed together."""
    found: list[Mapping | None] = [None] * len(nodes)
    for bits in dict.fromkeys([(weight_bits, activation_bits), (activation_bits, activation_bits)]):
        chosen = [
            index
            for index, node in enumerate(nodes)
            if node.geometry is not None and _widths(node, weight_bits, activation_bits) == bits
        ]
        if not chosen:
            continue
        geometries = [geometry for index in chosen if (geometry := nodes[index].geometry) is not None]
        overheads = [filter_overhead_bytes(nodes[index]) for index in chosen]
        names = [nodes[index].name for index in chosen]
        for index, mapping in zip(
            chosen, best_mappings(profile, geometries, bits, "latency", overheads, names), strict=True
        ):
            found[index] = mapping
    return found


def _multiply(profile: HardwareProfile, node: NodeFacts, mapping: Mapping, bits: Bits) -> LayerReport:
    traffic = (mapping.register_bytes, mapping.buffer_bytes, mapping.dram_bytes)
    energy = {"compute": node.macs * profile.rate(*bits).energy_j_per_mac}
    energy |= {
        level.name: level.energy_j_per_byte * moved for level, moved in zip(profile.memories, traffic, strict=True)
    }
    return LayerReport(
        name=node.name,
        op_type=node.op_type,
        macs=node.macs,
        widths=Widths(*bits),
        dataflow=mapping.dataflow,
        cycles=mapping.cycles,
        utilisation=mapping.utilisation,
        latency_s=mapping.latency_s,
        energy_j=mapping.energy_j,
        energy_by_part_j=energy | {"static": profile.idle_power_w * mapping.latency_s},
        traffic_bytes={level.name: moved for level, moved in zip(profile.memories, traffic, strict=True)},
        bound=mapping.bound,
    )


def _move(profile: HardwareProfile, node: NodeFacts, activation_bits: int) -> LayerReport:
    moved = moved_by_level(profile, node, activation_bits)
    cost = move_cost(profile, moved, node.fused_into is not None)
    traffic = {level.name: level_bytes for level, level_bytes in zip(profile.memories, moved, strict=True)}
    return _without_cycles(profile, node, None, cost, 0.0, traffic, 0.0)


def _on_processor(model: RooflineModel | CalibratedModel, node: NodeFacts, bits: Widths) -> LayerReport:
    cost, moved = model.price_node(node, bits), moved_bytes(node, bits)
    traffic = dict.fromkeys((level.name for level in model.profile.memories), 0.0)
    traffic |= dict.fromkeys((level.name for level in RooflineModel(model.profile).crossed_levels(moved)), moved)
    if node.geometry is None:
        return _without_cycles(model.profile, node, None, cost, 0.0, traffic, 0.0)
    widths = Widths(*operand_widths(node, bits))
    rate = model.profile.rate(widths.weight, widths.activation)
    utilisation = node.macs / (rate.macs_per_s * cost.latency_s) if cost.latency_s else 0.0
    arithmetic_j = node.macs * rate.energy_j_per_mac
    return _without_cycles(model.profile, node, widths, cost, utilisation, traffic, arithmetic_j)


def _without_cycles(
    profile: HardwareProfile,
    node: NodeFacts,
    widths: Widths | None,
    cost: NodeCost,
    utilisation: float,
    traffic: dict[str, float],
    arithmetic_j: float,
) -> LayerReport:
    energy = {level.name: level.energy_j_per_byte * traffic[level.name] for level in profile.memories}
    energy = {"compute": arithmetic_j} | energy | {"static": profile.idle_power_w * cost.latency_s}
    return LayerReport(
        name=node.name,
        op_type=node.op_type,
        macs=node.macs,
        widths=widths,
        dataflow=None,
        cycles=None,
        utilisation=utilisation,
        latency_s=cost.latency_s,
        energy_j=cost.energy_j,
        energy_by_part_j=energy,
        traffic_bytes=traffic,
        bound=cost.bound,
    )
