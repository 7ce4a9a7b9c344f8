"""A network's nodes as the kernels that run them: what must be at one place, what passes between, and until when."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import networkx as nx

from codesign.plan.facts import GraphFacts, NodeFacts
from codesign.plan.liveness import VIEWS


@dataclass(frozen=True)
class Kernel:
    """A node and what runs with it: nodes that its kernel computes on the way out, and views of its result.

    Attributes:
        nodes: The node that names the kernel first.
        result_elements: Of the largest value that other kernels, or the network's output, need.
        input_elements: Of the network's input, where the kernel reads it, else 0.
        is_output: Whether its result is one of the network.
        last_reader: Position of the last kernel that reads the result; its own where none does.
    """

    nodes: tuple[NodeFacts, ...]
    result_elements: int
    input_elements: int
    is_output: bool
    last_reader: int

    @property
    def name(self) -> str:
        """Name of the first node."""
        return self.nodes[0].name

    @property
    def weighted(self) -> NodeFacts | None:
        """The node whose widths are chosen, None where none has a weight."""
        return next((node for node in self.nodes if node.weight_elements), None)


@dataclass(frozen=True)
class KernelEdge:
    """A value that one kernel computes and another one reads.

    Attributes:
        producer: Position of a kernel.
        consumer: Position of a later one.
        elements: Of the value.
    """

    producer: int
    consumer: int
    elements: int


@dataclass(frozen=True)
class KernelGraph:
    """All kernels.

    Attributes:
        kernels: In the order in which they run.
        edges: Values between them, ordered by reader.
    """

    kernels: tuple[Kernel, ...]
    edges: tuple[KernelEdge, ...]


def kernel_graph(facts: GraphFacts) -> KernelGraph:
    """Joins the nodes of a network to kernels.

    Args:
        facts: The network.

    Returns:
        Its kernels. A node reads the network's input if it reads as many elements more than other nodes make for it as
        the first node reads.
    """
    makers: dict[str, list[NodeFacts]] = {node.name: [] for node in facts.nodes}
    for node in facts.nodes:
        for reader in node.consumers:
            makers[reader].append(node)
    root_of = _roots(facts, makers)
    members: dict[str, list[NodeFacts]] = {}
    for node in facts.nodes:
        members.setdefault(root_of[node.name], []).append(node)
    values = _values(facts, root_of)
    position = {root: i for i, root in enumerate(_order(facts, members, values))}
    edges = sorted((position[reader], position[maker], size) for (maker, reader), size in values.items())
    last = {root: max((position[b] for a, b in values if a == root), default=at) for root, at in position.items()}
    source = next((node.input_elements for node in facts.nodes if not makers[node.name]), 0)
    kernels = tuple(_kernel(root, members[root], root_of, source, makers, last[root]) for root in position)
    return KernelGraph(kernels, tuple(KernelEdge(maker, reader, size) for reader, maker, size in edges))


def _roots(facts: GraphFacts, makers: Mapping[str, list[NodeFacts]]) -> dict[str, str]:
    """Name of the first node of each node's kernel."""
    root_of: dict[str, str] = {}
    for node in facts.nodes:
        root = node.fused_into or node.name
        if node.op_type in VIEWS and makers[node.name]:
            root = makers[node.name][0].name
        root_of[node.name] = root_of.get(root, root)
    return root_of


def _values(facts: GraphFacts, root_of: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """Elements of the largest value from one kernel to another."""
    found: dict[tuple[str, str], int] = {}
    for node in facts.nodes:
        for reader in node.consumers:
            pair = (root_of[node.name], root_of[reader])
            if pair[0] != pair[1]:
                found[pair] = max(found.get(pair, 0), node.output_elements)
    return found


def _order(
    facts: GraphFacts, members: Mapping[str, list[NodeFacts]], values: Mapping[tuple[str, str], int]
) -> Iterable[str]:
    """Kernels in an order in which they can run: after all that makes the operands of what they compute on the way."""
    at = {node.name: i for i, node in enumerate(facts.nodes)}
    ends = {
        root: max(at[n.name] for n in nodes if n.op_type not in VIEWS or n is nodes[0])
        for root, nodes in members.items()
    }
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(members)
    graph.add_edges_from(values)
    ordered: Iterable[str] = nx.lexicographical_topological_sort(graph, key=ends.__getitem__)
    return ordered


def _kernel(
    root: str,
    nodes: list[NodeFacts],
    root_of: Mapping[str, str],
    source: int,
    makers: Mapping[str, list[NodeFacts]],
    last_reader: int,
) -> Kernel:
    leaving = [node for node in nodes if not node.consumers or any(root_of[name] != root for name in node.consumers)]
    reads_source = any(
        node.input_elements - sum(maker.output_elements for maker in makers[node.name]) == source for node in nodes
    )
    return Kernel(
        tuple(nodes),
        max(node.output_elements for node in leaving),
        source if reads_source else 0,
        any(not node.consumers for node in nodes),
        last_reader,
    )
