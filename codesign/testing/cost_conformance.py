"""What every cost model must keep, as functions that a test calls with a model's constructor.

    @pytest.mark.parametrize("check", LATENCY_CHECKS + ENERGY_CHECKS)
    def test_my_model(check):
        check(MyModel, profile, EXAMPLE_NODES)

A check raises AssertionError with the node and both numbers. A model that chooses between mappings by latency keeps the
energy checks only when it is asked to choose by energy: the faster mapping may cost more.
"""

import math
from collections.abc import Callable, Sequence

from codesign.cost.base import DEFAULT_BITS, CostModel, NodeCost
from codesign.errors import InputError
from codesign.hardware.profile import HardwareProfile
from codesign.plan.facts import ConvGeometry, NodeFacts, packed_weight_bytes
from codesign.quantization.scheme import BitWidths

ModelFactory = Callable[[HardwareProfile], CostModel]
Check = Callable[[ModelFactory, HardwareProfile, Sequence[NodeFacts]], None]
FACTOR = 2
"""How much more of a resource the checks offer."""
_TOLERANCE = 1e-9


def multiply_node(name: str, op_type: str, geometry: ConvGeometry, has_weight: bool = True) -> NodeFacts:
    """Facts of a convolution or matrix product with the given loop bounds, to price by itself.

    Args:
        name: Node name.
        op_type: `Conv`, `Gemm` or `MatMul`.
        geometry: Loop bounds.
        has_weight: Whether the second factor is a constant.

    Returns:
        The facts.
    """
    taps = geometry.kernel[0] * geometry.kernel[1]
    weights = taps * geometry.input_channels // geometry.groups * geometry.output_channels
    inputs = geometry.batch * geometry.input_channels * geometry.input_size[0] * geometry.input_size[1]
    positions = geometry.batch * geometry.output_size[0] * geometry.output_size[1]
    outputs = positions * geometry.output_channels
    return NodeFacts(
        name=name,
        op_type=op_type,
        macs=positions * weights,
        weight_elements=weights if has_weight else 0,
        output_channels=geometry.output_channels if has_weight else 0,
        input_elements=inputs if has_weight else inputs + weights,
        output_elements=outputs,
        live_elements=inputs + outputs,
        geometry=geometry,
        loss_increase_nats={},
        consumers=(),
    )


def move_node(
    name: str, op_type: str, input_elements: int, output_elements: int, fused_into: str | None = None
) -> NodeFacts:
    """Facts of a node that does not multiply, to price by itself.

    Args:
        name: Node name.
        op_type: ONNX operator.
        input_elements: Elements that it reads.
        output_elements: Elements that it writes.
        fused_into: Node whose kernel computes it.

    Returns:
        The facts.
    """
    live = input_elements + output_elements
    return NodeFacts(
        name, op_type, 0, 0, 0, input_elements, output_elements, live, None, {}, (), fused_into
    )  # fmt: skip


EXAMPLE_NODES = (
    multiply_node("stem", "Conv", ConvGeometry(1, 3, 16, (3, 3), (1, 1), (32, 32), (32, 32), 1)),
    multiply_node("strided", "Conv", ConvGeometry(1, 16, 32, (3, 3), (2, 2), (16, 16), (32, 32), 1)),
    multiply_node("pointwise", "Conv", ConvGeometry(1, 64, 24, (1, 1), (1, 1), (14, 14), (14, 14), 1)),
    multiply_node("separable", "Conv", ConvGeometry(1, 16, 32, (1, 3), (1, 1), (28, 28), (28, 28), 1)),
    multiply_node("grouped", "Conv", ConvGeometry(1, 32, 64, (3, 3), (1, 1), (14, 14), (14, 14), 4)),
    multiply_node("depthwise", "Conv", ConvGeometry(1, 48, 48, (3, 3), (1, 1), (14, 14), (14, 14), 48)),
    multiply_node("dilated", "Conv", ConvGeometry(1, 8, 8, (3, 3), (1, 1), (12, 12), (16, 16), 1, (2, 2))),
    multiply_node("deep", "Conv", ConvGeometry(1, 256, 256, (3, 3), (1, 1), (7, 7), (7, 7), 1)),
    multiply_node("dense", "Gemm", ConvGeometry(1, 1024, 1000, (1, 1), (1, 1), (1, 1), (1, 1), 1)),
    multiply_node("tokens", "MatMul", ConvGeometry(64, 128, 256, (1, 1), (1, 1), (1, 1), (1, 1), 1)),
    multiply_node("attention", "MatMul", ConvGeometry(64, 4 * 32, 4 * 64, (1, 1), (1, 1), (1, 1), (1, 1), 4), False),
    move_node("pool", "MaxPool", 16 * 32 * 32, 16 * 16 * 16),
    move_node("add", "Add", 2 * 16 * 32 * 32, 16 * 32 * 32),
    move_node("residual", "Add", 2 * 16 * 32 * 32, 16 * 32 * 32, fused_into="stem"),
    move_node("relu", "Relu", 16 * 32 * 32, 16 * 32 * 32, fused_into="stem"),
    move_node("reshape", "Reshape", 4096, 4096),
)
"""Nodes of every kind that a network holds."""


