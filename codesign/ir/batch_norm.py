"""Folds BatchNormalization in inference mode into the convolution or dense layer before it."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.ir.constants import ORIGIN, add_initializer, content_of, remove_unused_initializers

Array = NDArray[np.float64]


def fold_batch_norm(model: ir.Model) -> int:
    """Folds every BatchNormalization whose input is a Conv or Gemm that nothing else reads.

    With `s = scale / sqrt(variance + epsilon)` per output channel the layer's weight becomes `s W` and its bias
    `s (b - mean) + shift`, computed in float64 and rounded to the weight's type. The layer keeps its name and its
    weight's name; a weight that other nodes read too is copied first.

    Args:
        model: The graph, changed in place.

    Returns:
        How many were folded.
    """
    graph = model.graph
    folded = 0
    for norm in list(graph):
        layer = _foldable_layer(norm)
        if layer is not None:
            _fold(graph, layer, norm)
            folded += 1
    if folded:
        remove_unused_initializers(graph)
    return folded


def _foldable_layer(norm: ir.Node) -> ir.Node | None:
    if norm.op_type != "BatchNormalization" or any(result.uses() for result in norm.outputs[1:]):
        return None
    training = norm.attributes.get("training_mode")
    if training is not None and training.as_int():
        return None
    source = norm.inputs[0]
    layer = None if source is None else source.producer()
    if source is None or layer is None or len(source.uses()) != 1 or source.is_graph_output():
        return None
    if layer.op_type not in {"Conv", "Gemm"} or any(content_of(value) is None for value in norm.inputs[1:5]):
        return None
    weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
    if content_of(weight) is None or (bias is not None and content_of(bias) is None):
        return None
    rows = content_of(bias)
    return layer if rows is None or rows.ndim < 2 or rows.shape[0] == 1 else None


def _fold(graph: ir.Graph, layer: ir.Node, norm: ir.Node) -> None:
    scale, shift, mean, variance = (_float64(value) for value in norm.inputs[1:5])
    epsilon = norm.attributes.get("epsilon")
    spread = variance + (1e-5 if epsilon is None else epsilon.as_float())
    if not (spread > 0).all():
        raise InputError(
            f"node {norm.name!r} (BatchNormalization): variance + epsilon is {spread.min():g} at its least, "
            f"it must be above 0; check the network's running statistics"
        )
    factor = scale / np.sqrt(spread)
    weight = _float64(layer.inputs[1])
    axis = 0 if layer.op_type == "Conv" or _integer(layer, "transB") else 1
    bias = _float64(layer.inputs[2]).reshape(-1) if len(layer.inputs) > 2 and layer.inputs[2] is not None else 0.0
    if layer.op_type == "Gemm":
        beta = layer.attributes.get("beta")
        bias = bias * (1.0 if beta is None else beta.as_float())
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    per_channel = [-1 if i == axis else 1 for i in range(weight.ndim)]
    _replace_weight(graph, layer, weight * factor.reshape(per_channel))
    _replace_bias(graph, layer, factor * (bias - mean) + shift)
    results = norm.outputs[0]
    was_output = results.is_graph_output()
    name = results.name
    ir.convenience.replace_all_uses_with(results, layer.outputs[0], replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    if was_output:
        layer.outputs[0].name = name


def _replace_weight(graph: ir.Graph, layer: ir.Node, content: Array) -> None:
    old = layer.inputs[1]
    assert old is not None and old.const_value is not None
    numbers = content.astype(old.const_value.numpy().dtype)
    if len(old.uses()) == 1 and not old.is_graph_output():
        old.const_value = ir.tensor(np.ascontiguousarray(numbers), name=old.name)
        return
    copy = add_initializer(graph, f"{layer.name}.weight", numbers)
    if ORIGIN in old.meta:
        copy.meta[ORIGIN] = old.meta[ORIGIN]
    layer.replace_input_with(1, copy)


def _replace_bias(graph: ir.Graph, layer: ir.Node, content: Array) -> None:
    weight = layer.inputs[1]
    assert weight is not None and weight.const_value is not None
    name = (weight.name or "").removesuffix("weight") + "bias"
    if not name.endswith(".bias"):
        name = f"{weight.name}.bias"
    bias = add_initializer(graph, name, content.astype(weight.const_value.numpy().dtype))
    if len(layer.inputs) < 3:
        layer.resize_inputs(3)
    layer.replace_input_with(2, bias)


def _float64(value: ir.Value | None) -> Array:
    content = content_of(value)
    assert content is not None
    return content.astype(np.float64)


def _integer(node: ir.Node, name: str) -> int:
    found = node.attributes.get(name)
    return 0 if found is None else found.as_int()
