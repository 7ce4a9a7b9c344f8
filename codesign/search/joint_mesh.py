"""The joint problem of a network on equal devices: widths, and how each operator is shared out."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.cost.base import DEFAULT_BITS
from codesign.errors import InputError
from codesign.hardware.profile import HardwareProfile
from codesign.partition.mesh import Device, Mesh
from codesign.partition.network import Edge, Network, Operator
from codesign.partition.objective import Objective
from codesign.partition.options import Option, direct_option
from codesign.partition.placement import Layout
from codesign.partition.strategies import Pricing, own_price, strategies_of
from codesign.plan.facts import GraphFacts, packed_weight_bytes
from codesign.quantization.scheme import Widths
from codesign.search.from_facts import loss_of_node, widths_of_node
from codesign.search.joint_devices import Choices
from codesign.search.joint_problem import Array, JointEdge, JointOption, JointProblem, Load


@dataclass(frozen=True)
class _Shared:
    """An option with its layouts."""

    option: JointOption
    layouts: Option
    pricing: Pricing

    @property
    def bits(self) -> int:
        """Width of the activations that it reads and writes."""
        return self.option.widths.activation


def problem_on_mesh(
    network: Network,
    facts: GraphFacts,
    mesh: Mesh,
    profile: HardwareProfile,
    choices: Choices,
    ties: Sequence[Sequence[str]] = (),
) -> JointProblem:
    """Each operator is shared out among equal devices; a change of layout is a collective at the lesser width.

    An operator takes the roofline of its largest piece (`partition/strategies.py`). Energy is that of all devices.
    `weight_bytes` and `peak_memory_bytes` are what one device holds, the fullest one; a value lives in its maker's
    layout until its last reader has run, and in a reader's other layout while that runs.

    Args:
        network: The network with its batch.
        facts: The same network, with `loss_increase_nats` for each choice of each node with a weight.
        mesh: The devices.
        profile: What each device is.
        choices: Widths to choose from; those that it has no rate for are no option.
        ties: Names of nodes that must take the same widths.

    Returns:
        The problem; an option's place is its strategy.

    Raises:
        InputError: A node has no loss for a choice, `choices` does not name it, or the devices cannot run it.
    """
    pricings: dict[Widths, Pricing] = {}
    shared = tuple(_shared(op, facts, mesh, profile, choices, pricings) for op in network.operators)
    options = tuple(tuple(item.option for item in offered) for offered in shared)
    known: _Known = {}
    changes = [_change(edge, shared[edge.producer], shared[edge.consumer], known) for edge in network.edges]
    edges = tuple(JointEdge(x.edge.producer, x.edge.consumer, x.metrics) for x in changes)
    names = tuple(op.name for op in network.operators)
    return JointProblem(
        names, options, edges, ties=tuple(map(tuple, ties)), loads=tuple(_alive(network, shared, changes))
    )


def _pricing(profile: HardwareProfile, mesh: Mesh, bits: Widths) -> Pricing:
    rate, memory = profile.rate(bits.weight, bits.activation), profile.memories[-1]
    device = Device(
        rate.macs_per_s * rate.efficiency,
        memory.bandwidth_bytes_per_s,
        profile.dispatch_s,
        memory.capacity_bytes,
        profile.idle_power_w,
    )
    return Pricing(mesh, False, Objective(1.0), bits.activation / 8, device)


def _shared(
    op: Operator,
    facts: GraphFacts,
    mesh: Mesh,
    profile: HardwareProfile,
    choices: Choices,
    pricings: dict[Widths, Pricing],
) -> tuple[_Shared, ...]:
    node = facts.by_name.get(op.name)
    weighted = node if node is not None and node.weight_elements else None
    if op.is_weighted and weighted is None:
        raise InputError(f"operator {op.name!r}: is not in the facts; give those of the same network")
    rates = {(row.weight_bits, row.activation_bits): row for row in profile.compute}
    found = []
    for bits in (DEFAULT_BITS,) if weighted is None else widths_of_node(weighted, choices):
        rate = rates.get((bits.weight, bits.activation))
        if rate is None:
            continue
        pricing = pricings.setdefault(bits, _pricing(profile, mesh, bits))
        for item in strategies_of(op, mesh, pricing.idle, alike=True):
            price = own_price(op, item, pricing)
            parameter = next((i for i, x in enumerate(op.operands) if x.role == "parameter"), None)
            pieces = 1 if parameter is None else item.operand_layout(op, parameter).pieces
            packed = 0 if weighted is None else packed_weight_bytes(weighted, bits)
            metrics = {
                "latency_s": price.seconds,
                "energy_j": price.energy_j * mesh.devices + op.macs * rate.energy_j_per_mac,
                "weight_bytes": packed / pieces,
                "bops": 0.0 if weighted is None else float(op.macs) * bits.weight * bits.activation,
            }
            loss = 0.0 if weighted is None else loss_of_node(weighted, bits)
            found.append(
                _Shared(JointOption(bits, str(item), loss, metrics), direct_option(op, item, pricing), pricing)
            )
    if not found:
        raise InputError(
            f"operator {op.name!r}: profile {profile.name!r} has no rate for its widths "
            f"(it has {', '.join(f'w{w}a{a}' for w, a in rates)}); offer one of these"
        )
    return tuple(found)


@dataclass(frozen=True)
class _Change:
    """What pairs of options of two neighbours add, `[options of the producer, options of the consumer]`."""

    edge: Edge
    latency_s: Array
    energy_j: Array
    copied: Array  # bytes that a device holds in the reader's layout beside the maker's

    @property
    def metrics(self) -> dict[str, Array]:
        """What joins the totals."""
        return {"latency_s": self.latency_s, "energy_j": self.energy_j}


_Travel = tuple[float, float, float]
"""Seconds, joules of all devices, and bytes copied to each."""
_Known = dict[tuple[tuple[int, ...], Layout, Layout, int, int], _Travel]
"""By shape, the maker's and the reader's layout, and their widths."""


def _change(edge: Edge, made: Sequence[_Shared], read: Sequence[_Shared], known: _Known) -> _Change:
    before = list(dict.fromkeys((item.layouts.exit, item.bits) for item in made))
    after = list(dict.fromkeys((item.layouts.entries[edge.operand], item.bits) for item in read))
    unique = np.zeros((3, len(before), len(after)))
    for (i, (start, a)), (j, (end, b)) in itertools.product(enumerate(before), enumerate(after)):
        key = (edge.shape, start, end, a, b)
        if key not in known:
            known[key] = _travel(edge, start, end, a, b, read[0].pricing)
        unique[:, i, j] = known[key]
    rows = [before.index((item.layouts.exit, item.bits)) for item in made]
    columns = [after.index((item.layouts.entries[edge.operand], item.bits)) for item in read]
    return _Change(edge, *unique[:, rows][:, :, columns])


def _travel(edge: Edge, before: Layout, after: Layout, made_bits: int, read_bits: int, pricing: Pricing) -> _Travel:
    """Moves a value at the lesser width; changing the width is one pass over a device's piece."""
    bits, elements = min(made_bits, read_bits), math.prod(edge.shape)
    table = pricing.space(len(edge.shape)).table(edge.shape, bits / 8)
    if math.isinf(table.price(before, after)):
        return math.inf, 0.0, 0.0
    traffic = table.traffic(before, after)
    copied = 0.0 if before == after else elements * bits / 8 / after.pieces
    seconds, energy_j = traffic.seconds, traffic.energy_j
    if made_bits != read_bits and pricing.device is not None:
        cast_s = pricing.device.seconds(0.0, elements * (made_bits + read_bits) / 8 / after.pieces)
        seconds, energy_j = seconds + cast_s, energy_j + cast_s * pricing.device.power_w
    return seconds, energy_j * pricing.mesh.devices, copied


def _alive(network: Network, shared: Sequence[Sequence[_Shared]], changes: Sequence[_Change]) -> Iterator[Load]:
    """Bytes of activations on a device while each operator runs."""
    last = list(range(len(network.operators)))
    for edge in network.edges:
        last[edge.producer] = max(last[edge.producer], edge.consumer)
    held = [
        np.asarray([sum(x.elements for x in op.results) * item.bits / 8 / item.layouts.exit.pieces for item in offered])
        for op, offered in zip(network.operators, shared, strict=True)
    ]
    for step, op in enumerate(network.operators):
        nodes = {v: held[v] for v in range(step + 1) if last[v] >= step}
        for i, operand in enumerate(op.operands):
            if operand.value == network.source:
                source = [operand.elements * x.bits / 8 / x.layouts.entries[i].pieces for x in shared[step]]
                nodes[step] = nodes[step] + np.asarray(source)
        edges: dict[tuple[int, int], Array] = {}
        for change in changes:
            if change.edge.consumer == step:
                pair = (change.edge.producer, step)
                edges[pair] = edges.get(pair, 0.0) + change.copied
        yield Load(("peak_memory_bytes",), op.name, nodes, edges)
