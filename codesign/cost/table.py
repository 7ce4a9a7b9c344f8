"""What kernels took on a device in networks that were measured there: a latency table, by what a kernel computes.

    latency of a kernel = (sum of its observations + prior x what the base model says) / (observations + prior)

which is what the base model says where there is no observation, and their mean where the prior is 0.
A kernel is a node together with the nodes that are merged into it. An observation is its share of the measured latency
of one network, so that without a prior a network whose kernels are all known from itself alone takes what it took. A
network does not slow a kernel down equally wherever it stands: observations of one kernel in several networks differ,
and the table keeps by how much. With few networks the order of others is better where the model's word counts as much
as one observation (`ONE_WORD`): kernels that were seen once carry the whole error of one network's measurement.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from codesign.cost.base import DEFAULT_BITS, CostModel, NodeCost, kernel_latency_s, with_latency
from codesign.cost.operators import kind_of
from codesign.errors import InputError
from codesign.hardware.profile import HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import ConvGeometry, GraphFacts, NodeFacts
from codesign.plan.plan import Plan
from codesign.quantization.scheme import BitWidths, Widths

ONE_WORD = 1.0
"""Prior at which a prediction counts as one observation."""


@dataclass(frozen=True)
class MergedWork:
    """A node that a kernel computes on the way out.

    Attributes:
        op_type: ONNX operator.
        input_elements: Elements of its operands that are not constant.
        output_elements: Elements of its results.
    """

    op_type: str
    input_elements: int
    output_elements: int


@dataclass(frozen=True)
class Workload:
    """All that tells one kernel from another; names do not matter.

    Attributes:
        op_type: ONNX operator of its first node.
        geometry: Loop bounds, for nodes that multiply matrices or convolve.
        window: Loop bounds of a pooling node.
        channels: Channels of its first node's result.
        input_elements: Elements of its first node's operands that are not constant.
        output_elements: Elements of its first node's results.
        weight_bits: Width of its weight; 0 without one.
        activation_bits: Width of its activations.
        merged: What it computes on the way out, in order.
    """

    op_type: str
    geometry: ConvGeometry | None
    window: ConvGeometry | None
    channels: int
    input_elements: int
    output_elements: int
    weight_bits: int
    activation_bits: int
    merged: tuple[MergedWork, ...]


def workload_of(node: NodeFacts, bits: Widths) -> Workload:
    """What a kernel computes.

    Args:
        node: Its first node.
        bits: Widths of that node.

    Returns:
        The workload.
    """
    return Workload(
        op_type=node.op_type,
        geometry=node.geometry,
        window=node.window,
        channels=node.channels,
        input_elements=node.input_elements,
        output_elements=node.output_elements,
        weight_bits=bits.weight if node.weight_elements else 0,
        activation_bits=bits.activation,
        merged=tuple(MergedWork(m.op_type, m.input_elements, m.output_elements) for m in node.merged),
    )


@dataclass(frozen=True)
class Observation:
    """What one kernel took in one network.

    Attributes:
        workload: What it computes.
        seconds: Its share of the network's measured latency.
    """

    workload: Workload
    seconds: float


@dataclass(frozen=True)
class TableEntry:
    """What is known of one workload.

    Attributes:
        workload: The workload.
        seconds: Mean over observations.
        spread_s: Standard deviation of the observations; 0 for a single one.
        observations: How many there are.
    """

    workload: Workload
    seconds: float
    spread_s: float
    observations: int


@dataclass(frozen=True)
class LatencyTable:
    """Measured kernels of one device.

    Attributes:
        entries: One for each workload.
    """

    entries: tuple[TableEntry, ...] = ()

    @cached_property
    def _by_workload(self) -> Mapping[Workload, TableEntry]:
        return {entry.workload: entry for entry in self.entries}

    def find(self, workload: Workload) -> TableEntry | None:
        """Looks a workload up.

        Args:
            workload: What is computed.

        Returns:
            What is known of it; None if it was never measured.
        """
        return self._by_workload.get(workload)


def tabulate(observations: Iterable[Observation]) -> LatencyTable:
    """Joins observations of the same workload.

    Args:
        observations: Of any networks on one device.

    Returns:
        The table, in the order in which workloads were first seen.
    """
    found: dict[Workload, list[float]] = {}
    for observation in observations:
        found.setdefault(observation.workload, []).append(observation.seconds)
    return LatencyTable(
        tuple(
            TableEntry(workload, statistics.fmean(seconds), statistics.pstdev(seconds), len(seconds))
            for workload, seconds in found.items()
        )
    )


def kernels_of(facts: GraphFacts) -> tuple[NodeFacts, ...]:
    """Nodes that begin a kernel.

    Args:
        facts: The network.

    Returns:
        Those that take time and are not merged into another.
    """
    return tuple(node for node in facts.nodes if node.fused_into is None and kind_of(node) != "free")


def observe(
    facts: GraphFacts, bits_of: Mapping[str, BitWidths], layer_s: Mapping[str, float], network_s: float
) -> tuple[Observation, ...]:
    """What the kernels of a network took, scaled so that they add up to its latency.

    Time of a node that is merged belongs to its kernel. What no node accounts for, such as quantising the network's
    input, is shared out in proportion.

    Args:
        facts: The network.
        bits_of: Widths of its nodes; nodes without any have `DEFAULT_BITS`.
        layer_s: Seconds of its layers by the name of any of their nodes, on any scale.
        network_s: Measured latency of the network.

    Returns:
        One observation for each kernel, in the order in which they run; kernels without a time of their own take 0.

    Raises:
        InputError: No node of the network has a time.
    """
    root_of = {node.name: node.fused_into or node.name for node in facts.nodes}
    of_kernel = dict.fromkeys((node.name for node in kernels_of(facts)), 0.0)
    for name, seconds in layer_s.items():
        if root_of.get(name) in of_kernel:
            of_kernel[root_of[name]] += seconds
    total = math.fsum(of_kernel.values())
    if total <= 0:
        raise InputError(f"layers {', '.join(layer_s)}: none is a node of the network; time the layers of this network")
    return tuple(
        Observation(workload_of(node, bits_of.get(node.name, DEFAULT_BITS)), of_kernel[node.name] * network_s / total)
        for node in kernels_of(facts)
    )


@dataclass(frozen=True)
class Coverage:
    """How much of a prediction is measured.

    Attributes:
        kernels: Of the network.
        measured_kernels: Those of them that the table has.
        latency_s: Predicted latency of the network.
        measured_s: The part of it that these kernels take.
    """

    kernels: int
    measured_kernels: int
    latency_s: float
    measured_s: float


@dataclass(frozen=True)
class TabledModel:
    """Prices kernels by a table where it has them, and by another model.

    All seconds of a kernel are on its first node; merged nodes take none. Energy follows: what a device draws while it
    is idle is paid for the measured time. `GraphFacts` must come from `facts_of`, whose nodes know what they merge.

    Attributes:
        base: The other model.
        table: Measured kernels.
        prior: Observations that the other model's prediction of a kernel counts as; from 0 up.
        run_s: Seconds that a run takes beyond its kernels; they are on the first node that multiplies.
    """

    base: CostModel
    table: LatencyTable
    prior: float = 0.0
    run_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.prior < math.inf:
            raise InputError(
                f"prior: got {self.prior}, allowed are finite numbers from 0 up; give 0 to trust the table"
            )

    @property
    def profile(self) -> HardwareProfile:
        """The device."""
        return self.base.profile

    @property
    def provenance(self) -> Provenance:
        """Measured in part, so that a sum over a network is calibrated; `coverage` says how much of it is measured."""
        return "calibrated" if self.table.entries else self.base.provenance

    def price_node(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        """Prices one node.

        Args:
            node: The node.
            bits: Widths of its weight and activations.

        Returns:
            Its cost; of a node that begins a kernel, the latency of the whole kernel.
        """
        cost = self.base.price_node(node, bits)
        if kind_of(node) == "free":
            return cost
        if node.fused_into is not None:
            return with_latency(cost, 0.0, self.profile)
        latency_s = self._kernel_s(node, bits) + (self.run_s if node.is_first else 0.0)
        return with_latency(cost, latency_s, self.profile)

    def _kernel_s(self, node: NodeFacts, bits: BitWidths) -> float:
        predicted_s, entry = kernel_latency_s(self.base, node, bits), self.table.find(workload_of(node, bits))
        if entry is None:
            return predicted_s
        together = entry.observations * entry.seconds + self.prior * predicted_s
        return together / (entry.observations + self.prior)

    def coverage(self, facts: GraphFacts, plan: Plan) -> Coverage:
        """How much of the latency of a plan is measured.

        Args:
            facts: The network.
            plan: Its widths.

        Returns:
            Counts and seconds.
        """
        bits_of, nodes = plan.bits_of, kernels_of(facts)
        seconds, measured = [], []
        for node in nodes:
            bits = bits_of.get(node.name, DEFAULT_BITS)
            seconds.append(self.price_node(node, bits).latency_s)
            if self.table.find(workload_of(node, bits)) is not None:
                measured.append(seconds[-1])
        return Coverage(len(nodes), len(measured), math.fsum(seconds), math.fsum(measured))
