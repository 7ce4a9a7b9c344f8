"""Weights as kernels read them: blocks of 16 output channels, and below 8 bits as planes of 4, 2 and 1 bits.

A weight of b bits is stored as v + 2^(b-1), split from its lowest bit into planes of widths 4, 2, 1 (3 = 2 + 1,
5 = 4 + 1, 6 = 4 + 2). A block of L weights holds its planes one after the other; in a plane of width p, byte i holds
the digits of weights i, i + n, i + 2n ... (n = L p / 8 bytes, lowest digit first), so that one shift and one mask of
the whole plane yield n neighbouring weights. That is exactly b bits for each weight, blocks padded with zeros.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Output channels computed side by side: one 512-bit register of float32 or int32."""

INNER = 4
"""Input channels that one VNNI instruction consumes in each lane."""

PLANES: dict[int, tuple[int, ...]] = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2)}
"""Widths of the planes that make up a weight of each width below 8, lowest digits first."""


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below `size`.

    Args:
        size: A size.
        multiple: What the result must divide by.

    Returns:
        The padded size.
    """
    return -(-size // multiple) * multiple


def block_weights(weight: NDArray[Any], inner: int) -> NDArray[Any]:
    """Orders `[C_out, C_in / groups, KH, KW]` as `[C_out/16, KH, KW, C_in/inner, 16, inner]`, padded with zeros.

    Args:
        weight: The weight.
        inner: Input channels next to one another; 4 for VNNI, 1 otherwise.

    Returns:
        A contiguous array.
    """
    co, ci, kh, kw = weight.shape
    padded = np.zeros((round_up(co, LANES), round_up(ci, inner), kh, kw), weight.dtype)
    padded[:co, :ci] = weight
    split = padded.reshape(-1, LANES, padded.shape[1] // inner, inner, kh, kw)
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3))


def pack_planes(blocks: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Packs blocks of weights below 8 bits.

    Args:
        blocks: `[..., L]`, L a multiple of 16, values in [-2^(bits-1), 2^(bits-1)).
        bits: Width, a key of `PLANES`.

    Returns:
        `[..., L * bits / 8]`.

    Raises:
        ValueError: A value does not fit.
    """
    stored = blocks.astype(np.int16) + (1 << (bits - 1))
    if stored.min(initial=0) < 0 or stored.max(initial=0) >= 1 << bits:
        raise ValueError(f"weights do not fit {bits} bits")
    lanes = blocks.shape[-1]
    position, planes = 0, []
    for width in PLANES[bits]:
        digits = (stored >> position) & ((1 << width) - 1)
        digits = digits.reshape(*blocks.shape[:-1], 8 // width, lanes * width // 8)
        shifts = (np.arange(8 // width) * width)[:, None]
        planes.append((digits << shifts).sum(axis=-2).astype(np.uint8))
        position += width
    return np.concatenate(planes, axis=-1)


def unpack_planes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """The inverse of `pack_planes`.

    Args:
        packed: `[..., L * bits / 8]`.
        bits: Width.

    Returns:
        `[..., L]`.
    """
    lanes = packed.shape[-1] * 8 // bits
    stored = np.zeros((*packed.shape[:-1], lanes), np.int16)
    position = first = 0
    for width in PLANES[bits]:
        count = lanes * width // 8
        plane = packed[..., None, first : first + count].astype(np.int16)
        digits = (plane >> (np.arange(8 // width) * width)[:, None]) & ((1 << width) - 1)
        stored |= digits.reshape(*packed.shape[:-1], lanes) << position
        position, first = position + width, first + count
    return (stored - (1 << (bits - 1))).astype(np.int8)


def packed_steps(steps: int, bits: int) -> int:
    """Steps of a sum whose weights are packed together, so that one shift and mask yields as much of one as can be.

    Args:
        steps: Steps of the sum.
        bits: Width of the weights, below 8.

    Returns:
        A power of two that divides the steps.
    """
    together = 8 // min(PLANES[bits])
    while steps % together:
        together //= 2
    return together


def neighbours(lanes: int, bits: int) -> int:
    """Weights next to one another that one shift and mask of every plane yields.

    Args:
        lanes: Weights in a block.
        bits: Width.

    Returns:
        Bytes of the narrowest plane; 0 at 8 bits, where nothing is packed.
    """
    return 0 if bits == 8 else lanes * min(PLANES[bits]) // 8
