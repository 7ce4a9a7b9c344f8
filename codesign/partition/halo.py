"""Border rows from neighbours, so that windows near the edge of a piece see all that they need; differentiable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codesign.partition.communicator import Communicator
from codesign.partition.network import Loop
from codesign.partition.strategies import Strategy

Interval = tuple[int, int]
"""First index, and the one after the last."""


@dataclass(frozen=True)
class HaloPlan:
    """Who owns and who needs which rows; the same on all devices that share an image.

    Attributes:
        axis: Tensor axis.
        devices: Their numbers, by piece.
        own: Rows that each has.
        want: Rows that each needs, within the image.
        pads: Rows of padding that each adds before and after.
        index: Which piece this device has.
        tag: Of the messages.
    """

    axis: int
    devices: tuple[int, ...]
    own: tuple[Interval, ...]
    want: tuple[Interval, ...]
    pads: tuple[tuple[int, int], ...]
    index: int
    tag: int

    def messages(self, sender: int) -> tuple[tuple[int, Interval], ...]:
        """What a piece gives to others.

        Args:
            sender: Which piece.

        Returns:
            Receiving piece and rows, in ascending order.
        """
        pairs = ((piece, _common(self.own[sender], self.want[piece])) for piece in range(len(self.own)))
        return tuple((piece, rows) for piece, rows in pairs if rows is not None and piece != sender)

    def sources(self) -> tuple[tuple[int, Interval], ...]:
        """What this device's piece takes from others: sending piece and rows, in ascending order."""
        pairs = ((piece, _common(self.own[piece], self.want[self.index])) for piece in range(len(self.own)))
        return tuple((piece, rows) for piece, rows in pairs if rows is not None and piece != self.index)


def halo_plan(loop: Loop, item: Strategy, rank: int, tag: int) -> HaloPlan:
    """Plans the exchange for one spatial loop.

    Args:
        loop: With a window.
        item: How the operator is shared out.
        rank: Number of this device.
        tag: Of the messages.

    Returns:
        The plan.
    """
    window = loop.window
    assert window is not None
    assert loop.operands[0] is not None
    parts = item.parts_of(loop.name)
    devices, index = _devices(item, loop.name, rank)
    own, want, pads = [], [], []
    for piece in range(parts):
        own.append((piece * window.inputs // parts, (piece + 1) * window.inputs // parts))
        first, end = window.needs(piece * window.outputs // parts, (piece + 1) * window.outputs // parts)
        want.append((max(first, 0), min(end, window.inputs)))
        pads.append((max(-first, 0), max(end - window.inputs, 0)))
    return HaloPlan(loop.operands[0], devices, tuple(own), tuple(want), tuple(pads), index, tag)


def _devices(item: Strategy, name: str, rank: int) -> tuple[tuple[int, ...], int]:
    """Numbers of the devices that differ in one loop only, by piece, and which of them this is."""
    found, own, stride, weight = [0], 0, 1, 1
    for parts, loop in zip(reversed(item.parts), reversed(item.loops), strict=True):
        digit = rank // stride % parts
        if loop == name:
            found = [number + value * stride for value in range(parts) for number in found]
            own += digit * weight
            weight *= parts
        else:
            found = [number + digit * stride for number in found]
        stride *= parts
    return tuple(found), own


def with_halo(x: Tensor, plan: HaloPlan, communicator: Communicator) -> Tensor:
    """The rows that this device needs.

    Args:
        x: The rows that it owns.
        plan: Of the exchange.
        communicator: Of this process.

    Returns:
        Rows `plan.want` of it.
    """
    found: Tensor = _Halo.apply(x, plan, communicator)  # type: ignore[no-untyped-call]  # torch's
    return found


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: HaloPlan, communicator: Communicator) -> Tensor:  # noqa: ANN401 # torch's
        ctx.plan, ctx.communicator, ctx.shape = plan, communicator, x.shape
        own, want = plan.own[plan.index], plan.want[plan.index]
        y = x.new_empty(_with_size(x.shape, plan.axis, want[1] - want[0]))
        sends = [
            (plan.devices[piece], _rows(x, plan.axis, own, rows).contiguous())
            for piece, rows in plan.messages(plan.index)
        ]
        sources = plan.sources()
        receives = [x.new_empty(_with_size(x.shape, plan.axis, rows[1] - rows[0])) for _, rows in sources]
        devices = [plan.devices[piece] for piece, _ in sources]
        communicator.exchange(sends, list(zip(devices, receives, strict=True)), plan.tag)
        inner = _common(own, want)
        if inner is not None:
            _rows(y, plan.axis, want, inner).copy_(_rows(x, plan.axis, own, inner))
        for (_, rows), received in zip(sources, receives, strict=True):
            _rows(y, plan.axis, want, rows).copy_(received)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        """The same pieces go back and are added where they came from."""
        plan, shape = ctx.plan, ctx.shape
        own, want = plan.own[plan.index], plan.want[plan.index]
        x = gradient.new_zeros(shape)
        sends = [
            (plan.devices[piece], _rows(gradient, plan.axis, want, rows).contiguous()) for piece, rows in plan.sources()
        ]
        lent = plan.messages(plan.index)
        receives = [gradient.new_empty(_with_size(shape, plan.axis, rows[1] - rows[0])) for _, rows in lent]
        devices = [plan.devices[piece] for piece, _ in lent]
        ctx.communicator.exchange(sends, list(zip(devices, receives, strict=True)), plan.tag + 1)
        inner = _common(own, want)
        if inner is not None:
            _rows(x, plan.axis, own, inner).add_(_rows(gradient, plan.axis, want, inner))
        for (_, rows), received in zip(lent, receives, strict=True):
            _rows(x, plan.axis, own, rows).add_(received)
        return x, None, None


def _common(a: Interval, b: Interval) -> Interval | None:
    first, end = max(a[0], b[0]), min(a[1], b[1])
    return (first, end) if first < end else None


def _rows(x: Tensor, axis: int, held: Interval, rows: Interval) -> Tensor:
    return x.narrow(axis, rows[0] - held[0], rows[1] - rows[0])


def _with_size(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])
