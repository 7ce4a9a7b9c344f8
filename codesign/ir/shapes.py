"""Static shapes of values."""

import onnx_ir as ir


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of a value, a constant's from its contents.

    Args:
        value: Any value of a graph.

    Returns:
        Its sizes, or None where the rank or a size is not known.
    """
    shape = value.shape if value.const_value is None else value.const_value.shape
    sizes = () if shape is None else tuple(size for size in shape if isinstance(size, int))
    return None if shape is None or len(sizes) < len(shape) else sizes


def shape_text(value: ir.Value) -> str:
    """The shape of a value for messages.

    Args:
        value: Any value of a graph.

    Returns:
        Text such as `[1, 3, N, N]`, or `unknown`.
    """
    return "unknown" if value.shape is None else f"[{', '.join(str(size) for size in value.shape)}]"