def check_costs_are_numbers(make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]) -> None:
    """Costs are finite, not negative, and the same when asked again of a new model.

    Args:
        make: Builds the model.
        profile: The device.
        nodes: Nodes to price.
    """
    model, again = make(profile), make(profile)
    for node, bits in _cases(profile, nodes):
        cost = model.price_node(node, bits)
        assert cost == again.price_node(node, bits), f"{node.name} {bits}: two answers for one question"
        assert math.isfinite(cost.latency_s) and cost.latency_s >= 0, f"{node.name} {bits}: latency {cost.latency_s}"
        assert math.isfinite(cost.energy_j) and cost.energy_j >= 0, f"{node.name} {bits}: energy {cost.energy_j}"
        assert cost.bound, f"{node.name} {bits}: nothing is said to limit it"


def check_missing_rate_is_refused(make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]) -> None:
    """Widths without a rate are an error that names them, never a guess.

    Args:
        make: Builds the model.
        profile: The device.
        nodes: Nodes to price.
    """
    for removed in profile.bit_widths:
        if removed == DEFAULT_BITS:
            continue
        rows = tuple(
            r for r in profile.compute if (r.weight_bits, r.activation_bits) != (removed.weight, removed.activation)
        )
        model = make(profile.model_copy(update={"compute": rows}))
        for node in nodes:
            if not node.weight_elements:
                continue
            try:
                model.price_node(node, removed)
            except InputError as error:
                assert f"{removed.weight}-bit" in str(error), (
                    f"{node.name}: the message does not name {removed}: {error}"
                )
            else:
                raise AssertionError(f"{node.name}: {removed} was priced without a rate")


def check_latency_is_bounded(make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]) -> None:
    """Nothing is faster than the peak allows, or than its bytes cross the fastest memory once.

    Args:
        make: Builds the model.
        profile: The device.
        nodes: Nodes to price.
    """
    model = make(profile)
    fastest = max(level.bandwidth_bytes_per_s for level in profile.memories)
    for node, bits in _cases(profile, nodes):
        if node.geometry is None:
            continue
        weight_bits = bits.weight if node.weight_elements else bits.activation
        weight_bytes = packed_weight_bytes(node, bits) if node.weight_elements else 0
        touched = _touched_inputs(node.geometry) + node.output_elements
        bound = max(
            node.macs / profile.rate(weight_bits, bits.activation).macs_per_s,
            (weight_bytes + touched * bits.activation / 8) / fastest,
        )
        _at_least(model.price_node(node, bits).latency_s, bound, f"{node.name} {bits}: latency below the roofline")


def check_energy_is_bounded(make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]) -> None:
    """Energy covers the arithmetic, and one crossing of the cheapest memory for each byte that must move.

    Args:
        make: Builds the model.
        profile: The device.
        nodes: Nodes to price.
    """
    model = make(profile)
    cheapest = min(level.energy_j_per_byte for level in profile.memories)
    for node, bits in _cases(profile, nodes):
        if node.geometry is None:
            continue
        weight_bits = bits.weight if node.weight_elements else bits.activation
        moved = (_touched_inputs(node.geometry) + node.output_elements) * bits.activation / 8
        bound = node.macs * profile.rate(weight_bits, bits.activation).energy_j_per_mac + moved * cheapest
        _at_least(model.price_node(node, bits).energy_j, bound, f"{node.name} {bits}: energy below what must be spent")


def check_fewer_bits_are_never_slower(make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]) -> None:
    """A narrower weight that is multiplied at the same rate, and unpacked in no time, is not slower.

    Args:
        make: Builds the model.
        profile: The device; the check gives all widths the rate of the widest.
        nodes: Nodes to price.
    """
    _compare_widths(make, profile, nodes, _latency)


def check_fewer_bits_never_cost_more(make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]) -> None:
    """A narrower weight that is multiplied at the same rate, and unpacked in no time, takes no more energy.

    Args:
        make: Builds the model.
        profile: The device; the check gives all widths the rate of the widest.
        nodes: Nodes to price.
    """
    _compare_widths(make, profile, nodes, _energy)


