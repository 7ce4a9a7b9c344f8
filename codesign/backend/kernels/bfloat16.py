"""Rounding float32 to bfloat16, as the processor's `vcvtne2ps2bf16` does: to nearest even, denormals to zero."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as build

ELEMENT_BYTES = 2
VECTOR = 32
"""Elements that one instruction rounds: two registers of 16 float32 to one of 32 bfloat16."""
HALF_VECTOR = 16
EXPONENT, FRACTION, SIGN = 0x7F80_0000, 0x007F_FFFF, 0x8000_0000
QUIET = 0x0040_0000
"""Bits of a float32; a NaN becomes a quiet one."""

Expression = Any
"""A TIR expression."""
Buffer = Any
"""A TIR buffer."""


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to nearest, ties to even; denormals become zeros of their sign, as in AMX's own products.

    Args:
        values: float32 of any shape.

    Returns:
        The upper half of the rounded numbers' bits, of the same shape.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    exponent, fraction = bits & np.uint32(EXPONENT), bits & np.uint32(FRACTION)
    rounded = np.where(exponent == 0, bits & np.uint32(SIGN), rounded)
    rounded = np.where((exponent == EXPONENT) & (fraction != 0), bits | np.uint32(QUIET), rounded)
    return (rounded >> 16).astype(np.uint16)


def store_rounded(source: Buffer, index: list[Expression], target: Buffer, place: Expression, elements: int) -> None:
    """Writes code that rounds elements next to one another; the last vector may start earlier and round some twice.

    Args:
        source: float32.
        index: Of the first element, which may run over the end of its axis.
        target: Bytes.
        place: Byte of the first rounded element.
        elements: How many, a multiple of 4 and at least 16.
    """
    count, rest = divmod(elements, VECTOR)
    if count:
        with build.serial(0, count) as number:
            _store_vector(source, index, target, place, number * VECTOR, VECTOR)
    if rest > HALF_VECTOR and count:
        _store_vector(source, index, target, place, elements - VECTOR, VECTOR)
        return
    if rest > HALF_VECTOR:
        _store_vector(source, index, target, place, 0, HALF_VECTOR)
    if rest:
        _store_vector(source, index, target, place, elements - HALF_VECTOR, HALF_VECTOR)


def _store_vector(
    source: Buffer, index: list[Expression], target: Buffer, place: Expression, first: Expression, lanes: int
) -> None:
    halves = [_loaded(source, index, first + start) for start in range(0, lanes, HALF_VECTOR)]
    name = "cvtne2ps2bf16" if lanes == VECTOR else "cvtneps2bf16"
    halves.reverse()  # the instruction's first operand becomes the upper half
    rounded = tirx.call_llvm_pure_intrin(f"bfloat16x{lanes}", f"llvm.x86.avx512bf16.{name}.512", *halves)
    size = lanes * ELEMENT_BYTES
    found = tirx.reinterpret(f"uint8x{size}", rounded)
    build.buffer_store(target, found, [tirx.Ramp(place + first * ELEMENT_BYTES, 1, size)])


def _loaded(source: Buffer, index: list[Expression], first: Expression) -> Expression:
    return tirx.BufferLoad(source, [*index[:-1], tirx.Ramp(index[-1] + first, 1, HALF_VECTOR)])
