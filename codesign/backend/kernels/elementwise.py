"""Kernels that treat all elements alike: quantise, dequantise, requantise and add, on buffers of any layout."""

from tvm import te, tirx
from tvm.s_tir import Schedule

from codesign.backend.kernels.epilogue import clamped, to_uint8, to_uint8_saturated

WIDEST, LEAST_FAST = 320, 17


def quantize(shape: tuple[int, ...]) -> tirx.PrimFunc:
    """Kernel `(x float32, zeros [1], factors [scale, low, high], out uint8)`.

    out = round(clamp(x / scale, low, high)) + zero, as onnxruntime's QuantizeLinear; low and high are without the
    zero point.

    Args:
        shape: Shape of x as stored.

    Returns:
        The scheduled function.
    """
    x, zeros, factors = _placeholders(shape, "float32", 1, 3)
    out = te.compute(shape, lambda *i: to_uint8(clamped(x[i] / factors[0], factors[1], factors[2]), zeros[0]), "out")
    return _vectorized([x, zeros, factors, out])


def dequantize(shape: tuple[int, ...]) -> tirx.PrimFunc:
    """Kernel `(x uint8, zeros [1], factors [scale], out float32)`: out = (x - zero) * scale.

    Args:
        shape: Shape of x as stored.

    Returns:
        The scheduled function.
    """
    x, zeros, factors = _placeholders(shape, "uint8", 1, 1)
    out = te.compute(shape, lambda *i: (x[i].astype("int32") - zeros[0]).astype("float32") * factors[0], "out")
    return _vectorized([x, zeros, factors, out])


def requantize(shape: tuple[int, ...]) -> tirx.PrimFunc:
    """Kernel `(x uint8, zeros [z_x, z_y], factors [s_x, s_y, low, high], out uint8)`.

    out = round(clamp((x - z_x) s_x / s_y, low, high)) + z_y: a change of scale, bounded by an activation.

    Args:
        shape: Shape of x as stored.

    Returns:
        The scheduled function.
    """
    x, zeros, factors = _placeholders(shape, "uint8", 2, 4)

    def value(*i: tirx.Expr) -> tirx.Expr:
        real = (x[i].astype("int32") - zeros[0]).astype("float32") * factors[0]
        return to_uint8(clamped(real / factors[1], factors[2], factors[3]), zeros[1])

    return _vectorized([x, zeros, factors, te.compute(shape, value, "out")])


def add_quantized(shape: tuple[int, ...]) -> tirx.PrimFunc:
    """Kernel `(a, b, factors [offset, f_a, f_b, low, high], out)`, all but the factors uint8.

    out = clamp(round((offset + b f_b) + a f_a), low, high) with f = s / s_y and offset = z_y - f_a z_a - f_b z_b, as
    onnxruntime's QLinearAdd.

    Args:
        shape: Shape of x as stored.

    Returns:
        The scheduled function.
    """
    a = te.placeholder(shape, "uint8", "a")
    b = te.placeholder(shape, "uint8", "b")
    factors = te.placeholder((5,), "float32", "factors")

    def value(*i: tirx.Expr) -> tirx.Expr:
        total = factors[0] + b[i].astype("int32").astype("float32") * factors[2]
        total += a[i].astype("int32").astype("float32") * factors[1]
        return to_uint8_saturated(total, factors[3], factors[4])

    return _vectorized([a, b, factors, te.compute(shape, value, "out")])


def _placeholders(
    shape: tuple[int, ...], dtype: str, zeros: int, factors: int
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    return (
        te.placeholder(shape, dtype, "x"),
        te.placeholder((zeros,), "int32", "zeros"),
        te.placeholder((factors,), "float32", "factors"),
    )


def _vectorized(arguments: list[te.Tensor]) -> tirx.PrimFunc:
    s = Schedule(te.create_prim_func(arguments))
    loops = s.get_loops(s.get_sblock("out"))
    last = int(s.get(loops[-1]).extent)
    loop = s.fuse(*loops)
    width = vector_width(int(s.get(loop).extent), last)
    if width > 1:
        s.vectorize(s.split(loop, [None, width])[1])
    return s.mod["main"]


def vector_width(elements: int, last: int) -> int:
    """Elements that are treated at once, near 64.

    A vector that crosses the end of the last axis is loaded element by element, and LLVM narrows 16 numbers to bytes
    one by one: both are ten times slower than 32 and more neighbours.

    Args:
        elements: Elements of the buffer.
        last: Size of its last axis.

    Returns:
        A divisor of `elements`.
    """
    whole = (v for v in range(WIDEST, LEAST_FAST - 1, -1) if elements % v == 0 and (last % v == 0 or v % last == 0))
    return min(whole, key=lambda v: abs(v - 64), default=next(v for v in (16, 8, 4, 2, 1) if elements % v == 0))