def check_more_resources_are_never_slower(
    make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]
) -> None:
    """More bandwidth, larger memories, higher rates or more processing elements slow nothing down.

    Args:
        make: Builds the model.
        profile: The device.
        nodes: Nodes to price.
    """
    for richer, what in richer_profiles(profile):
        _compare_profiles(make, profile, richer, nodes, _latency, what)


def check_more_resources_never_cost_more(
    make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts]
) -> None:
    """More bandwidth, larger memories, higher rates or more processing elements take no more energy for each operation.

    Args:
        make: Builds the model.
        profile: The device.
        nodes: Nodes to price.
    """
    for richer, what in richer_profiles(profile):
        _compare_profiles(make, profile, richer, nodes, _energy, what)


LATENCY_CHECKS: tuple[Check, ...] = (
    check_costs_are_numbers,
    check_missing_rate_is_refused,
    check_latency_is_bounded,
    check_fewer_bits_are_never_slower,
    check_more_resources_are_never_slower,
)
"""Checks that every model keeps."""

ENERGY_CHECKS: tuple[Check, ...] = (
    check_energy_is_bounded,
    check_fewer_bits_never_cost_more,
    check_more_resources_never_cost_more,
)
"""Checks that every model keeps that does not trade energy for latency."""


def richer_profiles(profile: HardwareProfile) -> tuple[tuple[HardwareProfile, str], ...]:
    """The device with twice as much of one resource, for each of its resources.

    Args:
        profile: The device.

    Returns:
        Pairs of the richer device and what it has more of.
    """
    found = []
    for index, level in enumerate(profile.memories):
        for field in ("capacity_bytes", "bandwidth_bytes_per_s"):
            larger = level.model_copy(update={field: getattr(level, field) * FACTOR})
            levels = (*profile.memories[:index], larger, *profile.memories[index + 1 :])
            found.append((profile.model_copy(update={"memories": levels}), f"{level.name} {field}"))
    faster = tuple(row.model_copy(update={"macs_per_s": row.macs_per_s * FACTOR}) for row in profile.compute)
    if profile.array is None:
        found.append((profile.model_copy(update={"compute": faster}), "macs_per_s"))
        return tuple(found)
    for field in ("rows", "columns"):
        array = profile.array.model_copy(update={field: getattr(profile.array, field) * FACTOR})
        found.append((profile.model_copy(update={"array": array, "compute": faster}), f"array {field}"))
    return tuple(found)


def _latency(cost: NodeCost) -> float:
    return cost.latency_s


def _energy(cost: NodeCost) -> float:
    return cost.energy_j


def _cases(profile: HardwareProfile, nodes: Sequence[NodeFacts]) -> list[tuple[NodeFacts, BitWidths]]:
    return [(n, bits) for n in nodes for bits in (profile.bit_widths if n.weight_elements else (DEFAULT_BITS,))]


def _compare_profiles(
    make: ModelFactory,
    poor: HardwareProfile,
    rich: HardwareProfile,
    nodes: Sequence[NodeFacts],
    metric: Callable[[NodeCost], float],
    what: str,
) -> None:
    before, after = make(poor), make(rich)
    for node, bits in _cases(poor, nodes):
        value = metric(before.price_node(node, bits))
        _at_least(value, metric(after.price_node(node, bits)), f"{node.name} {bits}: twice the {what} makes it worse")


def _compare_widths(
    make: ModelFactory, profile: HardwareProfile, nodes: Sequence[NodeFacts], metric: Callable[[NodeCost], float]
) -> None:
    widths = profile.bit_widths
    plain = profile.rate_of(widths[-1]).model_copy(update={"unpack_s_per_weight": 0.0})
    rows = {(row.weight_bits, row.activation_bits): row for row in profile.compute}
    rows |= {(b.weight, b.activation): plain.model_copy(update={"weight_bits": b.weight}) for b in widths}
    model = make(profile.model_copy(update={"compute": tuple(rows.values())}))
    for node in nodes:
        if not node.weight_elements:
            continue
        values = [metric(model.price_node(node, bits)) for bits in widths]
        for narrow, wide, bits in zip(values[:-1], values[1:], widths[:-1], strict=True):
            _at_least(wide, narrow, f"{node.name} {bits}: fewer bits make it worse")


def _touched_inputs(geometry: ConvGeometry) -> int:
    touched = geometry.batch * geometry.input_channels
    for size, out, kernel, stride, dilation in zip(
        geometry.input_size, geometry.output_size, geometry.kernel, geometry.stride, geometry.dilation, strict=True
    ):
        touched *= min(size, out * kernel, (out - 1) * stride + (kernel - 1) * dilation + 1)
    return touched


def _at_least(larger: float, smaller: float, message: str) -> None:
    assert larger >= smaller * (1 - _TOLERANCE), f"{message}: {smaller:.6g} against {larger:.6g}"
