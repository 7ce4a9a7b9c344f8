"""Kernels that move elements: between layouts, and slices, padding and concatenation of images stored by pixel.

An image `[1, C, H, W]` is stored by pixel as `[1, H, W, C']` with C' >= C; channels beyond C hold any finite value.
"""

from dataclasses import dataclass

from tvm import te, tirx
from tvm.s_tir import Schedule

from codesign.backend.kernels.packing import LANES


@dataclass(frozen=True)
class Window:
    """A strided window of an image: output index i reads input index (i - before) * step + start.

    Attributes:
        start: First row, column and channel that is read.
        step: Distance between those that are read.
        size: How many are read.
        before: Padding before them; what the output has beyond is padding after them.
    """

    start: tuple[int, int, int] = (0, 0, 0)
    step: tuple[int, int, int] = (1, 1, 1)
    size: tuple[int, int, int] = (1, 1, 1)
    before: tuple[int, int, int] = (0, 0, 0)


def move_window(
    source: tuple[int, int, int], target: tuple[int, int, int], window: Window, dtype: str
) -> tirx.PrimFunc:
    """Kernel `(x [1, H, W, C'], fill [1], out [1, H2, W2, C2'])`: a slice, padded with a value.

    Args:
        source: H, W, C' of the input.
        target: H2, W2, C2' of the output.
        window: What is read and where it goes.
        dtype: Type of the elements.

    Returns:
        The scheduled function.
    """
    x = te.placeholder((1, *source), dtype, "x")
    fill = te.placeholder((1,), dtype, "fill")

    def value(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        inside, index = [], []
        for position, axis in ((h, 0), (w, 1), (c, 2)):
            offset = position - window.before[axis]
            inside += [offset >= 0, offset < window.size[axis]]
            index.append(offset * window.step[axis] + window.start[axis])
        return te.if_then_else(te.all(*inside), x[(n, *index)], fill[0])

    return _plain([x, fill, te.compute((1, *target), value, "out")])


def to_pixels(channels: int, height: int, width: int, stored: int, dtype: str) -> tirx.PrimFunc:
    """Kernel `(x [1, C, H, W], out [1, H, W, C'])`; channels beyond C become zero.

    Args:
        channels: C.
        height: H.
        width: W.
        stored: C'.
        dtype: Type of the elements.

    Returns:
        The scheduled function.
    """
    x = te.placeholder((1, channels, height, width), dtype, "x")
    zero = tirx.const(0, dtype)

    def value(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        return te.if_then_else(c < channels, x[n, te.min(c, channels - 1), h, w], zero)

    s = Schedule(te.create_prim_func([x, te.compute((1, height, width, stored), value, "out")]))
    _, _, _, channel = s.get_loops(s.get_sblock("out"))
    if stored <= LANES:
        s.unroll(channel)
    return s.mod["main"]


def from_pixels(channels: int, height: int, width: int, stored: int, dtype: str) -> tirx.PrimFunc:
    """Kernel `(x [1, H, W, C'], out [1, C, H, W])`.

    Args:
        channels: C.
        height: H.
        width: W.
        stored: C'.
        dtype: Type of the elements.

    Returns:
        The scheduled function.
    """
    x = te.placeholder((1, height, width, stored), dtype, "x")
    out = te.compute((1, channels, height, width), lambda n, c, h, w: x[n, h, w, c], "out")
    return _plain([x, out])


def restore_channels(pixels: int, channels: int, source: int, target: int, dtype: str) -> tirx.PrimFunc:
    """Kernel `(x [n, C'], out [n, C''])`: the same pixels with another number of stored channels.

    Args:
        pixels: n.
        channels: C; those beyond become zero.
        source: C' of the input.
        target: C'' of the output.
        dtype: Type of the elements.

    Returns:
        The scheduled function.
    """
    x = te.placeholder((pixels, source), dtype, "x")
    zero = tirx.const(0, dtype)
    out = te.compute((pixels, target), lambda i, c: te.if_then_else(c < channels, x[i, c], zero), "out")
    return _plain([x, out])


def concatenate(
    pixels: int, channels: tuple[int, ...], stored: tuple[int, ...], target: int, dtype: str
) -> tirx.PrimFunc:
    """Kernel `(x_0 [n, C_0'], x_1 [n, C_1'], ..., out [n, C'])`: channels one after the other.

    Args:
        pixels: n.
        channels: C_i.
        stored: C_i'.
        target: C'.
        dtype: Type of the elements.

    Returns:
        The scheduled function.
    """
    inputs = [te.placeholder((pixels, size), dtype, f"x{i}") for i, size in enumerate(stored)]
    starts = [sum(channels[:i]) for i in range(len(channels))]

    def value(i: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        result = tirx.const(0, dtype)
        for x, start, size in zip(inputs, starts, channels, strict=True):
            inside = te.all(c >= start, c < start + size)
            result = te.if_then_else(inside, x[i, te.max(te.min(c - start, size - 1), 0)], result)
        return result

    s = Schedule(te.create_prim_func([*inputs, te.compute((pixels, target), value, "out")]))
    _, channel = s.get_loops(s.get_sblock("out"))
    if all(size % LANES == 0 for size in channels) and target % LANES == 0:
        block, lane = s.split(channel, [None, LANES])
        s.unroll(block)
        s.vectorize(lane)
    return s.mod["main"]


def _plain(arguments: list[te.Tensor]) -> tirx.PrimFunc:
    return Schedule(te.create_prim_func(arguments)).mod["main"]
