"""The devices: how many, how they are named and numbered, what joins them and how fast they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.errors import InputError

LARGEST = 1 << 20
"""Most devices of a mesh."""


@dataclass(frozen=True)
class Link:
    """What joins the devices along an axis.

    Attributes:
        latency_s: Seconds to start a message, alpha.
        bandwidth_bytes_per_s: Bytes in a second that one device sends, 1 / beta.
        energy_j_per_byte: Joules for one byte sent.
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    energy_j_per_byte: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise InputError(f"link: latency is {self.latency_s} s, allowed are numbers from 0 up; correct --alpha")
        if not (math.isfinite(self.bandwidth_bytes_per_s) and self.bandwidth_bytes_per_s > 0):
            raise InputError(
                f"link: bandwidth is {self.bandwidth_bytes_per_s} bytes/s, allowed are numbers above 0; "
                "correct --bandwidth"
            )


@dataclass(frozen=True)
class MeshAxis:
    """A named axis of the mesh.

    Attributes:
        name: Such as `data`.
        size: Devices along it.
        link: What joins them.
    """

    name: str
    size: int
    link: Link


@dataclass(frozen=True)
class Mesh:
    """Devices in rows and columns, numbered with the last axis running fastest.

    Attributes:
        axes: The slowest first.
        free: Whether a layer may arrange the devices as any grid of two axes, instead of the axes as they stand.
    """

    axes: tuple[MeshAxis, ...]
    free: bool = False

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        if len(set(names)) < len(names):
            raise InputError(f"mesh: axes {', '.join(names)}: a name occurs twice; give each axis its own")
        for axis in self.axes:
            if axis.size < 1:
                raise InputError(f"mesh: axis {axis.name!r} has {axis.size} devices, allowed are 1 and more")
        if self.devices > LARGEST:
            raise InputError(f"mesh: has {self.devices} devices, allowed are at most {LARGEST}")

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return math.prod(axis.size for axis in self.axes)

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """Ways to arrange the devices; a free mesh has one for each divisor, columns before rows."""
        if not self.free:
            return (tuple(axis.size for axis in self.axes),)
        return tuple((self.devices // rows, rows) for rows in divisors(self.devices))

    @property
    def strides(self) -> tuple[int, ...]:
        """Where a digit of the devices' numbers may begin or end, in ascending order."""
        if self.free:
            return divisors(self.devices)
        ends = [1]
        for axis in reversed(self.axes):
            ends.append(ends[-1] * axis.size)
        return tuple(sorted(set(ends)))

    def link(self, stride: int, parts: int) -> Link:
        """The link of a digit; one that covers several axes is as slow as the slowest (Alpa's flattened view).

        Args:
            stride: Distance between neighbours.
            parts: How many values the digit has.

        Returns:
            Largest latency and energy, least bandwidth.
        """
        end, links = 1, []
        for axis in reversed(self.axes):
            begin, end = end, end * axis.size
            if axis.size > 1 and begin < stride * parts and stride < end:
                links.append(axis.link)
        links = links or [self.axes[-1].link]
        return Link(
            max(link.latency_s for link in links),
            min(link.bandwidth_bytes_per_s for link in links),
            max(link.energy_j_per_byte for link in links),
        )


def divisors(number: int) -> tuple[int, ...]:
    """All divisors of a number, in ascending order.

    Args:
        number: Above 0.

    Returns:
        The divisors.
    """
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return tuple(sorted({*low, *(number // d for d in low)}))


def parse_mesh(text: str, link: Link) -> Mesh:
    """A mesh from text.

    Args:
        text: Such as `data=4,model=8`.
        link: Of every axis.

    Returns:
        The mesh.

    Raises:
        InputError: The text has another form.
    """
    axes = []
    for part in text.split(","):
        name, separator, size = part.strip().partition("=")
        if not separator or not name.isidentifier() or not size.isdecimal() or not 0 < int(size) <= LARGEST:
            raise InputError(f"mesh: got {part!r}, allowed are names with sizes above 0 such as data=4,model=8")
        axes.append(MeshAxis(name, int(size), link))
    return Mesh(tuple(axes))


def grid_of_devices(count: int, link: Link) -> Mesh:
    """Devices that each layer may arrange as it likes.

    Args:
        count: How many.
        link: What joins any two.

    Returns:
        The mesh.

    Raises:
        InputError: There is not even one.
    """
    if count < 1:
        raise InputError(f"devices: got {count}, allowed are 1 and more")
    return Mesh((MeshAxis("devices", count, link),), free=True)


@dataclass(frozen=True)
class Device:
    """How fast one device computes.

    Attributes:
        macs_per_s: Multiply-accumulates in a second, as kernels reach them.
        bandwidth_bytes_per_s: Of its memory.
        dispatch_s: Fixed time of starting an operator.
        memory_bytes: What it can hold.
        power_w: Drawn while it works.
    """

    macs_per_s: float
    bandwidth_bytes_per_s: float
    dispatch_s: float = 0.0
    memory_bytes: float = math.inf
    power_w: float = 0.0

    def seconds(self, macs: float, moved_bytes: float) -> float:
        """Time of one operator: the roofline.

        Args:
            macs: Multiply-accumulates.
            moved_bytes: Read and written.

        Returns:
            `dispatch + max(macs / rate, bytes / bandwidth)`.
        """
        return self.dispatch_s + max(macs / self.macs_per_s, moved_bytes / self.bandwidth_bytes_per_s)


def slowest(devices: Sequence[Device]) -> Device:
    """What equal shares on unequal devices amount to.

    Args:
        devices: At least one.

    Returns:
        A device with the least of all rates and memories, and their mean power.
    """
    return Device(
        min(d.macs_per_s for d in devices),
        min(d.bandwidth_bytes_per_s for d in devices),
        max(d.dispatch_s for d in devices),
        min(d.memory_bytes for d in devices),
        math.fsum(d.power_w for d in devices) / len(devices),
    )
