"""AMX's instructions as LLVM's intrinsics, written into the kernel that is being built."""

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.amx_tiles import AmxTiles

CONFIGURATION_BYTES = 64
TILES = 8
FIRST_INPUT, FIRST_WEIGHT = 4, 6
"""Tiles 0 to 3 hold sums, 4 and 5 pixels, 6 and 7 weights."""
SYSCALL_ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18
"""Linux on x86-64: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`."""
WHOLE_LINES = "codesign.whole_lines"
"""Attribute of kernels whose memory must start at a cache line: a tile's row that lies across two is loaded twice."""
NO_AMX = "this library needs AMX, which this processor or operating system does not have; compile for this machine"

Expression = Any
"""A TIR expression."""


def request_permission() -> None:
    """Asks the kernel for the tile registers; the call fails with a message where there are none."""
    arguments = (SYSCALL_ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)
    answer = tirx.call_extern("int64", "syscall", *(tirx.const(value, "int64") for value in arguments))
    with build.Assert(answer == tirx.const(0, "int64"), NO_AMX):
        pass


def configure(tiles: AmxTiles) -> None:
    """Loads the shapes of all tiles; each thread has its own.

    Args:
        tiles: How the kernel is cut.
    """
    data = bytearray(CONFIGURATION_BYTES)
    data[0] = 1  # the palette
    for tile in range(TILES):
        is_input, is_weight = FIRST_INPUT <= tile < FIRST_WEIGHT, tile >= FIRST_WEIGHT
        columns = tiles.sums.depth if is_input else CONFIGURATION_BYTES
        data[16 + 2 * tile : 18 + 2 * tile] = columns.to_bytes(2, "little")
        data[48 + tile] = tiles.sums.depth // 4 if is_weight else tiles.rows
    memory = build.sblock_alloc_buffer((CONFIGURATION_BYTES // 4,), "int32")
    for word in range(CONFIGURATION_BYTES // 4):
        value = int.from_bytes(data[4 * word : 4 * word + 4], "little")
        build.buffer_store(memory, tirx.const(value, "int32"), [word])
    _instruction("ldtilecfg", tirx.address_of(memory[0]))


def release() -> None:
    """Gives the tiles back, so that a switch of threads need not save them."""
    _instruction("tilerelease")


def zero(tile: int) -> None:
    """Sets a tile to zero.

    Args:
        tile: Its number.
    """
    _instruction("tilezero", _number(tile))


def load(tile: int, element: Expression, stride: int) -> None:
    """Loads a tile.

    Args:
        tile: Its number.
        element: First element of its first row in memory.
        stride: Bytes from row to row.
    """
    _instruction("tileloadd64", _number(tile), tirx.address_of(element), tirx.const(stride, "int64"))


def store(tile: int, element: Expression, stride: int) -> None:
    """Stores a tile.

    Args:
        tile: Its number.
        element: Where its first row goes in memory.
        stride: Bytes from row to row.
    """
    _instruction("tilestored64", _number(tile), tirx.address_of(element), tirx.const(stride, "int64"))


def multiply(sums: int, unsigned: int, signed: int) -> None:
    """Adds products of unsigned and signed bytes, four to a sum.

    Args:
        sums: Tile of int32 sums.
        unsigned: Tile of pixels.
        signed: Tile of weights.
    """
    _instruction("tdpbusd", _number(sums), _number(unsigned), _number(signed))


def multiply_bfloat16(sums: int, left: int, right: int) -> None:
    """Adds products of bfloat16 numbers, two to a sum; denormals count as zeros.

    Args:
        sums: Tile of float32 sums.
        left: Tile of pixels.
        right: Tile of weights.
    """
    _instruction("tdpbf16ps", _number(sums), _number(left), _number(right))


def _number(tile: int) -> Expression:
    return tirx.const(tile, "int8")


def _instruction(name: str, *operands: Expression) -> None:
    build.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *operands))
