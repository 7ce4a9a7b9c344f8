"""How many collectives of which size each device takes part in, from the plan alone."""

import math
from collections.abc import Sequence

from codesign.partition.collectives import Collective
from codesign.partition.communicator import Count
from codesign.partition.executor import halos_of
from codesign.partition.halo import HaloPlan
from codesign.partition.network import Network, Operator
from codesign.partition.placement import Layout
from codesign.partition.plan_file import ExecutionPlan, OperatorPlacement
from codesign.partition.resharding import Move, moves_along


def planned_traffic(
    network: Network, plan: ExecutionPlan, device: int, element_bytes: int, training: bool, input_gradient: bool = False
) -> Count:
    """Calls and bytes of one step on one device.

    Args:
        network: The network.
        plan: Its plan.
        device: Number of the device.
        element_bytes: Bytes of one number.
        training: Whether gradients come back.
        input_gradient: Whether the input's gradient is computed too.

    Returns:
        By kind of collective.
    """
    count = Count()
    learns = _values_with_gradient(network, input_gradient) if training else frozenset()
    for position, (op, placed) in enumerate(zip(network.operators, plan.operators, strict=True)):
        for operand, path in zip(op.operands, placed.operands, strict=True):
            if operand.role != "constant" and (operand.value != network.source or input_gradient):
                _add_path(count, path, operand.shape, device, element_bytes, operand.value in learns)
        _add_halos(count, op, placed, device, position, element_bytes, op.operands[0].value in learns)
        for result in op.results:
            _add_path(count, placed.exit, result.shape, device, element_bytes, result.value in learns)
    return count


def _values_with_gradient(network: Network, input_gradient: bool) -> frozenset[str]:
    found = {network.source} if input_gradient else set()
    for op in network.operators:
        found |= {x.value for x in op.operands if x.role == "parameter"}
        if any(x.value in found for x in op.operands):
            found |= {y.value for y in op.results}
    return frozenset(found)


def _add_path(
    count: Count, path: Sequence[Layout], shape: Sequence[int], device: int, element_bytes: int, learns: bool
) -> None:
    for move in moves_along(path):
        for kind in move.collectives[: 2 if learns else 1]:
            if kind is not None:
                count.add(kind, _padded_elements(move, kind, shape, device) * element_bytes)


def _padded_elements(move: Move, kind: Collective, shape: Sequence[int], device: int) -> int:
    """Elements of the collective's whole value, each piece as large as the largest."""
    before, after = (held.local_shape(shape, device) for held in (move.before, move.after))
    if kind == "all-reduce":
        return math.prod(before)
    split = {axis for axis in range(len(shape)) if before[axis] != after[axis] or _differs(move, axis)}
    kept = math.prod(size for axis, size in enumerate(before) if axis not in split)
    largest = [_largest_piece(move, axis, shape, device) for axis in split]
    return kept * move.parts * math.prod(largest)


def _differs(move: Move, axis: int) -> bool:
    return move.before.parts_of(axis) != move.after.parts_of(axis)


def _largest_piece(move: Move, axis: int, shape: Sequence[int], device: int) -> int:
    finer = max(move.before, move.after, key=lambda held: held.parts_of(axis))
    base = device - device // move.stride % move.parts * move.stride
    intervals = [finer.interval(axis, shape[axis], base + i * move.stride) for i in range(move.parts)]
    return max(end - first for first, end in intervals)


def _add_halos(
    count: Count,
    op: Operator,
    placed: OperatorPlacement,
    device: int,
    position: int,
    element_bytes: int,
    learns: bool,
) -> None:
    halos = halos_of(op, placed.strategy, device, position)
    if not halos:
        return
    local = list(placed.strategy.operand_layout(op, 0).local_shape(op.operands[0].shape, device))
    for halo in halos:
        row = math.prod(local) // local[halo.axis]
        for _, rows in halo.messages(halo.index):
            count.add("halo", (rows[1] - rows[0]) * row * element_bytes)
        for _, rows in halo.sources() if learns else ():
            count.add("halo", (rows[1] - rows[0]) * row * element_bytes)
        local[halo.axis] = _wanted(halo)


def _wanted(halo: HaloPlan) -> int:
    first, end = halo.want[halo.index]
    return end - first
