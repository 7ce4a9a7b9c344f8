"""What of a kernel's loops may be chosen freely: the rules choose it from the shape alone, the tuner by measurement.

Whatever is chosen, a kernel computes the same integers.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from codesign.backend.kernels.geometry import ConvolutionShape, choose_tile, is_shared, row_chunks


@dataclass(frozen=True)
class VectorTiling:
    """Loops of a convolution whose sums stay in vector registers (schedule.py).

    Attributes:
        columns: Neighbouring pixels of a tile.
        blocks: Blocks of 16 channels of a tile.
        channels_inside: Whether all channels of some pixels are computed before the next pixels.
        unrolled: Whether the loop over the kernel's columns is unrolled.
        chunks: Parts of the rows (columns, if there is one row) whose padding is copied together; 1 for all rows.
        shares_chunks: Whether threads share the chunks.
        shares_blocks: Whether threads share the blocks of channels instead.
    """

    columns: int
    blocks: int
    channels_inside: bool = False
    unrolled: bool = False
    chunks: int = 1
    shares_chunks: bool = False
    shares_blocks: bool = False
    kind: Literal["vector"] = "vector"


@dataclass(frozen=True)
class AmxTiling:
    """Loops of a convolution on AMX tiles (amx_tiles.py).

    Attributes:
        pixels: Tiles of 16 pixels that are summed side by side.
        channels: Tiles of 16 channels that are summed side by side.
        pixels_outside: Whether all channels of some pixels are computed before the next pixels.
        threads: Threads that share the outputs; 1 for none.
        shares_channels: Whether they share channels; else rows, or columns where there is one row.
    """

    pixels: int
    channels: int
    pixels_outside: bool
    threads: int = 1
    shares_channels: bool = False
    kind: Literal["amx"] = "amx"


@dataclass(frozen=True)
class MatrixVectorTiling:
    """Loops of a dense layer of one row (matrix_vector.py).

    Attributes:
        parts: Parts of the input whose sums are independent.
        blocks: Blocks of 16 outputs that are summed side by side.
        parallel: Whether threads share the outputs.
    """

    parts: int
    blocks: int
    parallel: bool = False
    kind: Literal["matrix-vector"] = "matrix-vector"


@dataclass(frozen=True)
class PackedMatrixVectorTiling:
    """Loops of a dense layer of one row with packed weights (packed_matrix_vector.py).

    Attributes:
        blocks: Blocks of 16 outputs that are summed side by side.
        parallel: Whether threads share the outputs.
    """

    blocks: int
    parallel: bool = False
    kind: Literal["packed-matrix-vector"] = "packed-matrix-vector"


@dataclass(frozen=True)
class DepthwiseTiling:
    """Loops of a depthwise convolution in float32 (depthwise.py).

    Attributes:
        pixels: Neighbouring pixels that are computed side by side.
        blocks: Vectors of 16 channels that are computed side by side.
        threads: Threads that share the rows; 1 for none.
    """

    pixels: int
    blocks: int
    threads: int = 1
    kind: Literal["depthwise"] = "depthwise"


KernelParameters = Annotated[
    VectorTiling | AmxTiling | DepthwiseTiling | MatrixVectorTiling | PackedMatrixVectorTiling,
    Field(discriminator="kind"),
]
PARAMETERS: TypeAdapter[KernelParameters] = TypeAdapter(KernelParameters)
"""To and from JSON."""
CHOICES: TypeAdapter[dict[str, KernelParameters]] = TypeAdapter(dict[str, KernelParameters])
"""By a kernel's identity (layer_kernel.py), to and from JSON."""


def vector_tiling(shape: ConvolutionShape, registers: int, threads: int, unpacks: bool = False) -> VectorTiling:
    """What the rules choose for a convolution in vector registers.

    Args:
        shape: Loop bounds.
        registers: Vectors that registers hold.
        threads: Threads to schedule for.
        unpacks: Whether the kernel expands weights below 8 bits.

    Returns:
        The loops.
    """
    tile = choose_tile(shape, registers)
    chunks, shared = row_chunks(shape, tile, threads, unpacks), is_shared(shape, threads)
    return VectorTiling(
        tile.columns,
        tile.blocks,
        chunks=chunks,
        shares_chunks=shared and chunks > 1,
        shares_blocks=shared and chunks == 1 and shape.blocks // tile.blocks > 1,
    )
