"""Loop bounds of the nodes that convolve, multiply matrices or pool, from their attributes and shapes."""

import math

import onnx_ir as ir

from codesign.errors import InputError
from codesign.ir.shapes import shape_text, static_shape
from codesign.plan.facts import ConvGeometry


def geometry_of(node: ir.Node) -> ConvGeometry | None:
    """Loop bounds of a node.

    A matrix product `[..., M, K] x [K, N]` is a 1x1 convolution of M samples from K to N channels; one with batches on
    both sides, `[B, M, K] x [B, K, N]`, has B groups. A one-dimensional convolution has height 1.

    Args:
        node: A node of a lowered graph.

    Returns:
        The bounds, or None for operators other than Conv, Gemm and MatMul.
    """
    if node.op_type == "Conv":
        return _convolution(node)
    if node.op_type == "Gemm":
        return _gemm(node)
    if node.op_type == "MatMul":
        return _matmul(node)
    return None


def pooling_window_of(node: ir.Node) -> ConvGeometry | None:
    """Loop bounds of a node that pools an image; a global pool has one window as large as the image.

    Args:
        node: A node of a lowered graph.

    Returns:
        The bounds, or None for other operators and for inputs that are no images `[N, C, H, W]`.
    """
    if node.op_type not in {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean"}:
        return None
    x, y = _shape(node, node.inputs[0]), _shape(node, node.outputs[0])
    if len(x) != 4 or math.prod(y[:2]) != x[0] * x[1]:
        return None
    is_global = math.prod(y) == x[0] * x[1]
    return ConvGeometry(
        batch=x[0],
        input_channels=x[1],
        output_channels=x[1],
        kernel=_pair(x[2:]) if is_global else _pair(_integers(node, "kernel_shape", 2)),
        stride=_pair(_integers(node, "strides", 2)),
        output_size=(1, 1) if is_global else _pair(y[2:]),
        input_size=_pair(x[2:]),
        groups=x[1],
        dilation=_pair(_integers(node, "dilations", 2)),
    )


def _shape(node: ir.Node, value: ir.Value | None) -> tuple[int, ...]:
    shape = None if value is None else static_shape(value)
    if value is None or shape is None:
        got = "no value" if value is None else f"shape {shape_text(value)} of {value.name!r}"
        raise InputError(
            f"node {node.name!r} ({node.op_type}): got {got}, need a static shape; "
            f"run infer-shapes on a graph with a fixed input size"
        )
    return shape


def _convolution(node: ir.Node) -> ConvGeometry:
    x, weight, y = _shape(node, node.inputs[0]), _shape(node, node.inputs[1]), _shape(node, node.outputs[0])
    spatial = len(weight) - 2
    if spatial not in {1, 2}:
        raise InputError(
            f"node {node.name!r} (Conv): weight {list(weight)} has {spatial} spatial dimensions, allowed are 1 and 2; "
            f"rewrite the layer as a two-dimensional convolution"
        )
    return ConvGeometry(
        batch=x[0],
        input_channels=x[1],
        output_channels=weight[0],
        kernel=_pair(weight[2:]),
        stride=_pair(_integers(node, "strides", spatial)),
        output_size=_pair(y[2:]),
        input_size=_pair(x[2:]),
        groups=node.attributes.get_int("group", 1) or 1,
        dilation=_pair(_integers(node, "dilations", spatial)),
    )


def _integers(node: ir.Node, name: str, count: int) -> tuple[int, ...]:
    found = node.attributes.get(name)
    return (1,) * count if found is None else tuple(found.as_ints())


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (values[0], values[1]) if len(values) == 2 else (1, values[0])


def _gemm(node: ir.Node) -> ConvGeometry:
    a, b = _shape(node, node.inputs[0]), _shape(node, node.inputs[1])
    rows, inner = a[::-1] if node.attributes.get_int("transA", 0) else a
    columns = b[0] if node.attributes.get_int("transB", 0) else b[1]
    return _dense(rows, inner, columns, groups=1)


def _matmul(node: ir.Node) -> ConvGeometry:
    a, b = _shape(node, node.inputs[0]), _shape(node, node.inputs[1])
    inner = a[-1]
    columns = b[-1] if len(b) > 1 else 1
    groups = math.prod(b[:-2])
    rows = math.prod(_shape(node, node.outputs[0])) // (groups * columns)
    return _dense(rows, inner, columns, groups)


def _dense(rows: int, inner: int, columns: int, groups: int) -> ConvGeometry:
    return ConvGeometry(rows, inner * groups, columns * groups, (1, 1), (1, 1), (1, 1), (1, 1), groups)
