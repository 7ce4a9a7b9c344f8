"""Copies of the input that kernels on AMX read: with padding, and for float32 rounded to bfloat16."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm import te, tirx
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.bfloat16 import ELEMENT_BYTES, store_rounded
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.vectors import each_vector

Expression = Any
"""A TIR expression, or a number."""
Buffer = Any
"""A TIR buffer."""


@dataclass(frozen=True)
class AmxInput:
    """Where a kernel reads pixels.

    Attributes:
        buffer: The kernel's argument, or a copy of a part of it as one axis of bytes.
        width: Pixels of a row of the copy; 0 for the argument itself.
        top: Row of the first output's window.
        left: Column of the first output's window.
        stride: Rows and columns from one output's window to the next.
    """

    buffer: Buffer
    width: int
    top: Expression
    left: Expression
    stride: tuple[int, int]


def looks_at_single_pixels(shape: ConvolutionShape) -> bool:
    """Whether an output depends on one pixel, so that a copy need not hold the pixels that strides skip.

    Args:
        shape: The convolution.

    Returns:
        Whether its kernel is 1x1 without padding.
    """
    return shape.kernel == (1, 1) and not shape.is_padded


def copy_size(shape: ConvolutionShape, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the copy that some outputs need.

    Args:
        shape: The convolution.
        rows: Rows of outputs.
        columns: Columns of outputs; a kernel beyond 1x1 copies whole rows all the same.

    Returns:
        Height and width in pixels.
    """
    if looks_at_single_pixels(shape):
        return rows, columns
    return (rows - 1) * shape.stride[0] + shape.dilation[0] * (shape.kernel[0] - 1) + 1, shape.padded_width


def padded(shape: ConvolutionShape, rows: int, x: Buffer, fill: Expression, top: Expression) -> Buffer:
    """Copies the rows that some outputs read, with their padding.

    Args:
        shape: The convolution.
        rows: Rows of outputs.
        x: The input, bytes.
        fill: Value of the padding.
        top: First row of the input that is read, counted from the padding's first.

    Returns:
        The copy, bytes.
    """
    height, width = copy_size(shape, rows, shape.out_width)
    channels = shape.in_channels
    # one axis: TVM cuts axes down to what it sees accessed, and of a tile it sees the first element only
    copy = build.sblock_alloc_buffer((height * width * channels,), "uint8")

    def move(source: Expression, place: Expression, size: int) -> None:
        for byte in each_vector(size):
            build.buffer_store(copy, x[0, source, 0, byte], [place + byte])

    _copy_rows(shape, (height, width), copy, fill, top, move)
    return copy


def rounded(
    shape: ConvolutionShape,
    size: tuple[int, int],
    x: Buffer,
    copy: Buffer,
    corner: tuple[Expression, Expression],
) -> None:
    """Rounds the pixels that some outputs read to bfloat16, padding included.

    Args:
        shape: The convolution; its input has a multiple of 4 channels and at least 16 elements in a row.
        size: Rows and columns of outputs.
        x: The input, float32.
        copy: Bytes, of `copy_size` pixels.
        corner: Row and column of the first output.
    """
    if looks_at_single_pixels(shape):
        _rounded_pixels(shape, size, x, copy, corner)
        return

    def move(source: Expression, place: Expression, size: int) -> None:
        store_rounded(x, [0, source, 0, 0], copy, place, size // ELEMENT_BYTES)

    in_bytes = replace(shape, in_channels=shape.in_channels * ELEMENT_BYTES)
    zero = tirx.const(0, "uint8")
    _copy_rows(in_bytes, copy_size(shape, *size), copy, zero, corner[0] * shape.stride[0], move)


def _rounded_pixels(
    shape: ConvolutionShape,
    size: tuple[int, int],
    x: Buffer,
    copy: Buffer,
    corner: tuple[Expression, Expression],
) -> None:
    rows, columns = size
    run = columns if shape.stride[1] == 1 else 1
    elements = run * shape.in_channels
    with build.serial(0, rows) as row, build.serial(0, columns // run) as column:
        pixel = ((corner[0] + row) * shape.stride[0], (corner[1] + column) * shape.stride[1])
        place = (row * (columns // run) + column) * (elements * ELEMENT_BYTES)
        store_rounded(x, [0, *pixel, 0], copy, place, elements)


def _copy_rows(
    shape: ConvolutionShape,
    size: tuple[int, int],
    copy: Buffer,
    fill: Expression,
    top: Expression,
    move: Callable[[Expression, Expression, int], None],
) -> None:
    """Fills the padding of rows, whose channels are bytes, and moves what lies between."""
    height, width = size
    channels, left = shape.in_channels, shape.pads[1]
    kept = min(shape.width, width - left)
    with build.serial(0, height) as row:
        source = top + row - shape.pads[0]
        first_byte = row * (width * channels)
        _fill(copy, fill, first_byte, left * channels)
        _fill(copy, fill, first_byte + (left + kept) * channels, (width - left - kept) * channels)
        with build.If(te.all(source >= 0, source < shape.height)):
            with build.Then():
                move(source, first_byte + left * channels, kept * channels)
            with build.Else():
                _fill(copy, fill, first_byte + left * channels, kept * channels)


def _fill(copy: Buffer, value: Expression, start: Expression, size: int) -> None:
    for byte in each_vector(size):
        build.buffer_store(copy, value, [start + byte])
