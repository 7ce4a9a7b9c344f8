"""Writes a choice of widths into a graph as QuantizeLinear and DequantizeLinear nodes, which any ONNX runtime runs."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.ir.program import name_of
from codesign.quantization.layer import QuantizedLayer
from codesign.quantization.quantizer import ActivationScale
from codesign.quantization.scheme import BitWidths
from codesign.quantization.simulation import QuantizedLayers

WEIGHT_BITS_KEY = "codesign.weight-bits"
"""Metadata of a node with a weight: the true width of its integers, which may be stored in a wider ONNX type."""
_LARGEST_INT4_BITS = 4


def write_qdq(model: ir.Model, bits: Mapping[str, BitWidths], bias_correction: bool) -> None:
    """Quantises a graph in place.

    Weights of 2 to 4 bits become INT4 initialisers, wider ones INT8 (ONNX has no types between), with one scale per
    output channel; biases INT32; activations UINT8 with one scale and zero point per tensor.

    Args:
        model: A lowered graph whose nodes carry activation ranges (and mean operands for bias correction).
        bits: Widths of every node with a weight.
        bias_correction: Whether biases are corrected for the mean error of the weights.

    Raises:
        InputError: Widths are missing for some node or given for an unknown one.
    """
    layers = QuantizedLayers(model, bias_correction)
    if set(bits) != set(layers.nodes):
        missing, unknown = sorted(set(layers.nodes) - set(bits)), sorted(set(bits) - set(layers.nodes))
        raise InputError(f"plan does not fit the graph: widths missing for {missing}, given for unknown {unknown}")
    quantized = {name: layers.layer(name, widths.weight) for name, widths in bits.items()}
    for name, scale in layers.scales.items():
        _insert_activation_pair(model, _value_named(model, name), scale)
    for name, layer in quantized.items():
        _replace_constants(model, layers.nodes[name], layer)


def _value_named(model: ir.Model, name: str) -> ir.Value:
    for value in model.graph.inputs:
        if value.name == name:
            return value
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def _insert_activation_pair(model: ir.Model, value: ir.Value, to: ActivationScale) -> None:
    graph = model.graph
    name = str(value.name)
    readers = [(node, index) for node, index in value.uses()]
    scale = _initializer(model, f"{name}_scale", np.asarray(to.scale, np.float32))
    zero = _initializer(model, f"{name}_zero_point", np.asarray(to.zero_point, np.uint8))
    quantize = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}/quantize")
    integers = quantize.outputs[0]
    _describe(integers, f"{name}_quantized", ir.DataType.UINT8, value.shape)
    dequantize = ir.node("DequantizeLinear", [integers, scale, zero], name=f"{name}/dequantize")
    real = dequantize.outputs[0]
    _describe(real, f"{name}_dequantized", ir.DataType.FLOAT, value.shape)
    producer = value.producer()
    if producer is None:
        first = graph[0]
        graph.insert_before(first, [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    for node, index in readers:
        node.replace_input_with(index, real)
    for index, output in enumerate(graph.outputs):
        if output is value:
            value.name, real.name = f"{name}_before_quantization", name
            graph.outputs[index] = real


def _replace_constants(model: ir.Model, node: ir.Node, layer: QuantizedLayer) -> None:
    name, weight = name_of(node), layer.weight
    stored: NDArray[np.generic] = weight.values
    if weight.bits <= _LARGEST_INT4_BITS:
        stored = weight.values.astype(ml_dtypes.int4)
    weight_integers = _initializer(model, f"{name}.weight_quantized", stored)
    scales = _initializer(model, f"{name}.weight_scale", weight.scales)
    node.replace_input_with(1, _dequantized(node, weight_integers, scales, weight.axis, f"{name}.weight"))
    node.metadata_props[WEIGHT_BITS_KEY] = str(weight.bits)
    if layer.bias is None:
        return
    bias_integers = _initializer(model, f"{name}.bias_quantized", layer.bias)
    bias_scales = _initializer(model, f"{name}.bias_scale", layer.bias_scales)
    bias = _dequantized(node, bias_integers, bias_scales, 0, f"{name}.bias")
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, bias)


def _dequantized(node: ir.Node, integers: ir.Value, scales: ir.Value, axis: int, name: str) -> ir.Value:
    dequantize = ir.node("DequantizeLinear", [integers, scales], {"axis": axis}, name=f"{name}/dequantize")
    _describe(dequantize.outputs[0], f"{name}_dequantized", ir.DataType.FLOAT, integers.shape)
    assert node.graph is not None
    node.graph.insert_before(node, [dequantize])
    return dequantize.outputs[0]


def _initializer(model: ir.Model, name: str, array: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _describe(value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), shape


def remove_unused_initializers(model: ir.Model) -> None:
    """Drops initialisers that no node reads any more.

    Args:
        model: The graph, changed in place.
    """
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
