"""Types and shapes of every value, from those of the inputs."""

import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError

from codesign.errors import InputError
from codesign.ir.shapes import shape_text, static_shape

LARGE_BYTES = 4096
"""Weights above this size go to the inference by shape alone; smaller ones may hold shapes, axes or pads."""


def infer_shapes(model: ir.Model) -> None:
    """Sets type and static shape of every value, by ONNX's inference with constant propagation of shapes.

    Args:
        model: The graph, changed in place.

    Raises:
        InputError: Shapes contradict one another, or a shape stays open; all open ones are listed.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model), True, True, True)
    except InferenceError as error:
        raise InputError(
            f"shapes of the graph contradict one another: {_first_line(error)}; correct the graph"
        ) from None
    types = {info.name: info.type for info in [*inferred.graph.value_info, *inferred.graph.output]}
    for value in [value for node in model.graph for value in node.outputs]:
        if value.name in types:
            _merge(value, types[value.name])
    open_values = [v for v in _values(model) if v.name and (static_shape(v) is None or v.dtype is None)]
    if open_values:
        listed = "".join(f"\n  {_described(value)}" for value in open_values)
        raise InputError(
            f"{len(open_values)} shapes are not fixed; export the network with batch 1 and fixed sizes:{listed}"
        )


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    proto = ir.serde.serialize_model(model)
    large = [tensor for tensor in proto.graph.initializer if tensor.ByteSize() > LARGE_BYTES]
    names = {value.name for value in proto.graph.input}
    for tensor in large:
        if tensor.name not in names:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        proto.graph.initializer.remove(tensor)
    return proto


def _merge(value: ir.Value, inferred: onnx.TypeProto) -> None:
    found = ir.serde.deserialize_type_proto_for_type(inferred)
    shape = ir.serde.deserialize_type_proto_for_shape(inferred)
    if found is not None:
        value.type = found
    if shape is not None:
        value.shape = shape


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]


def _described(value: ir.Value) -> str:
    node = value.producer()
    origin = "input of the graph" if node is None else f"result of node {node.name!r} ({node.op_type})"
    return f"{value.name!r}, {origin}: {shape_text(value)}"


def _first_line(error: InferenceError) -> str:
    return " ".join(str(error).split())
