"""How a compiled network stores its activations."""

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING

from codesign.backend.operations import Tensor

if TYPE_CHECKING:
    from tvm import relax


class Layout(Enum):
    """Order of a tensor's elements."""

    PLAIN = "plain"
    """As in the graph."""
    IMAGE = "image"
    """`[1, C, H, W]` by pixel, `[1, H, W, C']`."""
    ROWS = "rows"
    """Rows of the last axis, each padded to C' elements."""


@dataclass(frozen=True)
class Stored:
    """A tensor in some layout.

    Attributes:
        value: The Relax value.
        channels: C', 0 for `PLAIN`.
    """

    value: "relax.Expr"
    channels: int = 0


def image_size(tensor: Tensor) -> tuple[int, int, int]:
    """Channels, height and width.

    Args:
        tensor: An image `[1, C, H, W]`, or `[1, C]` for one pixel.

    Returns:
        C, H, W.
    """
    channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
    return channels, height, width


def row_count(tensor: Tensor) -> int:
    """Rows of the last axis.

    Args:
        tensor: Any tensor.

    Returns:
        Product of all other axes.
    """
    return prod(tensor.shape[:-1])
