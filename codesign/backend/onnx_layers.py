"""What single ONNX nodes mean: weights, windows, bounds and slices, checked against what the templates do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from codesign.backend.kernels.epilogue import Clamp
from codesign.backend.onnx_graph import OnnxGraph, Refusal, attribute
from codesign.backend.operations import Crop, SpatialWindow, Tensor, Weight

WEIGHT_BITS = "codesign.weight-bits"
"""Metadata of a node: the width of its weights, which may be stored in a wider type."""
MAXIMUM_SUM = 2**31 // (255 * 128)
"""Products of a uint8 and an int8 that an int32 sum holds for certain."""


@dataclass(frozen=True, eq=False)
class WeightedLayer:
    """A convolution or dense layer as its node says.

    Attributes:
        integers: Weight as quantised, None if it is not.
        floats: Weight in float32.
        bias: float32 `[C_out]`, or int32 with scale s_x s_w; None without one.
        window: How the kernel moves.
        groups: Number of groups.
        dense: Whether it is a dense layer.
    """

    integers: Weight | None
    floats: Weight
    bias: NDArray[np.generic] | None
    window: SpatialWindow
    groups: int
    dense: bool


def integers_of(node: onnx.NodeProto, name: str) -> list[int]:
    """An attribute that is a list of integers.

    Args:
        node: The node.
        name: Name of the attribute.

    Returns:
        The list, empty if absent.
    """
    value = attribute(node, name, ())
    return [int(v) for v in value] if isinstance(value, Sequence) else []


def integer_of(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute that is an integer.

    Args:
        node: The node.
        name: Name of the attribute.
        default: Value if it is absent.

    Returns:
        The integer.
    """
    value = attribute(node, name, default)
    assert isinstance(value, int)
    return value


def clamp_of(node: onnx.NodeProto, graph: OnnxGraph) -> Clamp | None:
    """The bounds of a Relu or a Clip with constant bounds.

    Args:
        node: Any node.
        graph: Its graph.

    Returns:
        The bounds, or None for another operator.
    """
    if node.op_type == "Relu":
        return Clamp(0.0)
    if node.op_type != "Clip":
        return None
    bounds: list[float | None] = []
    for position in (1, 2):
        name = node.input[position] if len(node.input) > position else ""
        value = graph.constant(name) if name else None
        if name and value is None:
            return None
        bounds.append(None if value is None else float(value.reshape(-1)[0]))
    return Clamp(*bounds)


def weighted_layer(node: onnx.NodeProto, graph: OnnxGraph) -> WeightedLayer:
    """Reads a Conv, Gemm or MatMul with a constant weight.

    Args:
        node: The node.
        graph: Its graph.

    Returns:
        The layer.

    Raises:
        Refusal: The templates do not do this.
    """
    dense = node.op_type != "Conv"
    floats = graph.constant(node.input[1])
    assert floats is not None
    if dense and (floats.ndim != 2 or float(str(attribute(node, "alpha", 1.0))) != 1.0):
        raise Refusal(f"weight of shape {floats.shape} with alpha; only matrices without a factor are done")
    if integer_of(node, "transA", 0) or float(str(attribute(node, "beta", 1.0))) != 1.0:
        raise Refusal("transA and beta are not done")
    if not dense and floats.ndim != 4:
        raise Refusal(f"weight of shape {floats.shape}; only two-dimensional convolutions are done")
    groups = integer_of(node, "group", 1)
    window = _window(node, graph, floats.shape[2:]) if not dense else SpatialWindow()
    integers = _integer_weight(node, graph, dense)
    bias = _bias(node, graph, floats)
    real = Weight(_as_filters(node, floats.astype(np.float32), dense), None, 32)
    return WeightedLayer(integers, real, bias, window, groups, dense)


def _integer_weight(node: onnx.NodeProto, graph: OnnxGraph, dense: bool) -> Weight | None:
    source = graph.producers.get(node.input[1])
    if source is None or source.op_type != "DequantizeLinear":
        return None
    values, scale = graph.constants[source.input[0]], graph.constants[source.input[1]].astype(np.float32)
    has_zero = len(source.input) > 2 and bool(source.input[2])
    if values.dtype != np.int8 or (has_zero and np.any(graph.constants[source.input[2]])):
        raise Refusal(f"weights are signed and symmetric, got {values.dtype}; quantise with zero point 0")
    filters = _as_filters(node, values, dense)
    axis = integer_of(source, "axis", 1) % values.ndim
    if scale.size > 1 and (scale.ndim != 1 or values.shape[axis] != scale.size or axis != _channel_axis(node, dense)):
        raise Refusal("weights have one scale for each output channel; quantise along the output channels")
    if filters[0].size > MAXIMUM_SUM:
        raise Refusal(f"an output sums {filters[0].size} products, int32 holds {MAXIMUM_SUM} for certain")
    text = next((p.value for p in node.metadata_props if p.key == WEIGHT_BITS), "")
    bits = int(text) if text else _declared_bits(graph, source.input[0])
    top = (1 << (bits - 1)) - 1
    if filters.min() < -top - 1 or filters.max() > top:
        raise Refusal(f"weights do not fit the {bits} bits that {WEIGHT_BITS} says")
    return Weight(filters, np.broadcast_to(scale.reshape(-1), (filters.shape[0],)), bits)


