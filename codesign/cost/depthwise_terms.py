"""What the time of a depthwise layer in float32 is made of, as counts that a calibration finds the seconds of.

The same rules as `codesign.backend.kernels.depthwise` applies when it compiles (a test compares them):

    products     vectors of channels x elements that all windows see     multiply-accumulate instructions
    loads        vectors that groups of neighbouring pixels read         each once for a row of the filter
    factors      vectors of weights that groups read
    rows         groups x rows of the filter                             loops
    epilogues    vectors of outputs                                      bias, activation, store

Caches and call are those of all kernels (kernel_terms.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from codesign.cost.window_taps import window_taps
from codesign.plan.facts import ConvGeometry

MOST_PRODUCTS, PIXELS, BLOCKS = 750, 4, 2
"""As the kernel's."""
LANES = 16


@dataclass(frozen=True)
class _Row:
    """Groups of one row of the output and two vectors of channels."""

    groups: int
    loads: int
    factors: int


def depthwise_applies(geometry: ConvGeometry) -> bool:
    """Whether the kernel computes a layer.

    Args:
        geometry: Loop bounds.

    Returns:
        True for one filter a channel of few columns.
    """
    if geometry.groups == 1 or not geometry.groups == geometry.input_channels == geometry.output_channels:
        return False
    columns = sum(min(count, 2 * PIXELS - 1) for _, count in _parts(geometry))
    return columns * geometry.kernel[1] * BLOCKS <= MOST_PRODUCTS


def depthwise_terms(geometry: ConvGeometry) -> Mapping[str, float]:
    """Counts of a layer that the kernel computes, but for those of caches.

    Args:
        geometry: Loop bounds.

    Returns:
        Counts by name.
    """
    blocks = -(-geometry.output_channels // LANES)
    seen_rows = geometry.batch * sum(map(len, window_taps(geometry, 0)))
    seen_columns = sum(map(len, window_taps(geometry, 1)))
    row = _row(geometry)
    turns = -(-blocks // BLOCKS)
    rows = geometry.batch * geometry.output_size[0]
    return {
        "call": 1.0,
        "products": float(blocks * seen_rows * seen_columns),
        "loads": float(blocks * seen_rows * row.loads),
        "factors": float(blocks * seen_rows * row.factors),
        "rows": float(turns * rows * row.groups * geometry.kernel[0]),
        "groups": float(turns * rows * row.groups),
        "epilogues": float(blocks * rows * geometry.output_size[1]),
    }


def _parts(geometry: ConvGeometry) -> list[tuple[tuple[int, ...], int]]:
    return [(seen, len(list(same))) for seen, same in groupby(window_taps(geometry, 1))]


def _row(geometry: ConvGeometry) -> _Row:
    groups = loads = factors = 0
    for seen, count in _parts(geometry):
        for pixels in [PIXELS] * (count // PIXELS) + ([count % PIXELS] if count % PIXELS else []):
            read = {p * geometry.stride[1] + t * geometry.dilation[1] for p in range(pixels) for t in seen}
            groups, loads, factors = groups + 1, loads + len(read), factors + len(seen)
    return _Row(groups, loads, factors)
