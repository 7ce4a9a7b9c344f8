"""Bytes of one element at one level of the memory hierarchy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.cost.layer_table import Array
from codesign.hardware.profile import MemoryLevel

BYTE_BITS = 8


@dataclass(frozen=True)
class ElementBytes:
    """Bytes of each kind of element, for several pairs of widths.

    Attributes:
        weight: One weight, `[pairs]`.
        activation: One input or output, `[pairs]`.
        partial_sum: One accumulator.
    """

    weight: Array
    activation: Array
    partial_sum: float

    @classmethod
    def at(cls, level: MemoryLevel, bits: Sequence[tuple[int, int]], accumulator_bits: int) -> "ElementBytes":
        """Bytes at a level that packs values or gives each whole bytes.

        Args:
            level: The level.
            bits: Pairs of widths of weight and activation.
            accumulator_bits: Width of a partial sum.

        Returns:
            The bytes.
        """
        widths = np.asarray([*bits, (accumulator_bits, accumulator_bits)], np.float64)
        if level.storage == "bytes":
            widths = BYTE_BITS * np.ceil(widths / BYTE_BITS)
        sizes = widths / BYTE_BITS
        return cls(sizes[:-1, 0], sizes[:-1, 1], float(sizes[-1, 0]))