def _declared_bits(graph: OnnxGraph, name: str) -> int:
    kinds = {i.name: i.data_type for i in graph.model.graph.initializer}
    narrow = {onnx.TensorProto.INT4: 4, onnx.TensorProto.INT2: 2}
    return narrow.get(kinds.get(name, onnx.TensorProto.INT8), 8)


def _channel_axis(node: onnx.NodeProto, dense: bool) -> int:
    return 1 if dense and not integer_of(node, "transB", 0) else 0


def _as_filters(node: onnx.NodeProto, values: NDArray[np.generic], dense: bool) -> NDArray[np.generic]:
    """`[C_out, C_in / groups, KH, KW]`."""
    if not dense:
        return values
    matrix = values if integer_of(node, "transB", 0) else values.T
    return np.ascontiguousarray(matrix)[:, :, None, None]


def _bias(node: onnx.NodeProto, graph: OnnxGraph, weight: NDArray[np.generic]) -> NDArray[np.generic] | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    name = node.input[2]
    channels = weight.shape[_channel_axis(node, node.op_type != "Conv")]
    source = graph.producers.get(name)
    if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in graph.constants:
        integers = graph.constants[source.input[0]]
        if integers.dtype == np.int32 and integers.size == channels:
            return integers.reshape(-1)
    value = graph.constant(name)
    if value is None or value.size not in {1, channels}:
        raise Refusal("its bias is not one constant for each output channel")
    return np.broadcast_to(value.astype(np.float32).reshape(-1), (channels,))


def stored_bias(bias: NDArray[np.generic] | None, x: Tensor, weight: Weight) -> NDArray[np.generic] | None:
    """A bias in the type that a kernel adds.

    Args:
        bias: As read.
        x: Input of the layer.
        weight: Its weight.

    Returns:
        int32 with scale s_x s_w for integer weights, float32 otherwise.

    Raises:
        Refusal: An integer bias stands beside a weight in floating point.
    """
    if bias is None:
        return None
    if weight.scale is None or x.quantization is None:
        if bias.dtype == np.int32:
            raise Refusal("its bias is quantised, its weight or input is not")
        return bias
    if bias.dtype == np.int32:
        return bias
    scale = np.float64(x.quantization.scale) * weight.scale
    return np.rint(bias.astype(np.float64) / scale).astype(np.int32)


def _window(node: onnx.NodeProto, graph: OnnxGraph, kernel: Sequence[int]) -> SpatialWindow:
    strides = integers_of(node, "strides") or [1, 1]
    dilations = integers_of(node, "dilations") or [1, 1]
    pads = integers_of(node, "pads") or [0, 0, 0, 0]
    mode = str(attribute(node, "auto_pad", "NOTSET"))
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        pads = _same_pads(graph.shape(node.input[0])[2:], kernel, strides, dilations, mode == "SAME_UPPER")
    elif mode not in {"NOTSET", "VALID"}:
        raise Refusal(f"auto_pad {mode!r} is not done")
    if len(graph.shape(node.input[0])) != 4 or len(kernel) != 2:
        raise Refusal("only images with two axes are done")
    if integer_of(node, "ceil_mode", 0):
        pads = _with_overhang(node, graph, (kernel, strides, dilations), pads)
    return SpatialWindow(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]),
    )


def _with_overhang(
    node: onnx.NodeProto, graph: OnnxGraph, window: tuple[Sequence[int], ...], pads: Sequence[int]
) -> list[int]:
    """Pads with what `ceil_mode` lets the last windows reach beyond the padding."""
    result = list(pads)
    sizes = zip(graph.shape(node.input[0])[2:], graph.shape(node.output[0])[2:], *window, strict=True)
    for axis, (size, out, kernel, stride, dilation) in enumerate(sizes):
        reach = (out - 1) * stride + dilation * (kernel - 1) + 1
        result[axis + 2] = max(result[axis + 2], reach - size - result[axis])
    if result != list(pads) and node.op_type != "MaxPool":
        raise Refusal("ceil_mode is done for maxima only, unless it changes nothing")
    return result


