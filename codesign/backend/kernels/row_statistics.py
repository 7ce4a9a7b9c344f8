"""Softmax and layer normalisation of rows in float32: vectors of partial maxima and sums, one launch for all rows."""

from collections.abc import Callable
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.packing import LANES

MINIMUM_PARALLEL_ELEMENTS = 30_000
"""Below this a kernel is serial."""
LOG2_E, LN2_HIGH, LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
EXPONENTIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""Coefficients of (e^x - 1 - x) / x^2 on [-ln(2) / 2, ln(2) / 2] from the highest power (Cephes, expf)."""
SMALLEST_ARGUMENT = -87.0

Expression = Any
"""A TIR expression, or a number."""
Buffer = Any
"""A TIR buffer."""


def exponential(x: Expression) -> Expression:
    """e^x for x <= 0, to 2e-7 of the result; arguments below -87 count as -87.

    Args:
        x: A float32 expression.

    Returns:
        The value.
    """
    x = te.max(x, _real(SMALLEST_ARGUMENT))
    exponent = tirx.call_llvm_pure_intrin("int32", "llvm.lrint", x * _real(LOG2_E))
    whole = exponent.astype("float32")
    rest = x - whole * _real(LN2_HIGH) - whole * _real(LN2_LOW)
    total = _real(EXPONENTIAL[0])
    for coefficient in EXPONENTIAL[1:]:
        total = total * rest + _real(coefficient)
    power = tirx.reinterpret("float32", (exponent + 127) << 23)
    return (total * rest * rest + rest + _real(1.0)) * power


def softmax(rows: int, size: int, threads: int) -> tirx.PrimFunc:
    """Kernel `(x [R, N], out [R, N])`: out = exp(x - max) / sum(exp(x - max)).

    Args:
        rows: R.
        size: N.
        threads: Threads to share the rows among.

    Returns:
        The function.
    """

    def one_row(row: Expression, x: Buffer, out: Buffer) -> None:
        lanes = _lanes(size)
        top = _partial(lanes)
        _each(1, lanes, lambda i: build.buffer_store(top, x[row, i], [i]))
        _each(size // lanes, lanes, lambda i: build.buffer_store(top, te.max(top[i % lanes], x[row, i]), [i % lanes]))
        _combine(top, lanes, te.max)
        total = _zeros(lanes)

        def exponent(i: Expression) -> None:
            build.buffer_store(out, exponential(x[row, i] - top[0]), [row, i])
            build.buffer_store(total, total[i % lanes] + out[row, i], [i % lanes])

        _each(size // lanes, lanes, exponent)
        _combine(total, lanes, lambda a, b: a + b)
        build.buffer_store(total, _real(1.0) / total[0], [0])
        _each(size // lanes, lanes, lambda i: build.buffer_store(out, out[row, i] * total[0], [row, i]))

    return _by_rows(rows, size, threads, ("x", "out"), lambda row, buffers: one_row(row, *buffers))


def layer_norm(rows: int, size: int, epsilon: float, threads: int) -> tirx.PrimFunc:
    """Kernel `(x [R, N], scale [N], shift [N], out [R, N])`: out = (x - mean) / sqrt(variance + epsilon) scale + shift.

    Args:
        rows: R.
        size: N.
        epsilon: Added to the variance.
        threads: Threads to share the rows among.

    Returns:
        The function.
    """

    def one_row(row: Expression, x: Buffer, scale: Buffer, shift: Buffer, out: Buffer) -> None:
        lanes = _lanes(size)
        mean, deviation = _zeros(lanes), _zeros(lanes)
        _each(size // lanes, lanes, lambda i: build.buffer_store(mean, mean[i % lanes] + x[row, i], [i % lanes]))
        _combine(mean, lanes, lambda a, b: a + b)
        build.buffer_store(mean, mean[0] / _real(float(size)), [0])

        def square(i: Expression) -> None:
            distance = x[row, i] - mean[0]
            build.buffer_store(deviation, deviation[i % lanes] + distance * distance, [i % lanes])

        _each(size // lanes, lanes, square)
        _combine(deviation, lanes, lambda a, b: a + b)
        variance = deviation[0] / _real(float(size)) + _real(epsilon)
        build.buffer_store(deviation, _real(1.0) / tirx.sqrt(variance), [0])

        def normalize(i: Expression) -> None:
            value = (x[row, i] - mean[0]) * deviation[0] * scale[i] + shift[i]
            build.buffer_store(out, value, [row, i])

        _each(size // lanes, lanes, normalize)

    names = ("x", "scale", "shift", "out")
    return _by_rows(rows, size, threads, names, lambda row, buffers: one_row(row, *buffers))


def _by_rows(
    rows: int, size: int, threads: int, names: tuple[str, ...], one_row: Callable[[Expression, list[Buffer]], None]
) -> tirx.PrimFunc:
    """A kernel of one loop over rows; the first and the last argument are matrices, the others vectors."""
    chunks = threads if rows * size >= MINIMUM_PARALLEL_ELEMENTS and rows >= threads else 1
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        shapes = [(rows, size) if name in {names[0], names[-1]} else (size,) for name in names]
        pairs = zip(names, shapes, strict=True)
        buffers = [build.arg(name, build.buffer(shape, "float32")) for name, shape in pairs]
        with build.sblock("root"):
            build.reads([])
            build.writes([])
            if chunks == 1:
                with build.serial(0, rows) as row, build.sblock("row"):
                    one_row(row, buffers)
            else:
                each = -(-rows // chunks)
                with build.parallel(0, chunks) as chunk, build.serial(0, each) as number, build.sblock("row"):
                    one_row(te.min(chunk * each, rows - each) + number, buffers)  # the last chunk may start earlier
    return builder.get()


def _lanes(size: int) -> int:
    return next(lanes for lanes in (LANES, 8, 4, 2, 1) if size % lanes == 0)


def _partial(lanes: int) -> Buffer:
    return build.sblock_alloc_buffer((lanes,), "float32", scope="local")


def _zeros(lanes: int) -> Buffer:
    partial = _partial(lanes)
    _each(1, lanes, lambda i: build.buffer_store(partial, _real(0.0), [i]))
    return partial


def _each(vectors: int, lanes: int, body: Callable[[Expression], None]) -> None:
    with build.serial(0, vectors) as number, build.vectorized(0, lanes) as lane:
        body(number * lanes + lane)


def _combine(partial: Buffer, lanes: int, operation: Callable[[Expression, Expression], Expression]) -> None:
    """Reduces a vector to its first element, halving it."""
    half = lanes // 2
    while half:
        with build.vectorized(0, half) as lane:
            build.buffer_store(partial, operation(partial[lane], partial[half + lane]), [lane])
        half //= 2


def _real(value: float) -> Expression:
    return tirx.const(value, "float32")
