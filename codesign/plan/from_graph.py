"""Facts of a network, collected from its annotated graph."""

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from codesign.ir.annotation import find, read
from codesign.ir.annotations import Sensitivity, Work, is_weighted
from codesign.ir.program import Program, name_of
from codesign.ir.serialization import graph_digest
from codesign.plan.facts import Footprint, GraphFacts, NodeFacts, with_merged
from codesign.plan.geometry import geometry_of, pooling_window_of
from codesign.plan.liveness import fusion_roots, live_elements
from codesign.quantization.scheme import BitWidths


def facts_of(program: Program) -> GraphFacts:
    """What a decision must know about a network; the only step that reads the graph.

    Args:
        program: A lowered network whose nodes carry `Work`, and `Sensitivity` where a search needs the loss.

    Returns:
        The facts, nodes in the order in which they run.

    Raises:
        PassError: A node carries no `Work`.
        InputError: A shape is not static, or a convolution has more than two spatial dimensions.
    """
    graph = program.graph.graph
    root_of = fusion_roots(graph)
    alive = live_elements(graph, root_of)
    weights = sum(read(node, Work).weight_elements for node in graph if is_weighted(node))
    network = Footprint(weights, max(alive, default=0))
    nodes = [_node_facts(node, live, root_of, network) for node, live in zip(graph, alive, strict=True)]
    first = next((i for i, node in enumerate(nodes) if node.geometry is not None), None)
    if first is not None:
        nodes[first] = dataclasses.replace(nodes[first], is_first=True)
    return GraphFacts(with_merged(nodes), graph_digest(program.graph))


def _node_facts(node: ir.Node, live: int, root_of: Mapping[str, str], network: Footprint) -> NodeFacts:
    work = read(node, Work)
    geometry = geometry_of(node)
    weighted = is_weighted(node)
    name = name_of(node)
    return NodeFacts(
        name=name,
        op_type=node.op_type,
        macs=work.macs,
        weight_elements=work.weight_elements if weighted else 0,
        output_channels=geometry.output_channels if weighted and geometry is not None else 0,
        input_elements=work.input_elements,
        output_elements=work.output_elements,
        live_elements=live,
        geometry=geometry,
        loss_increase_nats=_loss_increase(node),
        consumers=tuple(name_of(reader) for reader in _readers(node)),
        fused_into=root_of.get(name),
        window=pooling_window_of(node),
        network=network,
        channels=_channels(node),
    )


def _channels(node: ir.Node) -> int:
    shape = node.outputs[0].shape
    if shape is None or len(shape) < 2 or not shape.is_static():
        return 0
    sizes = shape.numpy()
    return sizes[1] if len(sizes) == 4 else sizes[-1]


def _loss_increase(node: ir.Node) -> Mapping[BitWidths, float]:
    table = find(node, Sensitivity)
    rows = () if table is None else table.by_bits
    return {BitWidths(row.weight_bits, row.activation_bits): row.loss_increase_nats for row in rows}


def _readers(node: ir.Node) -> tuple[ir.Node, ...]:
    readers = (reader for value in node.outputs for reader in value.consumers())
    return tuple(dict.fromkeys(readers))
