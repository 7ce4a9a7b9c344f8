"""Kernels that treat all elements alike: quantise, dequantise, requantise and add, on buffers of any layout.

They see a buffer as one row, whatever its shape: a vector across the end of an axis would be loaded element by element.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.epilogue import clamped, to_uint8, to_uint8_saturated
from codesign.backend.kernels.vectors import each_vector

BYTES_AT_ONCE = 64
"""LLVM narrows 16 numbers to bytes one by one, which takes ten times as long as 32 and more neighbours."""
Buffer = Any
"""A TIR buffer."""


def quantize(size: int) -> tirx.PrimFunc:
    """Kernel `(x float32 [n], zeros [1], factors [scale, low, high], out uint8 [n])`.

    out = round(clamp(x / scale, low, high)) + zero, as onnxruntime's QuantizeLinear; low and high are without the
    zero point.

    Args:
        size: n, elements as stored.

    Returns:
        The scheduled function.
    """

    def value(i: tirx.Expr, x: Buffer, zeros: Buffer, factors: Buffer) -> tirx.Expr:
        return to_uint8(clamped(x[i] / factors[0], factors[1], factors[2]), zeros[0])

    return _vectorized(size, [("x", size, "float32"), ("zeros", 1, "int32"), ("factors", 3, "float32")], "uint8", value)


def dequantize(size: int) -> tirx.PrimFunc:
    """Kernel `(x uint8 [n], zeros [1], factors [scale], out float32 [n])`: out = (x - zero) * scale.

    Args:
        size: n, elements as stored.

    Returns:
        The scheduled function.
    """

    def value(i: tirx.Expr, x: Buffer, zeros: Buffer, factors: Buffer) -> tirx.Expr:
        return (x[i].astype("int32") - zeros[0]).astype("float32") * factors[0]

    return _vectorized(size, [("x", size, "uint8"), ("zeros", 1, "int32"), ("factors", 1, "float32")], "float32", value)


def requantize(size: int) -> tirx.PrimFunc:
    """Kernel `(x uint8 [n], zeros [z_x, z_y], factors [s_x, s_y, low, high], out uint8 [n])`.

    out = round(clamp((x - z_x) s_x / s_y, low, high)) + z_y: a change of scale, bounded by an activation.

    Args:
        size: n, elements as stored.

    Returns:
        The scheduled function.
    """

    def value(i: tirx.Expr, x: Buffer, zeros: Buffer, factors: Buffer) -> tirx.Expr:
        real = (x[i].astype("int32") - zeros[0]).astype("float32") * factors[0]
        return to_uint8(clamped(real / factors[1], factors[2], factors[3]), zeros[1])

    return _vectorized(size, [("x", size, "uint8"), ("zeros", 2, "int32"), ("factors", 4, "float32")], "uint8", value)


def add_quantized(size: int) -> tirx.PrimFunc:
    """Kernel `(a [n], b [n], factors [offset, f_a, f_b, low, high], out [n])`, all but the factors uint8.

    out = clamp(round((offset + b f_b) + a f_a), low, high) with f = s / s_y and offset = z_y - f_a z_a - f_b z_b, as
    onnxruntime's QLinearAdd.

    Args:
        size: n, elements as stored.

    Returns:
        The scheduled function.
    """

    def value(i: tirx.Expr, a: Buffer, b: Buffer, factors: Buffer) -> tirx.Expr:
        total = factors[0] + b[i].astype("int32").astype("float32") * factors[2]
        total += a[i].astype("int32").astype("float32") * factors[1]
        return to_uint8_saturated(total, factors[3], factors[4])

    return _vectorized(size, [("a", size, "uint8"), ("b", size, "uint8"), ("factors", 5, "float32")], "uint8", value)


def copy_bytes(size: int) -> tirx.PrimFunc:
    """Kernel `(x [n], out [n])` of bytes.

    Args:
        size: n.

    Returns:
        The scheduled function.
    """
    return _vectorized(size, [("x", size, "uint8")], "uint8", lambda i, x: x[i])


def _vectorized(
    size: int, arguments: Sequence[tuple[str, int, str]], result: str, value: Callable[..., tirx.Expr]
) -> tirx.PrimFunc:
    """A kernel of arguments (name, elements, type) and a result, computed by vectors."""
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        buffers = [build.arg(name, build.buffer((elements,), dtype)) for name, elements, dtype in arguments]
        out = build.arg("out", build.buffer((size,), result))
        with build.sblock("root"):
            build.reads([])
            build.writes([])
            for place in each_vector(size, BYTES_AT_ONCE):
                build.buffer_store(out, value(place, *buffers), [place])
    return builder.get()
