"""Initialisers: constants that a graph holds by name."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

ORIGIN = "codesign.origin"
"""Key in the `meta` of an initialiser: the name of the parameter or initialiser that it is a rearrangement of."""


def add_initializer(graph: ir.Graph, name: str, content: NDArray[np.generic] | ir.TensorProtocol) -> ir.Value:
    """Adds a constant to a graph.

    Args:
        graph: Where it shall be known.
        name: Its name; if another value has it, a number is appended.
        content: The numbers.

    Returns:
        The value that nodes may read.
    """
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    taken |= {result.name for node in graph for result in node.outputs}
    unique = name
    counter = 0
    while unique in taken:
        counter += 1
        unique = f"{name}_{counter}"
    tensor = ir.tensor(np.ascontiguousarray(content), name=unique) if isinstance(content, np.ndarray) else content
    value = ir.Value(
        name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.numpy().shape), const_value=tensor
    )
    tensor.name = unique
    graph.register_initializer(value)
    return value


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Forgets constants that no node reads.

    Args:
        graph: The graph.
    """
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def content_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The numbers of a constant.

    Args:
        value: An operand of a node.

    Returns:
        Its contents, or None where it is absent or not constant.
    """
    return None if value is None or value.const_value is None else value.const_value.numpy()
