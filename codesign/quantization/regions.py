"""Which activations of a graph are held in integers, and which of them share one scale."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from codesign.ir.annotations import is_weighted

ACTIVATION_FUNCTIONS = frozenset({"Relu", "Clip"})
"""Fused into the node before them when nothing else reads that node."""
MOVEMENT = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "MaxPool", "Pad"})
"""Results are a selection of the first operand's values (and zeros), so they keep its scale."""
INTEGER_ARITHMETIC = frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool", "ReduceMean", "Relu", "Clip"})
"""Computed from integers if all of their activations are held in integers."""


@dataclass(frozen=True)
class QuantizedValues:
    """Activations that a quantised graph holds in 8 bits.

    Attributes:
        scale_owner: Name of every such value, in the order in which they are computed, and the name of the value
            whose range gives its scale.
    """

    scale_owner: dict[str, str]


def quantized_values(model: ir.Model) -> QuantizedValues:
    """Decides which activations are held in integers.

    What enters a node with a weight, and what leaves it (after a fused activation function), is quantised; pooling,
    additions, concatenations and data movement between such values stay in integers. Anything else runs in floating
    point.

    Args:
        model: A lowered graph.

    Returns:
        The values and whose scale each takes.
    """
    owner: dict[str, str] = {}
    entering = {name for node in model.graph if is_weighted(node) for name in _activation_names(node)[:1]}
    for value in model.graph.inputs:
        if value.name in entering:
            owner[value.name] = value.name
    for node in model.graph:
        for output in node.outputs:
            assert output.name is not None
            if _stays_in_integers(node, owner) and not _is_fused_away(node):
                source = _activation_names(node)
                owner[output.name] = owner[source[0]] if node.op_type in MOVEMENT else output.name
            elif output.name in entering:
                owner[output.name] = output.name
    return QuantizedValues(owner)


def fused_activation(node: ir.Node) -> ir.Node | None:
    """The ReLU or clip that runs as part of a node.

    Args:
        node: A node with a weight, or an addition.

    Returns:
        The only reader of the node's result if it is an activation function, else None.
    """
    if not (is_weighted(node) or node.op_type == "Add"):
        return None
    output = node.outputs[0]
    readers = list(output.consumers())
    if output.is_graph_output() or len(readers) != 1 or readers[0].op_type not in ACTIVATION_FUNCTIONS:
        return None
    return readers[0]


def _is_fused_away(node: ir.Node) -> bool:
    return fused_activation(node) is not None


def _stays_in_integers(node: ir.Node, owner: dict[str, str]) -> bool:
    if is_weighted(node):
        return True
    if node.op_type in ACTIVATION_FUNCTIONS:
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if producer is not None and fused_activation(producer) is node:
            return _stays_in_integers(producer, owner)
    if node.op_type == "Pad" and not _pads_with_zero(node):
        return False
    names = _activation_names(node)
    return (
        node.op_type in MOVEMENT | INTEGER_ARITHMETIC
        and bool(names)
        and all(name in owner for name in names)
        and (node.op_type != "Add" or len(names) == 2)
    )


def _pads_with_zero(node: ir.Node) -> bool:
    if node.attributes.get_string("mode", "constant") != "constant":
        return True
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return value is None or (value.const_value is not None and float(value.const_value.numpy()) == 0.0)


def _activation_names(node: ir.Node) -> list[str]:
    return list(_activations(node))


def _activations(node: ir.Node) -> Iterator[str]:
    for value in node.inputs:
        if value is not None and value.const_value is None:
            assert value.name is not None
            yield value.name
