"""Text form of an annotated graph: stable, so that two dumps can be compared with `diff`; one line a node."""

import json
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from codesign.ir.annotation import METADATA_PREFIX, annotations_of
from codesign.ir.fingerprint import tensor_digest

SHOWN_ELEMENTS = 4
"""Tensors of up to so many elements are shown in full, larger ones by a digest of their contents."""


def print_graph(model: ir.Model) -> str:
    """Writes a graph as text.

    A weight is `%name: FLOAT[16,3,3,3] = #digest`, a node `%y: FLOAT[1,16,32,32] = Conv(%x, %w) {group=1} @name`, and
    below a node stand its facts that are not stale and its `codesign.*` entries of `metadata_props`.

    Args:
        model: The graph; values without a type or shape show `?`.

    Returns:
        Lines, each ending with a newline; equal for equal graphs in any process.
    """
    opsets = " ".join(f"{domain or 'onnx'}={version}" for domain, version in sorted(model.opset_imports.items()))
    lines = [f"graph {model.graph.name or 'main'} {opsets}"]
    lines += [f"  input {_typed(value)}" for value in model.graph.inputs]
    lines += [f"  weight {_typed(value)} = {_contents(value)}" for _, value in sorted(model.graph.initializers.items())]
    for node in model.graph:
        lines.append("  " + print_node(node))
        lines += [f"      #{fact}" for fact in _facts(node)]
    lines += [f"  output {_typed(value)}" for value in model.graph.outputs]
    return "\n".join(lines) + "\n"


def print_node(node: ir.Node) -> str:
    """Writes a node, without its facts, on one line.

    Args:
        node: A node of a graph.

    Returns:
        The line without indentation and newline.
    """
    outputs = ", ".join(_typed(value) for value in node.outputs)
    inputs = ", ".join("_" if value is None else f"%{value.name}" for value in node.inputs)
    attributes = ", ".join(f"{name}={_attribute(value)}" for name, value in sorted(node.attributes.items()))
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"{outputs} = {operator}({inputs}) {f'{{{attributes}}} ' if attributes else ''}@{node.name}"


def _typed(value: ir.Value) -> str:
    dims = "?" if value.shape is None else ",".join(str(size) for size in value.shape)
    return f"%{value.name}: {value.dtype.name if value.dtype else '?'}[{dims}]"


def _facts(node: ir.Node) -> Iterator[str]:
    yield from (str(fact) for fact in annotations_of(node))
    for key, text in sorted(node.metadata_props.items()):
        if key.startswith(METADATA_PREFIX):
            yield f"{key.removeprefix(METADATA_PREFIX)}={text}"


def _contents(value: ir.Value) -> str:
    return "?" if value.const_value is None else _tensor(value.const_value)


def _tensor(tensor: ir.TensorProtocol) -> str:
    if tensor.size > SHOWN_ELEMENTS or tensor.dtype == ir.DataType.STRING:
        return f"#{tensor_digest(tensor)}"
    items = tensor.numpy().ravel().tolist()
    return f"[{','.join(str(item) if isinstance(item, int) else f'{float(item):.9g}' for item in items)}]"


def _attribute(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if isinstance(attribute.value, tuple):
        return f"[{','.join(_item(item) for item in attribute.value)}]"
    return _item(attribute.value)


def _item(value: object) -> str:
    if isinstance(value, float):
        return f"{np.float32(value)!s}"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, ir.Graph):
        return f"graph of {len(value)} nodes"
    if isinstance(value, ir.TensorProtocol):
        return _tensor(value)
    return str(value)
