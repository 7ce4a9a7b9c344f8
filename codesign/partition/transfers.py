"""Changes of layout as differentiable functions of local tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codesign.partition.collectives import Collective
from codesign.partition.communicator import Communicator, Digit
from codesign.partition.placement import Layout, Shard
from codesign.partition.resharding import Move, moves_along


@dataclass(frozen=True)
class Pieces:
    """How an axis is split over a digit.

    Attributes:
        axis: Tensor axis.
        sizes: Of all pieces, of the devices that differ in the digit only.
        index: Which one this device has.
    """

    axis: int
    sizes: tuple[int, ...]
    index: int

    def cut(self, x: Tensor) -> Tensor:
        """The own piece.

        Args:
            x: Whole along the axis.

        Returns:
            The piece.
        """
        return x.narrow(self.axis, sum(self.sizes[: self.index]), self.sizes[self.index]).contiguous()


@dataclass(frozen=True)
class LocalMove:
    """A move as one device carries it out.

    Attributes:
        digit: Devices that take part.
        forward: Collective for the value; None to cut out the own piece, or to do nothing.
        backward: Likewise for the gradient.
        before: How it is split before; None where it is not.
        after: How it is split after; None where it is not.
    """

    digit: Digit
    forward: Collective | None
    backward: Collective | None
    before: Pieces | None
    after: Pieces | None


def local_moves(path: Sequence[Layout], shape: Sequence[int], rank: int) -> tuple[LocalMove, ...]:
    """The moves along a path.

    Args:
        path: Layouts, one collective apart.
        shape: Of the whole value.
        rank: Number of the device.

    Returns:
        What it does, in order.
    """
    return tuple(_local(move, shape, rank) for move in moves_along(path))


def _local(move: Move, shape: Sequence[int], rank: int) -> LocalMove:
    forward, backward = move.collectives
    digit = Digit(move.stride, move.parts)
    return LocalMove(
        digit,
        forward,
        backward,
        _pieces(move.before, move.old.value, digit, shape, rank),
        _pieces(move.after, move.new.value, digit, shape, rank),
    )


def _pieces(held: Layout, placement: object, digit: Digit, shape: Sequence[int], rank: int) -> Pieces | None:
    if not isinstance(placement, Shard):
        return None
    index = rank // digit.stride % digit.parts
    base = rank - index * digit.stride
    intervals = [
        held.interval(placement.axis, shape[placement.axis], base + i * digit.stride) for i in range(digit.parts)
    ]
    return Pieces(placement.axis, tuple(end - first for first, end in intervals), index)


def moved(x: Tensor, moves: Sequence[LocalMove], communicator: Communicator) -> Tensor:
    """Brings a value into another layout; its gradient comes back the same way.

    Args:
        x: What this device holds.
        moves: From `local_moves`.
        communicator: Of this process.

    Returns:
        What it holds then.
    """
    for move in moves:
        x = _Transfer.apply(x, move, communicator)  # type: ignore[no-untyped-call]  # torch's
    return x


class _Transfer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: LocalMove, communicator: Communicator) -> Tensor:  # noqa: ANN401 # torch's
        ctx.move, ctx.communicator = move, communicator
        return _carried_out(x, move.forward, move.digit, move.before, move.after, communicator)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        move = ctx.move
        found = _carried_out(gradient, move.backward, move.digit, move.after, move.before, ctx.communicator)
        return found, None, None


def _carried_out(
    x: Tensor,
    kind: Collective | None,
    digit: Digit,
    before: Pieces | None,
    after: Pieces | None,
    communicator: Communicator,
) -> Tensor:
    match kind:
        case "all-reduce":
            return communicator.all_reduce(digit, x)
        case "all-gather":
            assert before is not None
            return communicator.all_gather(digit, x, before.axis, before.sizes)
        case "reduce-scatter":
            assert after is not None
            return communicator.reduce_scatter(digit, x, after.axis, after.sizes)
        case "all-to-all":
            assert before is not None
            assert after is not None
            return communicator.all_to_all(digit, x, after.axis, after.sizes, before.axis, before.sizes)
        case _:
            return x.view_as(x) if after is None else after.cut(x)
