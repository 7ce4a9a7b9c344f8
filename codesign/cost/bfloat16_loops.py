"""How kernels on AMX that round float32 operands to bfloat16 cut a convolution, computed from its loop bounds alone.

The same rules as `codesign.backend.kernels.amx_shares` applies when it compiles for one thread (a test compares the
two): the input is rounded into a copy, part by part where that is larger than a near cache.
"""

from dataclasses import dataclass, replace

from codesign.cost.amx_loops import LEAST_DEPTH, TILE_ROWS, AmxLoops, StoredChannels, amx_loops
from codesign.plan.facts import ConvGeometry

ELEMENT_BYTES = 2
IMAGE_CHANNELS = 4
"""Channels of a network's input are stored in multiples of so many for these kernels."""
LEAST_CHANNELS = 3
"""Of a network's input."""
LEAST_ROW = 16
"""Elements of a row of the input that one instruction rounds."""
MINIMUM_MACS = 30_000
"""Multiply-accumulates, padded channels included, below which vectors of float32 are faster."""
ROUNDED_BYTES = 32_768
"""Of a copy, above which a kernel is computed in parts."""


@dataclass(frozen=True)
class Bfloat16Loops:
    """Loops of one kernel.

    Attributes:
        amx: Tiles and sums of all parts together; its channels are counted in bytes.
        copied: Elements that are rounded.
    """

    amx: AmxLoops
    copied: int


def bfloat16_applies(geometry: ConvGeometry, stored: StoredChannels) -> bool:
    """Whether the kernel of a layer in float32 uses tiles where products may be of bfloat16.

    Args:
        geometry: Loop bounds.
        stored: Its channels in float32; an image's few are rounded up for tiles.

    Returns:
        False for several groups, horizontal dilation, few channels or columns, and little work.
    """
    outputs = geometry.batch * geometry.output_size[0] * geometry.output_size[1] * stored.outputs
    macs = outputs * geometry.kernel[0] * geometry.kernel[1] * stored.summed
    channels = stored_for_bfloat16(stored.inputs)
    wide = channels * geometry.input_size[1] >= LEAST_ROW
    deep = geometry.kernel[1] * channels * ELEMENT_BYTES >= LEAST_DEPTH
    possible = not stored.grouped and geometry.dilation[1] == 1 and stored.inputs >= LEAST_CHANNELS
    return possible and wide and deep and macs >= MINIMUM_MACS


def stored_for_bfloat16(channels: int) -> int:
    """Input channels that a kernel with products of bfloat16 reads.

    Args:
        channels: As stored in float32.

    Returns:
        A multiple of 4.
    """
    return -(-channels // IMAGE_CHANNELS) * IMAGE_CHANNELS


def bfloat16_loops(
    geometry: ConvGeometry, size: tuple[int, int], stored: StoredChannels, is_padded: bool
) -> Bfloat16Loops:
    """Loops of the kernel.

    Args:
        geometry: Loop bounds.
        size: Rows and columns of the output; one row where a 1x1 kernel treats all pixels alike.
        stored: Its channels; those of the input are a multiple of 4.
        is_padded: Whether the kernel reads padding.

    Returns:
        The loops.
    """
    kernel, stride = geometry.kernel, geometry.stride
    single = kernel == (1, 1) and not is_padded
    reach = geometry.dilation[0] * (kernel[0] - 1) + 1
    copy_width = size[1] if single else (size[1] - 1) * stride[1] + geometry.dilation[1] * (kernel[1] - 1) + 1

    def copied_rows(rows: int) -> int:
        return rows if single else (rows - 1) * stride[0] + reach

    rows, columns, count = *size, 1
    wanted = -(-copied_rows(rows) * copy_width * stored.inputs * ELEMENT_BYTES // ROUNDED_BYTES)
    weights = stored.outputs * stored.summed * kernel[0] * kernel[1]
    if wanted > 1 and weights <= geometry.input_size[0] * geometry.input_size[1] * stored.inputs:
        if rows > 1:
            rows = max(1, -(-size[0] // wanted))
            count = -(-size[0] // rows)
        elif single:
            columns = min(size[1], -(-size[1] // (wanted * TILE_ROWS)) * TILE_ROWS)
            count, copy_width = -(-size[1] // columns), columns
    in_bytes = replace(stored, inputs=stored.inputs * ELEMENT_BYTES)
    amx = amx_loops(rows, columns, kernel, 1 if single else stride[1], in_bytes)
    return Bfloat16Loops(amx.repeated(count), count * copied_rows(rows) * copy_width * stored.inputs)
