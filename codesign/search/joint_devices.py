"""The joint problem of a network on one device, or on several that differ."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.cost.base import DEFAULT_BITS, CostModel
from codesign.cost.select import cost_model_for
from codesign.errors import InputError, UnsupportedOperatorError
from codesign.hardware.catalog import load_profile
from codesign.hardware.target import Target
from codesign.partition.mesh import Link
from codesign.plan.facts import GraphFacts, NodeFacts, packed_weight_bytes
from codesign.quantization.scheme import BitWidths, Widths
from codesign.search.from_facts import loss_of_node, problem_from_facts, widths_of_node
from codesign.search.joint_problem import Array, JointEdge, JointOption, JointProblem, Load
from codesign.search.kernels import Kernel, KernelEdge, KernelGraph, kernel_graph

Choices = Sequence[BitWidths] | Mapping[str, Sequence[BitWidths]]
"""Widths to choose from, for all nodes with a weight or by node name; one pair of widths fixes a node."""


@dataclass(frozen=True)
class PlacedDevice:
    """One of several devices.

    Attributes:
        name: Unique among them.
        cost_model: Prices nodes on it.
        speed: Its rates as a multiple of the model's; energy stays what the model says.
    """

    name: str
    cost_model: CostModel
    speed: float = 1.0


def devices_of(target: Target) -> tuple[PlacedDevice, ...]:
    """The devices of a target.

    Args:
        target: A target; where it does not name its devices apart it is one device.

    Returns:
        The devices; several of one group are numbered.
    """
    if not target.devices:
        return (PlacedDevice(target.name, cost_model_for(load_profile(target.profile, target.threads))),)
    found = []
    for group in target.devices:
        model = cost_model_for(load_profile(group.profile, target.threads))
        names = [group.name] if group.count == 1 else [f"{group.name}{i}" for i in range(group.count)]
        found += [PlacedDevice(name, model, group.speed) for name in names]
    return tuple(found)


def link_of(target: Target) -> Link:
    """What joins the devices of a target.

    Args:
        target: A target with several devices.

    Returns:
        The link.

    Raises:
        InputError: The target has none.
    """
    if target.link is None:
        raise InputError(f"target {target.name!r}: has no link between its devices; give it a section [link]")
    return Link(target.link.latency_s, target.link.bandwidth_bytes_per_s, target.link.energy_j_per_byte)


def problem_on_one_device(
    facts: GraphFacts, cost_model: CostModel, choices: Choices, ties: Sequence[Sequence[str]] = ()
) -> JointProblem:
    """Nodes with a weight choose widths; all others become the constant part.

    Args:
        facts: The network, with `loss_increase_nats` for each choice of each node with a weight.
        cost_model: Prices nodes.
        choices: Widths to choose from.
        ties: Names of nodes that must take the same widths.

    Returns:
        The problem, with the metrics of `COST_METRICS`.

    Raises:
        InputError: A node has no loss for a choice, or `choices` does not name it.
    """
    problem = problem_from_facts(facts, cost_model, choices, ties)
    place = cost_model.profile.name
    options = []
    for layer in problem.layers:
        offered = []
        for option in layer.options:
            assert isinstance(option.bits, BitWidths)
            offered.append(JointOption(option.bits, place, option.loss_increase, option.metrics))
        options.append(tuple(offered))
    names = tuple(layer.name for layer in problem.layers)
    return JointProblem(names, tuple(options), constant=problem.constant, ties=problem.ties)


def problem_on_devices(
    facts: GraphFacts,
    devices: Sequence[PlacedDevice],
    link: Link,
    choices: Choices,
    ties: Sequence[Sequence[str]] = (),
) -> JointProblem:
    """Each kernel runs on one of several devices, at widths for which that device has a rate.

    The network's input is on the first device, and its output is wanted there. A kernel writes its result at the width
    of the activations that it reads. A value goes to another place at its own width or the reader's, whichever is
    less, once for each kernel that reads it; where the two differ, the reader's device makes one pass more over it.

    Beside the metrics of one device there are `weight_bytes@NAME` and `peak_memory_bytes@NAME` for each device, and
    `period_s`: in a pipeline over samples, the seconds of the busiest device, or of the link. `latency_s` is the time
    of one sample, nothing overlapping. `peak_memory_bytes` is that of the fullest device; a value is alive on the
    device that made it until its last reader has run, and on a reader's other device while that runs.

    Args:
        facts: The network, with `loss_increase_nats` for each choice of each node with a weight.
        devices: At least one.
        link: Between any two devices.
        choices: Widths to choose from; those that a device has no rate for are no option there.
        ties: Names of nodes that must take the same widths.

    Returns:
        The problem; its nodes are named after the first node of each kernel, which has the weight if one has.

    Raises:
        InputError: A node has no loss for a choice, `choices` does not name it, or no device can run it.
    """
    graph = kernel_graph(facts)
    options = tuple(_options(kernel, devices, link, choices) for kernel in graph.kernels)
    by_name = {device.name: device for device in devices}
    crossings = [_crossing(edge, options, by_name, link) for edge in graph.edges]
    edges = tuple(JointEdge(x.edge.producer, x.edge.consumer, x.metrics) for x in crossings)
    names = tuple(kernel.name for kernel in graph.kernels)
    loads = (*_busy(graph, options, crossings, devices, link), *_alive(graph, options, crossings, devices))
    return JointProblem(names, options, edges, ties=tuple(tuple(tie) for tie in ties), loads=loads)


def _options(kernel: Kernel, devices: Sequence[PlacedDevice], link: Link, choices: Choices) -> tuple[JointOption, ...]:
    node = kernel.weighted
    found, refused = [], None
    for bits in (DEFAULT_BITS,) if node is None else widths_of_node(node, choices):
        loss = 0.0 if node is None else loss_of_node(node, bits)
        for device in devices:
            try:
                prices = [
                    device.cost_model.price_node(part, bits if part is node else DEFAULT_BITS) for part in kernel.nodes
                ]
            except UnsupportedOperatorError:
                raise
            except InputError as error:  # no rate for these widths, or no room: not an option here
                refused = error
                continue
            sent = _sent_bytes(kernel, bits, device, devices)
            weight_bytes = 0 if node is None else packed_weight_bytes(node, bits)
            metrics = {
                "latency_s": math.fsum(p.latency_s for p in prices) / device.speed
                + math.fsum(_message_s(b, link) for b in sent),
                "energy_j": math.fsum(p.energy_j for p in prices) + sum(sent) * link.energy_j_per_byte,
                "weight_bytes": float(weight_bytes),
                "bops": 0.0 if node is None else float(node.macs) * bits.weight * bits.activation,
            }
            metrics |= {f"weight_bytes@{d.name}": float(weight_bytes if d is device else 0) for d in devices}
            found.append(JointOption(bits, device.name, loss, metrics))
    if not found:
        names = ", ".join(device.name for device in devices)
        raise InputError(f"node {kernel.name!r}: none of the devices {names} can run it: {refused}")
    return tuple(found)


def _sent_bytes(kernel: Kernel, bits: Widths, device: PlacedDevice, devices: Sequence[PlacedDevice]) -> list[float]:
    """Bytes of the network's input and output that a kernel away from the first device receives and sends."""
    if device is devices[0]:
        return []
    sent = [kernel.input_elements * bits.activation / 8] if kernel.input_elements else []
    return sent + ([kernel.result_elements * bits.activation / 8] if kernel.is_output else [])


