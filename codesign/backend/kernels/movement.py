"""Kernels that move elements: between layouts, and slices, padding and concatenation of images stored by pixel.

An image `[1, C, H, W]` is stored by pixel as `[1, H, W, C']` with C' >= C; channels beyond C hold any finite value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.packing import LANES
from codesign.backend.kernels.vectors import LINE_BYTES, each_vector

Expression = Any
"""A TIR expression."""
Buffer = Any
"""A TIR buffer."""


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
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        x = build.arg("x", build.buffer((1, *source), dtype))
        fill = build.arg("fill", build.buffer((1,), dtype))
        out = build.arg("out", build.buffer((1, *target), dtype))
        move = _Move(window, target, LINE_BYTES * 8 // tvm.DataType(dtype).bits, x, fill, out)
        with build.sblock("root"):
            build.reads([])
            build.writes([])
            with build.serial(0, target[0]) as row:
                move.where(move.inside(0, row), lambda: move.row(row), lambda: move.blank_row(row))
    return builder.get()


@dataclass(frozen=True)
class _Move:
    """Parts of the kernel above.

    Attributes:
        window: What is read and where it goes.
        target: H2, W2, C2' of the output.
        lanes: Elements of the widest vector.
        x: Input.
        fill: Value of the padding.
        out: Output.
    """

    window: Window
    target: tuple[int, int, int]
    lanes: int
    x: Buffer
    fill: Buffer
    out: Buffer

    def inside(self, axis: int, position: Expression) -> list[tirx.Expr]:
        """What must hold for a position to be read; nothing for axes without padding."""
        before, size = self.window.before[axis], self.window.size[axis]
        low = [position >= before] if before else []
        return low + ([position < before + size] if before + size < self.target[axis] else [])

    def where(self, conditions: list[tirx.Expr], then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Does one or the other."""
        if not conditions:
            then()
            return
        with build.If(te.all(*conditions)):
            with build.Then():
                then()
            with build.Else():
                otherwise()

    def row(self, row: Expression) -> None:
        """Writes a row that is read."""
        with build.serial(0, self.target[1]) as column:
            inside = self.inside(1, column)
            self.where(inside, lambda: self._pixel(row, column), lambda: self._fill(row, column, 0, self.target[2]))

    def blank_row(self, row: Expression) -> None:
        """Writes a row of padding."""
        with build.serial(0, self.target[1]) as column:
            self._fill(row, column, 0, self.target[2])

    def _pixel(self, row: Expression, column: Expression) -> None:
        window, first, size = self.window, self.window.before[2], self.window.size[2]
        place = [
            (position - window.before[axis]) * window.step[axis] + window.start[axis]
            for axis, position in enumerate((row, column))
        ]
        self._fill(row, column, 0, first)
        for channel in each_vector(size, self.lanes if window.step[2] == 1 else 1):
            value = self.x[0, place[0], place[1], channel * window.step[2] + window.start[2]]
            build.buffer_store(self.out, value, [0, row, column, first + channel])
        self._fill(row, column, first + size, self.target[2] - first - size)

    def _fill(self, row: Expression, column: Expression, first: int, size: int) -> None:
        for channel in each_vector(size, self.lanes):
            build.buffer_store(self.out, self.fill[0], [0, row, column, first + channel])


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
