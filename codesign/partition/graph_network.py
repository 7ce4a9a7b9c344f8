"""A lowered network as the planner sees it, for any number of samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir
import torch

from codesign.ir.annotations import is_weighted
from codesign.ir.attributes import Attributes, integers_in
from codesign.ir.batching import Layout as Held
from codesign.ir.batching import Value
from codesign.ir.multiply_accumulates import MAC_RULES
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program, name_of
from codesign.ir.serialization import graph_digest
from codesign.partition.network import Loop, Network, Operand, Operator, Result, Role
from codesign.partition.sharding_rules import NodeShapes, loops_of

OUTPUT = "output"
"""Name of the step that reads the network's result."""


@dataclass(frozen=True)
class GraphValues:
    """Shapes of all values of a graph.

    Attributes:
        held: How each is held for several samples; constants, and what depends on them alone, have no samples.
        shapes: For one sample.
        integers: Contents of constant whole numbers.
        floats: Names of values that hold real numbers.
    """

    held: Mapping[str, Held]
    shapes: Mapping[str, tuple[int, ...]]
    integers: Mapping[str, tuple[int, ...]]
    floats: frozenset[str]

    def shape(self, name: str, batch: int) -> tuple[int, ...]:
        """Shape of a value with samples, as the interpreter holds it.

        Args:
            name: Of the value.
            batch: Samples.

        Returns:
            Sizes.
        """
        sample = self.shapes[name]
        match self.held[name]:
            case Held.CONSTANT:
                return sample
            case Held.MERGED:
                return (batch, *sample[1:])
            case Held.STACKED:
                return (batch, *sample)


def graph_values(graph: TorchGraph, program: Program) -> GraphValues:
    """Runs one sample through a graph to see every shape.

    Args:
        graph: The interpreter.
        program: The network.

    Returns:
        The shapes.
    """
    source = program.graph.graph.inputs[0].name or ""
    x = torch.zeros(program.input_shape, dtype=graph.dtype)
    seen = {name: Value(tensor, Held.CONSTANT) for name, tensor in graph.constants.items()}
    seen[source] = Value(x, Held.MERGED)
    with torch.no_grad():
        for node, results in graph.evaluate(x):
            seen.update((out.name or "", value) for out, value in zip(node.outputs, results, strict=False))
    return GraphValues(
        {name: value.layout for name, value in seen.items()},
        {name: value.sample_shape for name, value in seen.items()},
        {
            name: integers_in(value.data)
            for name, value in seen.items()
            if value.layout is Held.CONSTANT and value.data.dtype == torch.int64 and value.data.dim() < 2
        },
        frozenset(name for name, value in seen.items() if value.data.is_floating_point()),
    )


def network_of(program: Program, batch: int, name: str) -> Network:
    """The operators of a lowered network with their loops.

    Args:
        program: The network.
        batch: Samples.
        name: What to call it.

    Returns:
        The network. Constants of more than one real number count as parameters; nodes that only compute shapes are left
        out.
    """
    graph = TorchGraph(program.graph)
    values = graph_values(graph, program)
    operators = [
        _operator(node, graph, values, batch)
        for node in program.graph.graph
        if (node.outputs[0].name or "") in values.floats or values.held[node.outputs[0].name or ""] is not Held.CONSTANT
    ]
    last = program.graph.graph.outputs[0].name or ""
    sink = Operand(last, values.shape(last, batch), "activation")
    operators.append(Operator(OUTPUT, "Output", (sink,), (), (Loop("batch", batch, (0,), 0),)))
    source = program.graph.graph.inputs[0].name or ""
    return Network(name, graph_digest(program.graph), tuple(operators), batch, source)


def _operator(node: ir.Node, graph: TorchGraph, values: GraphValues, batch: int) -> Operator:
    names = [None if value is None else value.name or None for value in node.inputs]
    results = [value.name or "" for value in node.outputs if value.name in values.shapes]
    roles = [None if name is None else _role(name, graph, values) for name in names]
    shapes = NodeShapes(
        Attributes(node, graph.dtype, graph.device),
        tuple(None if name is None else values.shapes[name] for name in names),
        tuple(values.shapes[name] for name in results),
        {i: values.integers[name] for i, name in enumerate(names) if name is not None and name in values.integers},
    )
    kept = [i for i, role in enumerate(roles) if role is not None]
    operands = tuple(Operand(names[i] or "", values.shape(names[i] or "", batch), roles[i] or "constant") for i in kept)
    held = [values.held[names[i] or ""] for i in kept]
    result_held = values.held[results[0]]
    loops = []
    for loop in loops_of(shapes):
        where = tuple(_lifted(loop.operands[i], h) for i, h in zip(kept, held, strict=True))
        loops.append(replace(loop, operands=where, result=_lifted(loop.result, result_held)))
    if result_held is not Held.CONSTANT and batch > 1:
        where = tuple(None if h is Held.CONSTANT else 0 for h in held)
        loops.insert(0, Loop("batch", batch, where, 0))
    weighted = is_weighted(node) and any(operand.role == "parameter" for operand in operands)
    return Operator(
        name_of(node),
        node.op_type,
        operands,
        tuple(Result(name, values.shape(name, batch)) for name in results),
        tuple(loops),
        MAC_RULES[node.op_type](node) * batch,
        weighted,
        weighted and node.op_type != "Conv",
    )


def _role(name: str, graph: TorchGraph, values: GraphValues) -> Role:
    if values.held[name] is not Held.CONSTANT:
        return "activation"
    if name not in values.floats:
        return "constant"
    if name not in graph.constants:
        return "activation"
    return "parameter" if graph.constants[name].numel() > 1 else "constant"


def _lifted(axis: int | None, held: Held) -> int | None:
    """An axis of one sample as an axis of what is held for several."""
    return None if axis is None else axis + 1 if held is Held.STACKED else axis
