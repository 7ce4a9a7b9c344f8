"""Names for nodes that are the same in every run and tell where in the network a node comes from."""

import ast
import re
from collections import Counter

import onnx_ir as ir

from codesign.ir.annotations import is_weighted
from codesign.ir.constants import ORIGIN

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Metadata in which torch's exporter keeps the modules around a node, outermost first, then the operation."""


_COUNTED = re.compile(r"node_[A-Za-z]+_\d+")  # given by onnx_ir and torch's exporter where there is no name


def name_nodes(graph: ir.Graph) -> None:
    """Gives every node a unique name.

    A node with a constant weight that is a parameter `layer1.0.conv1.weight` is called `layer1.0.conv1`. Another node
    that torch's exporter wrote is called after its module and operator, `layer1.0.relu`. Nodes of other origin keep the
    name they have if it is the first of its kind, else they are called after operator and count, `conv_3`. A name that
    is taken gets a number: `layer1.0.relu_1`.

    Args:
        graph: The graph, changed in place.
    """
    counts: Counter[str] = Counter()
    taken: set[str] = set()
    for node in graph:
        kind = node.op_type.lower()
        own = "" if _COUNTED.fullmatch(node.name or "") or node.name in taken else node.name
        base = _from_origin(node, kind) or own or f"{kind}_{counts[kind]}"
        counts[kind] += 1
        name, repeat = base, 0
        while name in taken:
            repeat += 1
            name = f"{base}_{repeat}"
        taken.add(name)
        node.name = name


def _from_origin(node: ir.Node, kind: str) -> str | None:
    text = node.metadata_props.get(SCOPES_KEY)
    if text is None:
        return None
    weight = node.inputs[1] if is_weighted(node) else None
    origin = "" if weight is None else str(weight.meta.get(ORIGIN, weight.name))
    module = re.sub(r"(^|[._])weight$", "", origin)
    if module and module != origin:
        return module
    path = _module_path(text)
    if weight is not None and path:
        return path
    return f"{path}.{kind}" if path else kind


def _module_path(text: str) -> str:
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def forget_exporter(model: ir.Model) -> None:
    """Drops what exporters note about where a graph was written: file names and stack traces of one machine.

    Args:
        model: The graph, changed in place; codesign's own metadata stays.
    """
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(result for node in graph for result in node.outputs)]
    for item in (model, graph, *graph, *values):
        for key in [key for key in item.metadata_props if not key.startswith("codesign.")]:
            del item.metadata_props[key]
        item.doc_string = None
