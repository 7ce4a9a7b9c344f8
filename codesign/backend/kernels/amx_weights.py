"""Weights of kernels on AMX: where tiles load them, and how narrow ones become bytes.

Narrow weights are expanded tile by tile while the tile before is multiplied, since AMX leaves the vector units idle.
Where packed rows do not divide a tile, all are expanded before the sum.
"""

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.amx_tiles import AmxTiles, packed_rows
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import INNER, LANES, PLANES, neighbours

Expression = Any
"""A TIR expression, or a number."""
Buffer = Any
"""A TIR buffer: an argument or memory of the kernel."""


@dataclass(frozen=True)
class AmxWeights:
    """Weights in the order in which tiles load them, from a block of channels on.

    Attributes:
        shape: The convolution.
        tiles: How it is cut.
        bits: Width as stored.
        stored: The kernel's argument.
        memory: Holds them as bytes (or bfloat16); the argument itself where nothing is expanded.
        first_block: Number of the first block of channels in it.
        is_ahead: Whether tiles of weights are expanded while the tiles before them are multiplied.
    """

    shape: ConvolutionShape
    tiles: AmxTiles
    bits: int
    stored: Buffer
    memory: Buffer
    first_block: Expression
    is_ahead: bool = False

    def at(self, block: Expression, tap: Expression, row: Expression) -> Expression:
        """First element of a row of weights.

        Args:
            block: Of output channels.
            tap: Row of the kernel.
            row: Of 16 x 4 weights.

        Returns:
            The element.
        """
        if self.bits >= 8:
            return self.memory[block, tap, row, 0]
        before = ((block - self.first_block) * self.shape.kernel[0] + tap) * self.tiles.sums.weight_rows
        return self.memory[(before + row) * LANES * INNER]

    def expand_tile(self, block: Expression, tile: Expression) -> None:
        """Expands a tile of each of the blocks of channels that are summed side by side.

        Args:
            block: The first of them.
            tile: Its number in the sum.
        """
        count = self.tiles.sums.depth // INNER // packed_rows(self.shape, self.bits)
        with build.serial(0, self.tiles.channels) as number, build.serial(0, count) as group:
            self.expand(block - self.first_block + number, tile * count + group)

    def expand(self, block: Expression, group: Expression) -> None:
        """Expands the rows of one block that are packed together.

        Args:
            block: Counts from the first one in memory.
            group: Number of the rows.
        """
        bits, together = self.bits, packed_rows(self.shape, self.bits)
        lanes = together * LANES * INNER
        near = neighbours(lanes, bits)
        groups = self.shape.kernel[0] * self.tiles.sums.weight_rows // together
        for start in range(0, lanes, near):
            with build.vectorized(0, near) as lane:
                position = first = 0
                total = tirx.const(-(1 << (bits - 1)), "int8")
                for width in PLANES[bits]:
                    count = lanes * width // 8
                    byte = self.stored[self.first_block + block, group, first + start % count + lane]
                    shift = tirx.const(start // count * width, "uint8")
                    digit = (byte >> shift) & tirx.const((1 << width) - 1, "uint8")
                    total += (digit << tirx.const(position, "uint8")).astype("int8")
                    position, first = position + width, first + count
                build.buffer_store(self.memory, total, [(block * groups + group) * lanes + start + lane])


def expanded(
    shape: ConvolutionShape, tiles: AmxTiles, bits: int, stored: Buffer, first: Expression, count: int
) -> AmxWeights:
    """The weights of some blocks of channels, as bytes where they are narrower.

    Args:
        shape: The convolution.
        tiles: How it is cut.
        bits: Width of the weights.
        stored: The kernel's argument.
        first: The first block.
        count: How many blocks.

    Returns:
        The weights; those that are expanded ahead are not yet in memory.
    """
    if bits >= 8:
        return AmxWeights(shape, tiles, bits, stored, stored, 0)
    rows, together = shape.kernel[0] * tiles.sums.weight_rows, packed_rows(shape, bits)
    memory = build.sblock_alloc_buffer((count * rows * LANES * INNER,), "int8")  # one axis, as `padded` has
    weights = AmxWeights(shape, tiles, bits, stored, memory, first, tiles.sums.depth // INNER % together == 0)
    if weights.is_ahead:  # TVM allocates memory in the innermost loop around all that uses it, which is too far inside
        build.buffer_store(memory, tirx.const(0, "int8"), [0])
    else:
        with build.serial(0, count) as block, build.serial(0, rows // together) as group:
            weights.expand(block, group)
    return weights
