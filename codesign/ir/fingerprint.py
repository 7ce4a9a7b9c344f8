"""A name for what a graph computes, the same in every process, whatever facts its nodes carry."""

import hashlib

import numpy as np
import onnx_ir as ir

from codesign.files import digest_of
from codesign.ir.annotation import METADATA_PREFIX, is_stored_fact


def graph_digest(model: ir.Model) -> str:
    """Digest of structure and weights: operators, edges, attributes, names, decisions and every weight's contents.

    Facts, shapes that follow from the inputs', documentation and other tools' metadata don't count. The cost is one
    SHA-256 over the weights.

    Args:
        model: The graph.

    Returns:
        32 hexadecimal digits.
    """
    opsets = sorted(model.opset_imports.items())
    functions = [_graph(function.graph) for _, function in sorted(model.functions.items())]
    return digest_of([opsets, functions, _graph(model.graph)])


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """Digest of a tensor's type, shape and contents.

    Args:
        tensor: Any tensor.

    Returns:
        16 hexadecimal digits.
    """
    strings = tensor.numpy().ravel().tolist() if tensor.dtype == ir.DataType.STRING else None
    contents = repr(strings).encode() if strings is not None else tensor.tobytes()
    total = hashlib.sha256(f"{tensor.dtype.name}{list(tensor.shape)}".encode())
    total.update(contents)
    return total.hexdigest()[:16]


def _graph(graph: ir.Graph) -> list[object]:
    constants = [
        [name, tensor_digest(value.const_value) if value.const_value is not None else None]
        for name, value in sorted(graph.initializers.items())
    ]
    inputs = [[value.name, str(value.dtype), str(value.shape)] for value in graph.inputs]
    return [inputs, constants, [_node(node) for node in graph], [value.name for value in graph.outputs]]


def _node(node: ir.Node) -> list[object]:
    inputs = [None if value is None else value.name for value in node.inputs]
    while inputs and inputs[-1] is None:  # absent operands at the end are not written to files
        inputs.pop()
    decisions = sorted(
        (key, text)
        for key, text in node.metadata_props.items()
        if key.startswith(METADATA_PREFIX) and not is_stored_fact(key, text)
    )
    attributes = [[name, _attribute(attribute)] for name, attribute in sorted(node.attributes.items())]
    outputs = [value.name for value in node.outputs]
    return [node.name, node.domain, node.op_type, node.overload, inputs, outputs, attributes, decisions]


def _attribute(attribute: ir.Attr) -> list[object]:
    if attribute.is_ref():
        return ["reference", attribute.ref_attr_name]
    several = isinstance(attribute.value, tuple)
    items = attribute.value if several else (attribute.value,)
    return [attribute.type.name, [_item(item) for item in items]]


def _item(value: object) -> object:
    if isinstance(value, ir.Graph):
        return _graph(value)
    if isinstance(value, ir.TensorProtocol):
        return tensor_digest(value)
    if isinstance(value, float):
        return float(np.float32(value))  # files hold float32
    return value if isinstance(value, int | str) else str(value)
