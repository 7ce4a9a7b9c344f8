"""Where windows reach into the padding: parts of an output that a kernel treats without looking at each pixel."""

from dataclasses import dataclass
from itertools import groupby

from codesign.backend.kernels.geometry import ConvolutionShape


@dataclass(frozen=True)
class Part:
    """Neighbouring positions of the output along one axis whose windows miss the padding in the same way.

    Attributes:
        first: First position.
        count: Number of positions.
        taps: Those of the window's that lie inside the image.
    """

    first: int
    count: int
    taps: tuple[int, ...]


def window_parts(shape: ConvolutionShape, axis: int) -> list[Part]:
    """Cuts an axis of the output.

    Args:
        shape: Loop bounds.
        axis: 0 for rows, 1 for columns.

    Returns:
        The parts in order; one where nothing is padded.
    """
    size, out = ((shape.height, shape.out_height), (shape.width, shape.out_width))[axis]
    starts = [position * shape.stride[axis] - shape.pads[axis] for position in range(out)]
    taps = range(shape.kernel[axis])
    inside = [tuple(t for t in taps if 0 <= start + t * shape.dilation[axis] < size) for start in starts]
    parts: list[Part] = []
    for seen, same in groupby(inside):
        first = parts[-1].first + parts[-1].count if parts else 0
        parts.append(Part(first, len(list(same)), seen))
    return parts