def _same_pads(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], upper: bool
) -> list[int]:
    before, after = [], []
    for extent, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-extent // stride) - 1) * stride + dilation * (k - 1) + 1 - extent)
        before.append(total // 2 if upper else total - total // 2)
        after.append(total - before[-1])
    return before + after


def pools_image(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    """Whether a node pools an image `[1, C, H, W]` over its rows and columns.

    Args:
        node: A MaxPool, AveragePool, GlobalAveragePool or ReduceMean.
        graph: Its graph.

    Returns:
        False for a mean over other axes.
    """
    rank = len(graph.shape(node.input[0]))
    if node.op_type != "ReduceMean" or rank != 4:
        return node.op_type != "ReduceMean"
    given = graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else integers_of(node, "axes")
    axes = [] if given is None else [int(axis) % rank for axis in given]
    return sorted(axes) == [2, 3]


def pooling_layer(node: onnx.NodeProto, graph: OnnxGraph) -> tuple[Literal["max", "average"], SpatialWindow, bool]:
    """Reads a pooling node.

    Args:
        node: A node for which `pools_image` holds.
        graph: Its graph.

    Returns:
        Kind, window, and whether padding counts.

    Raises:
        Refusal: The templates do not do this.
    """
    shape = graph.shape(node.input[0])
    if len(shape) != 4:
        raise Refusal("only images with two axes are done")
    if node.op_type in {"GlobalAveragePool", "ReduceMean"}:
        return "average", SpatialWindow((shape[2], shape[3])), True
    if len(node.output) > 1 or integer_of(node, "storage_order", 0):
        raise Refusal("indices of maxima are not done")
    window = _window(node, graph, integers_of(node, "kernel_shape"))
    kind: Literal["max", "average"] = "max" if node.op_type == "MaxPool" else "average"
    if kind == "average" and window.dilation != (1, 1):
        raise Refusal("dilated averages are not done")
    return kind, window, bool(integer_of(node, "count_include_pad", 0))


def crop_of(node: onnx.NodeProto, graph: OnnxGraph) -> Crop | None:
    """Reads a Slice or constant Pad of an image; its `x` and `output` are the node's own tensors in float32.

    Args:
        node: A Slice or Pad node.
        graph: Its graph.

    Returns:
        The crop, or None if the node does more than that.
    """
    x, output = graph.activation(node.input[0]), graph.activation(node.output[0])
    if len(x.shape) != 4 or x.shape[0] != 1:
        return None
    constants = [graph.constant(name) if name else None for name in node.input[1:]]
    if any(name and value is None for name, value in zip(node.input[1:], constants, strict=True)):
        return None
    if node.op_type == "Slice":
        return _slice(node, x, output, [None if c is None else [int(v) for v in c.reshape(-1)] for c in constants])
    pads = None if not constants or constants[0] is None else [int(p) for p in constants[0].reshape(-1)]
    if pads is None or str(attribute(node, "mode", "constant")) != "constant" or min(pads) < 0 or len(constants) > 2:
        return None
    fill = 0.0 if len(constants) < 2 or constants[1] is None else float(constants[1].reshape(-1)[0])
    if pads[0] or pads[4]:
        return None
    size = (x.shape[1], x.shape[2], x.shape[3])
    return Crop(node.name, x, output, (0, 0, 0), (1, 1, 1), size, (pads[1], pads[2], pads[3]), fill)


def _slice(node: onnx.NodeProto, x: Tensor, output: Tensor, parts: list[list[int] | None]) -> Crop | None:
    starts, ends, axes, steps = (*parts, None, None)[:4]
    if starts is None or ends is None:
        return None
    start, step = [0] * 4, [1] * 4
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        stride = steps[i] if steps is not None else 1
        if stride < 1:
            return None
        size = x.shape[axis]
        start[axis] = min(max(starts[i] + (size if starts[i] < 0 else 0), 0), size)
        step[axis] = stride
    if output.shape[0] != x.shape[0] or 0 in output.shape:
        return None
    shape = output.shape
    return Crop(
        node.name,
        x,
        output,
        (start[1], start[2], start[3]),
        (step[1], step[2], step[3]),
        (shape[1], shape[2], shape[3]),
        (0, 0, 0),
        0.0,
    )