def _message_s(size_bytes: float, link: Link) -> float:
    return link.latency_s + size_bytes / link.bandwidth_bytes_per_s


@dataclass(frozen=True)
class _Crossing:
    """What pairs of options of two neighbours add, `[options of the producer, options of the consumer]`.

    Attributes:
        edge: The value between them.
        copied: Bytes that arrive at the reader's place from another one.
        message_s: Seconds on the link.
        requantised_s: Seconds of changing the width, on the reader's device.
        energy_j: Joules of both.
    """

    edge: KernelEdge
    copied: Array
    message_s: Array
    requantised_s: Array
    energy_j: Array

    @property
    def metrics(self) -> dict[str, Array]:
        """What joins the totals."""
        return {"latency_s": self.message_s + self.requantised_s, "energy_j": self.energy_j}


def _crossing(
    edge: KernelEdge,
    options: Sequence[Sequence[JointOption]],
    devices: Mapping[str, PlacedDevice],
    link: Link,
) -> _Crossing:
    made, read = options[edge.producer], options[edge.consumer]
    copied, message_s, requantised_s, energy_j = np.zeros((4, len(made), len(read)))
    cast = _cast(edge.elements)
    for (i, a), (j, b) in itertools.product(enumerate(made), enumerate(read)):
        if a.place != b.place:
            copied[i, j] = edge.elements * min(a.widths.activation, b.widths.activation) / 8
            message_s[i, j] = _message_s(copied[i, j], link)
            energy_j[i, j] = copied[i, j] * link.energy_j_per_byte
        if a.widths.activation != b.widths.activation:
            wider = max(a.widths, b.widths, key=lambda widths: widths.activation)
            price = devices[b.place].cost_model.price_node(cast, BitWidths(wider.weight, wider.activation))
            requantised_s[i, j] = price.latency_s / devices[b.place].speed
            energy_j[i, j] += price.energy_j
    return _Crossing(edge, copied, message_s, requantised_s, energy_j)


