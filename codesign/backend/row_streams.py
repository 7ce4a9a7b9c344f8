"""Large images that are pooled right after the convolution that makes them: a few rows at a time.

Between a convolution and its pooling lie images that no second-level cache holds (3 MB in SqueezeNext's first layers).
Where both are computed for a few rows in turns, only these are ever stored, in a buffer that stays near the core: rows
that the next turn needs again are moved to its start, and the rest is overwritten.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.vectors import LINE_BYTES

STREAMED_BYTES = 1 << 20
"""Smaller images stay in the second-level cache of most processors anyway."""
BUFFER_BYTES = 384 << 10
"""Largest buffer, unless a single row of the pooling needs more."""


@dataclass(frozen=True)
class Turn:
    """Some rows of the pooling's result.

    Attributes:
        convolution: What computes the rows that are not there yet.
        pooling: What pools the rows in the buffer.
        first_input: First row of the convolution's input that is read.
        first_output: First row of the pooling's result.
        kept: Rows that stay from the turn before.
        kept_from: Where in the buffer they are, in rows.
    """

    convolution: ConvolutionShape
    pooling: ConvolutionShape
    first_input: int
    first_output: int
    kept: int
    kept_from: int


@dataclass(frozen=True)
class StreamStep:
    """A turn as calls of kernels. Offsets are bytes from the start of an operand.

    Attributes:
        convolution: Name of the kernel.
        pooling: Name of the kernel.
        input_offset: Of what the convolution reads.
        new_offset: Of the new rows in the buffer.
        output_offset: Of what the pooling writes.
        mover: Name of the kernel that moves rows to the buffer's start; empty where none are kept.
        kept_offset: Of these rows.
    """

    convolution: str
    pooling: str
    input_offset: int
    new_offset: int
    output_offset: int
    mover: str
    kept_offset: int


@dataclass(frozen=True)
class Stream:
    """A convolution and a pooling that are computed in turns.

    Attributes:
        convolution: Name of the kernel for the whole image.
        pooling: Name of the kernel for the whole image.
        steps: What replaces one call of each.
        buffer_bytes: Memory between the two.
    """

    convolution: str
    pooling: str
    steps: tuple[StreamStep, ...]
    buffer_bytes: int


def turns(convolution: ConvolutionShape, pooling: ConvolutionShape, element_bytes: int) -> tuple[Turn, ...]:
    """Cuts a convolution and the pooling of its result into turns.

    Args:
        convolution: Loop bounds; its output is the pooling's input.
        pooling: Loop bounds.
        element_bytes: Of the image between them.

    Returns:
        The turns; none where the image is small, where a turn would need most of it, or where windows overlap by far.
    """
    row_bytes = pooling.width * pooling.in_channels * element_bytes
    if pooling.height * row_bytes < STREAMED_BYTES:
        return ()
    rows = _rows_a_turn(pooling, BUFFER_BYTES // row_bytes)
    if 2 * rows >= pooling.out_height:
        return ()
    found: list[Turn] = []
    begin = end = 0  # rows of the image in the buffer
    for first in range(0, pooling.out_height, rows):
        count = min(rows, pooling.out_height - first)
        part, needed = _rows_of(pooling, first, count)
        start, stop = max(needed, end), needed + part.height
        kept, kept_from = max(0, end - needed), needed - begin
        if stop <= start or kept > kept_from > 0:  # nothing new, or rows that would be moved over one another
            return ()
        piece, source = _rows_of(convolution, start, stop - start)
        found.append(Turn(piece, part, source, first, kept, kept_from))
        begin, end = needed, stop
    return tuple(found)


def _rows_a_turn(pooling: ConvolutionShape, buffer_rows: int) -> int:
    """Rows of the result for which a buffer suffices, a divisor of all if it is not much smaller."""
    most = max(1, (buffer_rows - (pooling.kernel[0] - 1) * pooling.dilation[0] - 1) // pooling.stride[0] + 1)
    return next((rows for rows in range(most, most // 2, -1) if pooling.out_height % rows == 0), most)


def _rows_of(shape: ConvolutionShape, first: int, count: int) -> tuple[ConvolutionShape, int]:
    """Loop bounds of some rows of the output, and the first row of the input that they read."""
    reach = shape.dilation[0] * (shape.kernel[0] - 1) + 1
    start = first * shape.stride[0] - shape.pads[0]
    stop = start + (count - 1) * shape.stride[0] + reach
    inside = min(stop, shape.height) - max(start, 0)
    pads = (max(0, -start), shape.pads[1], max(0, stop - shape.height), shape.pads[3])
    return replace(shape, height=inside, pads=pads), max(start, 0)


def steps_of(
    cut: tuple[Turn, ...],
    element_bytes: tuple[int, int],
    names: Callable[[Turn], tuple[str, str]],
    mover: Callable[[int], str],
) -> tuple[StreamStep, ...]:
    """Turns as calls of kernels.

    Args:
        cut: The turns, at least one.
        element_bytes: Of the convolution's input, and of the image and the result.
        names: Kernels of a turn's convolution and pooling.
        mover: Name of a kernel that moves so many bytes.

    Returns:
        One step a turn.
    """
    of_input, of_image, of_output = _row_bytes(cut[0], element_bytes)
    return tuple(
        StreamStep(
            *names(turn),
            turn.first_input * of_input,
            turn.kept * of_image,
            turn.first_output * of_output,
            mover(turn.kept * of_image) if turn.kept else "",
            turn.kept_from * of_image,
        )
        for turn in cut
    )


def buffer_bytes(cut: tuple[Turn, ...], image_bytes: int) -> int:
    """Memory between a convolution and a pooling.

    Args:
        cut: The turns, at least one.
        image_bytes: Of an element of the image.

    Returns:
        Bytes.
    """
    return max(turn.pooling.height for turn in cut) * _row_bytes(cut[0], (1, image_bytes))[1]


def are_aligned(cut: tuple[Turn, ...], element_bytes: tuple[int, int], reads_singly: bool) -> bool:
    """Whether kernels may start at the rows of all turns: at whole cache lines, but for what they read one by one.

    Args:
        cut: The turns, at least one.
        element_bytes: Of the convolution's input, and of the image and the result.
        reads_singly: Whether the convolution reads one element of its input after the other, as long as it need not
            copy it.

    Returns:
        Whether they may.
    """
    of_input, of_image, of_output = _row_bytes(cut[0], element_bytes)
    copied = any(turn.convolution.is_padded for turn in cut)
    inputs = (reads_singly and not copied) or all(turn.first_input * of_input % LINE_BYTES == 0 for turn in cut)
    return inputs and of_image % LINE_BYTES == 0 and all(t.first_output * of_output % LINE_BYTES == 0 for t in cut)


def _row_bytes(turn: Turn, element_bytes: tuple[int, int]) -> tuple[int, int, int]:
    """Bytes of a row of the convolution's input, of the image and of the result."""
    convolution, pooling = turn.convolution, turn.pooling
    return (
        convolution.width * convolution.in_channels * element_bytes[0],
        pooling.width * pooling.in_channels * element_bytes[1],
        pooling.out_width * pooling.out_channels * element_bytes[1],
    )
