"""What the time of a pooling kernel is made of, as counts that a calibration finds the seconds of.

The same rules as `codesign.backend.kernels.pooling` applies when it compiles (a test compares them). Windows of a few
elements are read where the image is, vector by vector, without those that lie in the padding; a run of outputs is a
pixel, without horizontal strides all neighbouring pixels that see alike:

    maxima_B, means_B   vectors of B bytes x elements of the windows     reading and combining
    epilogues           vectors of 16 outputs of a mean                  scaling and rounding
    stores              vectors of outputs
    split_loads         vectors of the image across two cache lines, on average x elements of the windows
    pixels              outputs of one channel                           addresses
    loops               runs of outputs x widths of vectors              a loop for the vectors of each width
    rows                rows x parts of a row that see alike             a loop for the pixels of each part

Large windows are combined in loops, over a copy where the image is padded, a few vectors side by side:

    looped_maxima, looped_means   vectors of 16 (maxima of bytes: up to 64) outputs x elements of a window
    taps                          elements of a window x vectors / those side by side
    padding                       vectors copied

Caches and call are those of all kernels (kernel_terms.py).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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
Parts = Sequence[tuple[tuple[int, ...], int]]
"""Neighbouring positions of an axis that see alike: what they see, and how many they are."""


@dataclass(frozen=True)
class PoolingLoops:
    """Loops of one kernel.

    Attributes:
        is_direct: Whether the image is read where it is; else it is copied with its padding, and looped over.
        pixels: Outputs of one channel.
        rows: Rows of the output, each counted once for every part of it whose windows see alike.
        loops: Loops over vectors of one width.
        reads: Vectors of the image that are combined, by their bytes.
        split_reads: Of these, those that lie across two cache lines, on average.
        stores: Vectors of outputs.
        padded: Elements of the copy, 0 without one.
    """

    is_direct: bool
    pixels: int
    rows: int
    loops: int
    reads: Mapping[int, int]
    split_reads: float
    stores: int
    padded: int


def pooling_loops(window: ConvGeometry, element_bytes: int) -> PoolingLoops:
    """Loops of the kernel that pools an image.

    Args:
        window: Loop bounds.
        element_bytes: Of an activation: 1 or 4.

    Returns:
        The loops.
    """
    channels = -(-window.output_channels // STORED_CHANNELS) * STORED_CHANNELS
    rows, columns = ([(seen, len(list(same))) for seen, same in groupby(window_taps(window, axis))] for axis in (0, 1))
    terms = sum(len(seen) for seen, _ in rows) * sum(len(seen) for seen, _ in columns)
    pixels = window.batch * window.output_size[0] * window.output_size[1]
    if all(seen for seen, _ in (*rows, *columns)) and terms <= MOST_TERMS:
        return _direct_loops(window, channels * element_bytes, (rows, columns), element_bytes)
    widest = LINE_BYTES // element_bytes
    lanes = next(v for v in (64, 32, 16, 8, 4, 2, 1) if v <= widest and channels % v == 0)
    vectors = pixels * channels // lanes
    reads = {lanes * element_bytes: vectors * window.kernel[0] * window.kernel[1]}
    padded = window.batch * padded_elements(window, channels)
    return PoolingLoops(False, pixels, window.batch * window.output_size[0], pixels, reads, 0.0, vectors, padded)


def _direct_loops(
    window: ConvGeometry, pixel_bytes: int, parts: tuple[Parts, Parts], element_bytes: int
) -> PoolingLoops:
    height = window.batch * window.output_size[0]
    row_taps = window.batch * sum(len(seen) * count for seen, count in parts[0])
    reads: Counter[int] = Counter()
    loops, stores, split = 0, 0, 0.0
    for seen, count in parts[1]:
        turns, size = (1, count * pixel_bytes) if window.stride[1] == 1 else (count, pixel_bytes)
        vectors = pixel_vectors(size // element_bytes, element_bytes)
        loops += height * turns * len(vectors)
        stores += height * turns * sum(vectors.values())
        split += row_taps * turns * len(seen) * split_vectors(vectors, pixel_bytes)
        for width, number in vectors.items():
            reads[width] += row_taps * turns * len(seen) * number
    return PoolingLoops(True, height * window.output_size[1], height * len(parts[1]), loops, reads, split, stores, 0)


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
    stored = loops.pixels * -(-window.output_channels // STORED_CHANNELS)
    terms = {
        "call": 1.0,
        "pixels": float(loops.pixels),
        "rows": float(loops.rows),
        "loops": float(loops.loops),
        "stores": float(loops.stores),
        "epilogues": 0.0 if is_max else float(stored),
    }
    if loops.is_direct:
        kind = "maxima" if is_max else "means"
        terms["split_loads"] = loops.split_reads
        return terms | {f"{kind}_{size}": float(count) for size, count in loops.reads.items()}
    taps, vectors = window.kernel[0] * window.kernel[1], loops.stores // loops.pixels
    together = next(count for count in range(MOST_SUMS, 0, -1) if vectors % count == 0)
    return terms | {
        "looped_maxima" if is_max else "looped_means": float(taps * (loops.stores if is_max else stored)),
        "taps": float(taps * loops.stores / together),
        "padding": loops.padded * element_bytes / LINE_BYTES,
    }


def split_vectors(vectors: Mapping[int, int], pixel_bytes: int) -> float:
    """How many neighbouring vectors lie across two cache lines, on average over the pixels at which the first starts.

    Args:
        vectors: Numbers of them by their bytes, the widest first.
        pixel_bytes: From one pixel to the next.

    Returns:
        At most their number.
    """
    split, first = 0, 0
    for size, count in vectors.items():
        starts = [first + size * number + pixel_bytes * turn for number in range(count) for turn in range(TURNS)]
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
