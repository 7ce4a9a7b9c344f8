"""What the time of a pooling kernel is made of, as counts that a calibration finds the seconds of.

The same rules as `codesign.backend.kernels.pooling` applies when it compiles (a test compares them). Windows of a few
elements are read where the image is, vector by vector, without those that lie in the padding:

    maxima_B, means_B   vectors of B bytes x elements of the windows     reading and combining
    epilogues           vectors of 16 outputs of a mean                  scaling and rounding
    stores              vectors of outputs
    split_loads         vectors of the image across two cache lines, on average x elements of the windows
    pixels              outputs of one channel                           addresses
    loops               pixels x widths of vectors                       a loop for the vectors of each width
    rows                rows x parts of a row that see alike             a loop for the pixels of each part

Large windows are combined in loops, over a copy where the image is padded, a few vectors side by side:

    looped_maxima, looped_means   vectors of 16 (maxima of bytes: up to 64) outputs x elements of a window
    taps                          elements of a window x vectors / those side by side
    padding                       vectors copied

Caches and call are those of all kernels (kernel_terms.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from codesign.cost.window_taps import padded_elements, window_taps
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import Widths

MOST_TERMS = 600
"""Elements that a kernel names one by one."""
LINE_BYTES, STORED_CHANNELS = 64, 16
TURNS = 4
"""Pixels after which cache lines begin at the same channels again: pixels are multiples of 16 bytes."""
MOST_SUMS = 8
"""Vectors that are combined side by side where windows are looped over."""


@dataclass(frozen=True)
class PoolingLoops:
    """Loops of one kernel.

    Attributes:
        is_direct: Whether the image is read where it is; else it is copied with its padding, and looped over.
        taps: Elements that all windows of one channel see of the image together.
        pixels: Outputs of one channel.
        vectors: Vectors of one pixel by their bytes.
        padded: Elements of the copy, 0 without one.
        rows: Rows of the output, each counted once for every part of it whose windows see alike.
    """

    is_direct: bool
    taps: int
    pixels: int
    vectors: Mapping[int, int]
    padded: int
    rows: int


def pooling_loops(window: ConvGeometry, element_bytes: int) -> PoolingLoops:
    """Loops of the kernel that pools an image.

    Args:
        window: Loop bounds.
        element_bytes: Of an activation: 1 or 4.

    Returns:
        The loops.
    """
    channels = -(-window.output_channels // STORED_CHANNELS) * STORED_CHANNELS
    axes = [window_taps(window, axis) for axis in (0, 1)]
    groups = [[group for group, _ in groupby(axis)] for axis in axes]
    terms = sum(len(group) for group in groups[0]) * sum(len(group) for group in groups[1])
    pixels = window.batch * window.output_size[0] * window.output_size[1]
    if all(all(axis) for axis in axes) and terms <= MOST_TERMS:
        taps = window.batch * sum(map(len, axes[0])) * sum(map(len, axes[1]))
        rows = window.batch * window.output_size[0] * len(groups[1])
        return PoolingLoops(True, taps, pixels, pixel_vectors(channels, element_bytes), 0, rows)
    widest = LINE_BYTES // element_bytes
    lanes = next(v for v in (64, 32, 16, 8, 4, 2, 1) if v <= widest and channels % v == 0)
    padded = window.batch * padded_elements(window, channels)
    taps = pixels * window.kernel[0] * window.kernel[1]
    rows = window.batch * window.output_size[0]
    return PoolingLoops(False, taps, pixels, {lanes * element_bytes: channels // lanes}, padded, rows)


def pooling_terms(op_type: str, window: ConvGeometry, bits: Widths) -> Mapping[str, float]:
    """Counts of a pooling kernel, but for those of caches.

    Args:
        op_type: ONNX operator.
        window: Loop bounds.
        bits: Widths.

    Returns:
        Counts by name.
    """
    element_bytes = 1 if bits.activation == 8 else 4
    loops = pooling_loops(window, element_bytes)
    is_max = "Max" in op_type
    elements = sum(size * count for size, count in loops.vectors.items()) // element_bytes
    stored = loops.pixels * elements / STORED_CHANNELS
    vectors = sum(loops.vectors.values())
    terms = {
        "call": 1.0,
        "pixels": float(loops.pixels),
        "loops": float(loops.pixels * len(loops.vectors)),
        "rows": float(loops.rows),
        "stores": float(loops.pixels * vectors),
        "epilogues": 0.0 if is_max else stored,
    }
    if loops.is_direct:
        kind = "maxima" if is_max else "means"
        terms["split_loads"] = loops.taps * split_vectors(loops.vectors)
        return terms | {f"{kind}_{size}": float(count * loops.taps) for size, count in loops.vectors.items()}
    together = next(count for count in range(MOST_SUMS, 0, -1) if vectors % count == 0)
    kind, turns = ("looped_maxima", vectors) if is_max else ("looped_means", elements / STORED_CHANNELS)
    return terms | {
        kind: turns * loops.taps,
        "taps": float(loops.taps * vectors / together),
        "padding": loops.padded * element_bytes / LINE_BYTES,
    }


def split_vectors(vectors: Mapping[int, int]) -> float:
    """How many vectors of a pixel lie across two cache lines, on average over neighbouring pixels.

    Args:
        vectors: Of one pixel by their bytes, the widest first.

    Returns:
        At most their number.
    """
    pixel = sum(size * count for size, count in vectors.items())
    split, first = 0, 0
    for size, count in vectors.items():
        starts = [first + size * number + pixel * turn for number in range(count) for turn in range(TURNS)]
        split += sum(start % LINE_BYTES + size > LINE_BYTES for start in starts)
        first += size * count
    return split / TURNS


def pixel_vectors(channels: int, element_bytes: int) -> Mapping[int, int]:
    """Vectors that move the channels of a pixel: the widest first, then one of each smaller width where it is needed.

    Args:
        channels: As stored.
        element_bytes: Of a channel.

    Returns:
        Numbers of vectors by their bytes.
    """
    found: dict[int, int] = {}
    lanes = LINE_BYTES // element_bytes
    while channels:
        if channels // lanes:
            found[lanes * element_bytes] = channels // lanes
        channels, lanes = channels % lanes, lanes // 2
    return found
