"""Time of collective operations in the alpha-beta model.

With `p` devices, `n` bytes and a link of latency alpha and time beta per byte:

| collective     | `n`                                  | messages          | bytes on a device's link |
|----------------|--------------------------------------|-------------------|--------------------------|
| all-gather     | of the gathered value                | ceil(log2 p)      | n (p - 1) / p            |
| reduce-scatter | of the value before                  | ceil(log2 p)      | n (p - 1) / p            |
| all-reduce     | of the value                         | 2 ceil(log2 p)    | 2 n (p - 1) / p          |
| all-to-all     | of a device's share                  | p - 1             | n (p - 1) / p            |
| halo           | to one neighbour, both ways at once  | 1                 | n                        |
| point-to-point | of the message                       | 1                 | n                        |

(Thakur, Rabenseifner, Gropp, IJHPCA 2005; Gholami et al., SPAA 2018, section 2.) gloo's reduce-scatter moves as much as
its all-reduce: a backend may state its own factors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from codesign.partition.mesh import Link

Collective = Literal["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "halo", "point-to-point"]
IDEAL: Mapping[Collective, float] = MappingProxyType({})
"""Bytes as in the table."""
GLOO: Mapping[Collective, float] = MappingProxyType({"reduce-scatter": 2.0})
"""Bytes that gloo moves, as a multiple of the table's; measured."""


@dataclass(frozen=True)
class Traffic:
    """What communication takes.

    Attributes:
        seconds: Time.
        bytes: On the link of one device.
        energy_j: Joules of one device.
    """

    seconds: float = 0.0
    bytes: float = 0.0
    energy_j: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.seconds + other.seconds, self.bytes + other.bytes, self.energy_j + other.energy_j)


NOTHING = Traffic()
"""No communication."""


def messages(kind: Collective, parts: int) -> int:
    """Messages that a device sends one after the other.

    Args:
        kind: Which collective.
        parts: Devices that take part.

    Returns:
        As in the table.
    """
    steps = (parts - 1).bit_length()
    match kind:
        case "all-gather" | "reduce-scatter":
            return steps
        case "all-reduce":
            return 2 * steps
        case "all-to-all":
            return parts - 1
        case "halo" | "point-to-point":
            return 1


def share(kind: Collective, parts: int) -> float:
    """Bytes on a device's link for each byte of `n`.

    Args:
        kind: Which collective.
        parts: Devices that take part.

    Returns:
        As in the table.
    """
    match kind:
        case "all-gather" | "reduce-scatter" | "all-to-all":
            return (parts - 1) / parts
        case "all-reduce":
            return 2 * (parts - 1) / parts
        case "halo" | "point-to-point":
            return 1.0


def traffic(
    kind: Collective, parts: int, size_bytes: float, link: Link, factors: Mapping[Collective, float] = IDEAL
) -> Traffic:
    """What one collective takes.

    Args:
        kind: Which.
        parts: Devices that take part; with one device nothing happens.
        size_bytes: `n` of the table.
        link: What joins them.
        factors: What a backend moves beyond the table.

    Returns:
        Time, bytes and energy.
    """
    if parts == 1 or size_bytes == 0:
        return Traffic()
    moved = share(kind, parts) * size_bytes * factors.get(kind, 1.0)
    seconds = messages(kind, parts) * link.latency_s + moved / link.bandwidth_bytes_per_s
    assert math.isfinite(seconds)
    return Traffic(seconds, moved, moved * link.energy_j_per_byte)
