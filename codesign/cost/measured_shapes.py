"""Kernels of networks at hand: how far a fit is from what was measured of the very same shape.

A calibration with `--model` measured the layers of that network themselves, each shape at some widths. There, the
fitted time is multiplied by measured / fitted; at other widths of the shape by the geometric mean of its factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, fsum, log

from codesign.cost.table import Workload, workload_of
from codesign.files import digest_of
from codesign.hardware.calibration import MeasuredShape
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import Widths

ANY_WIDTHS = Widths(0, 0)
"""Stands for all widths in the name of a shape."""


def shape_of(node: NodeFacts) -> str:
    """Names what a kernel computes, whatever the widths.

    Args:
        node: Its first node, which knows what is merged into it.

    Returns:
        A digest.
    """
    return _digest(workload_of(node, ANY_WIDTHS))


@lru_cache(maxsize=65_536)
def _digest(workload: Workload) -> str:
    return digest_of(repr(workload))[:12]


@dataclass(frozen=True)
class ShapeFactors:
    """Factors by shape and widths.

    Attributes:
        by_shape: Natural logarithm of measured / fitted by widths, for each shape.
    """

    by_shape: Mapping[str, Mapping[Widths, float]]

    @classmethod
    def of(cls, shapes: Sequence[MeasuredShape]) -> "ShapeFactors":
        """Sorts what a profile holds.

        Args:
            shapes: The measured shapes.

        Returns:
            The factors.
        """
        found: dict[str, dict[Widths, float]] = {}
        for row in shapes:
            found.setdefault(row.shape, {})[Widths(row.weight_bits, row.activation_bits)] = log(row.factor)
        return cls(found)

    def factor(self, node: NodeFacts, bits: Widths) -> float:
        """What the fitted time of a kernel is multiplied by.

        Args:
            node: Its first node.
            bits: Its widths.

        Returns:
            1 for a shape that was never measured in this arithmetic.
        """
        known = self.by_shape.get(shape_of(node), {}) if self.by_shape else {}
        if bits in known:
            return exp(known[bits])
        alike = [value for widths, value in known.items() if widths.activation == bits.activation]
        return exp(fsum(alike) / len(alike)) if alike else 1.0
