"""Collectives among the devices that differ in one digit of their numbers, counted.

Everything works on plain local tensors; process groups come from DeviceMesh. Uneven pieces are padded to the largest.
What is counted, for each kind: calls, and bytes as the cost model's `n` (`collectives.py`) with padding.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from codesign.partition.collectives import Collective


@dataclass
class Count:
    """What a process has sent and gathered.

    Attributes:
        calls: By kind; of halos, messages sent.
        bytes: By kind.
    """

    calls: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def add(self, kind: Collective, size_bytes: int) -> None:
        """Counts one call.

        Args:
            kind: Which.
            size_bytes: Its bytes.
        """
        self.calls[kind] += 1
        self.bytes[kind] += size_bytes

    def to_json(self) -> dict[str, dict[str, int]]:
        """As JSON values."""
        return {kind: {"calls": self.calls[kind], "bytes": self.bytes[kind]} for kind in sorted(self.calls)}


@dataclass(frozen=True)
class Digit:
    """Devices that take part together.

    Attributes:
        stride: Distance between neighbours.
        parts: How many.
    """

    stride: int
    parts: int


class Communicator:
    """The collectives of one process; all processes make the same digits in the same order.

    Args:
        devices: How many processes there are.
        rank: The number of this one.
        kind: `cpu` or `cuda`.

    Attributes:
        rank: The number of this process.
        count: What it has done.
    """

    def __init__(self, devices: int, rank: int, kind: str = "cpu") -> None:
        self.rank = rank
        self.count = Count()
        self._devices = devices
        self._kind = kind
        self._groups: dict[Digit, dist.ProcessGroup] = {}

    def prepare(self, digits: Sequence[Digit]) -> None:
        """Makes process groups.

        Args:
            digits: Which will be used.
        """
        for digit in sorted(set(digits), key=lambda d: (d.stride, d.parts)):
            shape = (self._devices // (digit.stride * digit.parts), digit.parts, digit.stride)
            mesh = DeviceMesh(self._kind, torch.arange(self._devices).reshape(shape), mesh_dim_names=("a", "b", "c"))
            self._groups[digit] = mesh.get_group("b")

    def all_reduce(self, digit: Digit, x: Tensor) -> Tensor:
        """The sum over devices.

        Args:
            digit: Which devices.
            x: A part of the sum.

        Returns:
            The sum.
        """
        x = x.clone(memory_format=torch.contiguous_format)
        self.count.add("all-reduce", x.numel() * x.element_size())
        dist.all_reduce(x, group=self._groups[digit])
        return x

    def all_gather(self, digit: Digit, x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
        """Joins pieces.

        Args:
            digit: Which devices.
            x: The own piece.
            axis: Along which the pieces lie.
            sizes: Of all pieces along it.

        Returns:
            The whole.
        """
        piece = _padded(x.movedim(axis, 0), max(sizes))
        whole = piece.new_empty((len(sizes) * max(sizes), *piece.shape[1:]))
        self.count.add("all-gather", whole.numel() * whole.element_size())
        dist.all_gather_single(whole, piece, group=self._groups[digit])
        pieces = [block[:size] for block, size in zip(torch.split(whole, max(sizes)), sizes, strict=True)]
        return torch.cat(pieces).movedim(0, axis).contiguous()

    def reduce_scatter(self, digit: Digit, x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
        """One piece of the sum over devices.

        Args:
            digit: Which devices.
            x: A part of the sum.
            axis: Along which the pieces lie.
            sizes: Of all pieces along it.

        Returns:
            The own piece.
        """
        blocks = [_padded(block, max(sizes)) for block in torch.split(x.movedim(axis, 0), list(sizes))]
        whole = torch.cat(blocks)
        own = whole.new_empty((max(sizes), *whole.shape[1:]))
        self.count.add("reduce-scatter", whole.numel() * whole.element_size())
        dist.reduce_scatter_single(own, whole, group=self._groups[digit])
        return own[: sizes[self.index(digit)]].movedim(0, axis).contiguous()

    def all_to_all(
        self, digit: Digit, x: Tensor, cut: int, cut_sizes: Sequence[int], joined: int, joined_sizes: Sequence[int]
    ) -> Tensor:
        """Splits along one axis instead of another.

        Args:
            digit: Which devices.
            x: Whole along `cut`, the own piece along `joined`.
            cut: Axis that is split from now on.
            cut_sizes: Of all pieces along it.
            joined: Axis that is whole from now on.
            joined_sizes: Of all pieces along it.

        Returns:
            The own piece along `cut`, whole along `joined`.
        """
        rows, columns = max(cut_sizes), max(joined_sizes)
        blocks = []
        for block in torch.split(x, list(cut_sizes), cut):
            turned = _padded(block.movedim((cut, joined), (0, 1)), rows)
            blocks.append(_padded(turned.transpose(0, 1), columns).transpose(0, 1))
        sent = torch.stack(blocks).contiguous()
        received = torch.empty_like(sent)
        self.count.add("all-to-all", sent.numel() * sent.element_size())
        dist.all_to_all_single(received, sent, group=self._groups[digit])
        own = cut_sizes[self.index(digit)]
        pieces = [block[:own, :size] for block, size in zip(received, joined_sizes, strict=True)]
        return torch.cat(pieces, 1).movedim((0, 1), (cut, joined)).contiguous()

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]], tag: int) -> None:
        """Messages between single devices, all at once.

        Args:
            sends: Device and message.
            receives: Device and where its message goes.
            tag: Of these messages; neighbours may exchange several kinds.
        """
        for _, message in sends:
            self.count.add("halo", message.numel() * message.element_size())
        work = [dist.irecv(where, device, tag=tag) for device, where in receives]
        work += [dist.isend(message, device, tag=tag) for device, message in sends]
        for item in work:
            if item is not None:
                item.wait()

    def index(self, digit: Digit) -> int:
        """This device's value of a digit.

        Args:
            digit: Which.

        Returns:
            From 0 up.
        """
        return self.rank // digit.stride % digit.parts


def _padded(x: Tensor, size: int) -> Tensor:
    """Zeros behind along the first axis, up to a size."""
    if len(x) == size:
        return x.contiguous()
    return torch.cat([x, x.new_zeros((size - len(x), *x.shape[1:]))])
