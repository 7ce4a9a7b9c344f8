"""One layer quantised: its weight, and its bias with the mean error of the weight taken off."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.ir.annotations import InputMean
from codesign.quantization.quantizer import ActivationScale, QuantizedWeight, quantize_weight

_LARGEST_BIAS = 2.0**30
"""Bound of a bias integer, half of what int32 holds, so that the accumulator keeps room."""


@dataclass(frozen=True)
class QuantizedLayer:
    """Weight and bias of one node as integers.

    Attributes:
        weight: The weight.
        bias: `[C_out]`, int32; real value = integer x scale of the input x scale of the channel. None if the operator
            has no bias operand.
        input_scale: Scale of the activation that enters.
    """

    weight: QuantizedWeight
    bias: NDArray[np.int32] | None
    input_scale: float

    @property
    def bias_scales(self) -> NDArray[np.float32]:
        """Scales of the bias, `[C_out]`."""
        return (np.float32(self.input_scale) * self.weight.scales).astype(np.float32)

    def dequantized_bias(self) -> NDArray[np.float32] | None:
        """Real values of the bias, `[C_out]`."""
        return None if self.bias is None else (self.bias * self.bias_scales).astype(np.float32)


def output_axis(node: ir.Node) -> int:
    """Which axis of a node's weight is the output channel.

    Args:
        node: Conv, Gemm or MatMul with a constant weight.

    Returns:
        0 for Conv and transposed Gemm, 1 for Gemm and MatMul.

    Raises:
        InputError: A form that has no integer equivalent here: scaled or input-transposed Gemm, batched weight.
    """
    if node.op_type == "Conv":
        return 0
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    if len(weight.const_value.shape) != 2:
        raise InputError(f"node {node.name!r} (MatMul): weights with more than two dimensions cannot be quantised")
    if node.op_type == "MatMul":
        return 1
    if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0:
        raise InputError(
            f"node {node.name!r} (Gemm): alpha and beta must be 1 to be quantised; fold them into the weight"
        )
    if node.attributes.get_int("transA", 0):
        raise InputError(f"node {node.name!r} (Gemm): transA must be 0 to be quantised; transpose the input before it")
    return 0 if node.attributes.get_int("transB", 0) else 1


def weight_of(node: ir.Node) -> NDArray[np.float32]:
    """The constant weight of a node.

    Args:
        node: Conv, Gemm or MatMul with a constant weight.

    Returns:
        The weight in float32.
    """
    return _constant(node, 1)


def bias_of(node: ir.Node) -> NDArray[np.float32] | None:
    """The constant bias of a node, `[C_out]`, or None where it has none.

    Args:
        node: Conv, Gemm or MatMul with a constant weight.

    Returns:
        The bias, broadcast to the output channels.

    Raises:
        InputError: The bias is computed at run time or varies along other axes.
    """
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    channels = weight_of(node).shape[output_axis(node)]
    bias = _constant(node, 2)
    if bias.size not in {1, channels}:
        raise InputError(
            f"node {node.name!r} ({node.op_type}): bias of shape {bias.shape} is not one value per channel"
        )
    return np.broadcast_to(bias.reshape(-1), (channels,)).astype(np.float32)


def _constant(node: ir.Node, index: int) -> NDArray[np.float32]:
    value = node.inputs[index]
    if value is None or value.const_value is None:
        raise InputError(f"node {node.name!r} ({node.op_type}): operand {index} must be constant to be quantised")
    return value.const_value.numpy().astype(np.float32, copy=False)


def quantize_layer(
    node: ir.Node, bits: int, input_scale: ActivationScale, input_mean: InputMean | None
) -> QuantizedLayer:
    """Quantises a node's weight and bias.

    With `input_mean` the bias becomes b - sum (Q(W) - W) E[x] per output channel: quantised weights then add no mean
    error (curvature.md 3). A channel whose weight is so small that its bias would not fit 32 bits gets a larger scale.

    Args:
        node: Conv, Gemm or MatMul with a constant weight.
        bits: Width of the weight.
        input_scale: How the entering activation is held.
        input_mean: Mean operands, None for no bias correction.

    Returns:
        The layer in integers. MatMul has no bias operand and is not corrected.
    """
    weight, axis = weight_of(node), output_axis(node)
    bias = bias_of(node)
    has_bias_operand = node.op_type != "MatMul"
    smallest = None
    if bias is not None:
        smallest = (np.abs(bias) / (input_scale.scale * _LARGEST_BIAS)).astype(np.float32)
    quantized = quantize_weight(weight, bits, axis, smallest)
    if not has_bias_operand:
        return QuantizedLayer(quantized, None, input_scale.scale)
    corrected = np.zeros(weight.shape[axis], np.float64) if bias is None else bias.astype(np.float64)
    if input_mean is not None:
        corrected -= mean_output_error(quantized.dequantized() - weight, axis, input_mean)
    if bias is None and input_mean is None:
        return QuantizedLayer(quantized, None, input_scale.scale)
    steps = np.rint(corrected / (np.float64(np.float32(input_scale.scale)) * quantized.scales))
    return QuantizedLayer(quantized, steps.clip(-(2**31), 2**31 - 1).astype(np.int32), input_scale.scale)


def mean_output_error(error: NDArray[np.float32], axis: int, input_mean: InputMean) -> NDArray[np.float64]:
    """Mean change of each output channel that a change of the weight causes: sum over its elements of dW E[x].

    Args:
        error: Change of the weight, shape of the weight.
        axis: Output channel axis.
        input_mean: Mean operands, one set per group of channels.

    Returns:
        `[C_out]`.
    """
    means = np.asarray(input_mean.values, np.float64).reshape(input_mean.shape)
    repeated = np.repeat(means, error.shape[axis] // means.shape[axis], axis=axis)
    other_axes = tuple(i for i in range(error.ndim) if i != axis)
    return np.asarray((error * repeated).sum(axis=other_axes), np.float64)
