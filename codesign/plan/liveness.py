"""Which nodes a compiler merges into the kernel before them, and which activations are alive while a node runs."""

import math
from collections.abc import Mapping

import onnx_ir as ir

from codesign.errors import InputError
from codesign.ir.annotations import is_weighted
from codesign.ir.program import name_of
from codesign.ir.shapes import shape_text, static_shape
from codesign.quantization.regions import fused_activation

VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose result is their operand under another shape; nothing moves."""


def fusion_roots(graph: ir.Graph) -> Mapping[str, str]:
    """Which nodes run as part of another node's kernel.

    A kernel of a node with a weight adds a residual and applies one activation function before and one after it; the
    operand that it computes itself must have no other reader. An addition by itself applies an activation function.

    Args:
        graph: A lowered graph, nodes in the order in which they run.

    Returns:
        Name of each merged node, and the name of the node whose kernel computes it.
    """
    root_of: dict[str, str] = {}
    kernel_of: dict[ir.Value, str] = {}  # values that leave the kernel of a node with a weight
    position = {name_of(node): step for step, node in enumerate(graph)}
    with_residual: set[str] = set()
    for node in graph:
        name, result = name_of(node), node.outputs[0]
        if is_weighted(node):
            kernel_of[result] = name
        elif node.op_type == "Add":
            kernels = [kernel_of[value] for value in node.inputs if value in kernel_of and _is_read_once(value)]
            kernels = [kernel for kernel in kernels if kernel not in with_residual]
            if kernels:
                root = max(kernels, key=position.__getitem__)  # the last one: the other operand is there by then
                root_of[name] = kernel_of[result] = root
                with_residual.add(root)
        follower = fused_activation(node)
        if follower is not None:
            root_of[name_of(follower)] = root_of.get(name, name)
            if result in kernel_of:
                kernel_of[follower.outputs[0]] = kernel_of[result]
    return root_of


def _is_read_once(value: ir.Value | None) -> bool:
    return value is not None and not value.is_graph_output() and len(list(value.uses())) == 1


def live_elements(graph: ir.Graph, root_of: Mapping[str, str]) -> tuple[int, ...]:
    """Activation elements alive while each node runs: operands, results and what later nodes still need.

    A view, and a merged node, write where their operand is, so both count once. The graph's input is alive from the
    start and its outputs to the end.

    Args:
        graph: A lowered graph with static shapes.
        root_of: What `fusion_roots` returned.

    Returns:
        Elements, one number a node.
    """
    storage = _storages(graph, root_of)
    size: dict[ir.Value, int] = {}
    first: dict[ir.Value, int] = {}
    last: dict[ir.Value, int] = {}
    count = len(graph)
    for value in graph.inputs:
        if value.const_value is None:
            size[value], first[value], last[value] = _elements(value), 0, 0
    for step, node in enumerate(graph):
        for operand in node.inputs:
            if operand is not None and operand in storage:
                last[storage[operand]] = step
        for value in node.outputs:
            place = storage[value]
            size[place] = max(size.get(place, 0), _elements(value))
            first.setdefault(place, step)
            last[place] = step
    for value in graph.outputs:
        last[storage[value]] = count - 1
    alive = [0] * count
    for place, elements in size.items():
        for step in range(first[place], last[place] + 1):
            alive[step] += elements
    return tuple(alive)


def _storages(graph: ir.Graph, root_of: Mapping[str, str]) -> dict[ir.Value, ir.Value]:
    """Every activation and the value whose memory it lives in."""
    storage = {value: value for value in graph.inputs if value.const_value is None}
    kernel_result: dict[str, ir.Value] = {}
    for node in graph:
        name = name_of(node)
        for value in node.outputs:
            source = node.inputs[0] if node.op_type in VIEWS else None
            if source is not None and source in storage:
                storage[value] = storage[source]
            elif name in root_of:
                storage[value] = kernel_result[root_of[name]]
            else:
                storage[value] = value
        kernel_result[name] = storage[node.outputs[0]]
    return storage


def _elements(value: ir.Value) -> int:
    shape = static_shape(value)
    if shape is None:
        raise InputError(
            f"value {value.name!r}: got shape {shape_text(value)}, need a static shape; "
            f"run infer-shapes on a graph with a fixed input size"
        )
    return math.prod(shape)