def _cast(elements: int) -> NodeFacts:
    """One pass over a value."""
    return NodeFacts("requantise", "Cast", 0, 0, 0, elements, elements, 2 * elements, None, {}, ())


def _at(offered: Sequence[JointOption], place: str) -> Array:
    """1 for options at a place, 0 for others."""
    return np.asarray([float(option.place == place) for option in offered])


def _busy(
    graph: KernelGraph,
    options: Sequence[Sequence[JointOption]],
    crossings: Sequence[_Crossing],
    devices: Sequence[PlacedDevice],
    link: Link,
) -> Iterator[Load]:
    """Seconds of each device, and of the link, for one sample."""
    by_name = {device.name: device for device in devices}
    sent_s = [
        np.asarray([
            math.fsum(_message_s(b, link) for b in _sent_bytes(kernel, o.widths, by_name[o.place], devices))
            for o in offered
        ])
        for kernel, offered in zip(graph.kernels, options, strict=True)
    ]
    run_s = [
        np.asarray([o.metrics["latency_s"] for o in offered]) - sent
        for offered, sent in zip(options, sent_s, strict=True)
    ]
    for device in devices:
        nodes = {v: seconds * _at(options[v], device.name) for v, seconds in enumerate(run_s)}
        edges = {
            (x.edge.producer, x.edge.consumer): x.requantised_s * _at(options[x.edge.consumer], device.name)
            for x in crossings
            if x.requantised_s.any()
        }
        yield Load(("period_s",), device.name, nodes, edges)
    if len(devices) > 1:
        sent = {v: seconds for v, seconds in enumerate(sent_s) if seconds.any()}
        yield Load(("period_s",), "link", sent, {(x.edge.producer, x.edge.consumer): x.message_s for x in crossings})


def _alive(
    graph: KernelGraph,
    options: Sequence[Sequence[JointOption]],
    crossings: Sequence[_Crossing],
    devices: Sequence[PlacedDevice],
) -> Iterator[Load]:
    """Bytes of activations on each device while each kernel runs."""
    kernels = graph.kernels
    held = [
        np.asarray([kernel.result_elements * option.widths.activation / 8 for option in offered])
        for kernel, offered in zip(kernels, options, strict=True)
    ]
    source = max(kernel.input_elements for kernel in kernels) * DEFAULT_BITS.activation / 8
    source_ends = max((i for i, kernel in enumerate(kernels) if kernel.input_elements), default=-1)
    for step, device in itertools.product(range(len(kernels)), devices):
        here = [_at(offered, device.name) for offered in options]
        alive = [v for v in range(step + 1) if kernels[v].is_output or kernels[v].last_reader >= step]
        nodes = {v: held[v] * here[v] for v in alive}
        constant = source if device is devices[0] and step <= source_ends else 0.0
        if kernels[step].input_elements and device is not devices[0]:
            nodes[step] = nodes[step] + source * here[step]
        edges = {(x.edge.producer, step): x.copied * here[step] for x in crossings if x.edge.consumer == step}
        metrics = ("peak_memory_bytes", f"peak_memory_bytes@{device.name}")
        yield Load(metrics, f"{kernels[step].name} on {device.name}", nodes, edges, constant)
