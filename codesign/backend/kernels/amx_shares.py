"""How the outputs of a kernel on AMX are divided among threads, and for bfloat16 into parts that a cache holds."""

from dataclasses import dataclass, replace

from codesign.backend.kernels.amx_input import copy_size, looks_at_single_pixels
from codesign.backend.kernels.amx_tiles import TILE_ROWS, has_more_weights_than_inputs
from codesign.backend.kernels.bfloat16 import ELEMENT_BYTES
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import round_up

ROUNDED_BYTES = 32_768
"""Of a copy in bfloat16, above which a share is computed in parts."""


@dataclass(frozen=True)
class Share:
    """What one thread computes; the last share starts earlier where the size is no multiple.

    Attributes:
        count: Number of shares.
        rows: Rows of the output in each.
        columns: Columns of the output in each.
        blocks: Blocks of 16 channels in each.
    """

    count: int
    rows: int
    columns: int
    blocks: int


def shares(shape: ConvolutionShape, threads: int, by_channels: bool | None = None) -> Share:
    """Divides the outputs among threads.

    By blocks of channels where weights are larger than the input, so that each thread reads its part of them; by rows
    otherwise, or by columns where there is one row.

    Args:
        shape: The convolution.
        threads: Threads; 1 for a serial kernel.
        by_channels: Whether by blocks of channels, where threads divide them; None for the rule.

    Returns:
        Equal shares.
    """
    height, width, blocks = shape.out_height, shape.out_width, shape.blocks
    by_channels = has_more_weights_than_inputs(shape) if by_channels is None else by_channels
    if threads > 1 and blocks % threads == 0 and by_channels:
        return Share(threads, height, width, blocks // threads)
    if height > 1:
        rows = -(-height // threads)
        return Share(-(-height // rows), rows, width, blocks)
    columns = -(-width // threads)
    return Share(-(-width // columns), 1, columns, blocks)


def parts(shape: ConvolutionShape, share: Share) -> Share:
    """Divides a thread's share so that a part's input, rounded to bfloat16, stays in a near cache.

    By rows, or by columns where there is one row and no pixel is read twice; by neither where weights are more than
    the input, since every part reads all of them.

    Args:
        shape: The convolution, its input channels counted in elements.
        share: What one thread computes.

    Returns:
        Equal parts, the last of which starts earlier where the size is no multiple.
    """
    height, width = copy_size(shape, share.rows, share.columns)
    row_bytes = width * shape.in_channels * ELEMENT_BYTES
    count = -(-height * row_bytes // ROUNDED_BYTES)
    if count == 1 or has_more_weights_than_inputs(shape):
        return replace(share, count=1)
    if share.rows > 1:
        rows = max(1, -(-share.rows // count))
        return Share(-(-share.rows // rows), rows, share.columns, share.blocks)
    if not looks_at_single_pixels(shape):
        return replace(share, count=1)
    columns = min(share.columns, round_up(-(-share.columns // count), TILE_ROWS))
    return Share(-(-share.columns // columns), 1, columns, share.blocks)
