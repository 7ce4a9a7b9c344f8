"""Ways to share an operator out among devices, and what each takes.

A strategy names, for each digit of the devices' numbers, the loop that the digit shares out. Its layouts follow from
the loops (`network.py`), and with them all communication: halos, sums of weight gradients, changes of layout between
operators. The formulas of Gholami et al. (SPAA 2018) are what these rules give for `batch`, `out` and `height`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from codesign.partition.collectives import Traffic, traffic
from codesign.partition.mesh import Device, Mesh
from codesign.partition.network import Loop, Operand, Operator
from codesign.partition.objective import Objective, Price
from codesign.partition.placement import COPIES, PARTS, WHOLE, Layout, Run, layout, split
from codesign.partition.resharding import LayoutSpace

SPATIAL = frozenset({"height", "width"})


@dataclass(frozen=True)
class Strategy:
    """How one operator is shared out.

    Attributes:
        parts: Digits of the devices' numbers, the most significant first; all above 1, neighbours with other loops.
        loops: The loop that each digit shares out, None where all devices do the same.
    """

    parts: tuple[int, ...]
    loops: tuple[str | None, ...]

    def __str__(self) -> str:
        return (
            " ".join(f"{loop or 'same'}x{parts}" for parts, loop in zip(self.parts, self.loops, strict=True)) or "one"
        )

    def parts_of(self, loop: str) -> int:
        """Into how many pieces a loop is split.

        Args:
            loop: Its name.

        Returns:
            1 if it is whole.
        """
        return math.prod(p for p, name in zip(self.parts, self.loops, strict=True) if name == loop)

    def operand_layout(self, op: Operator, operand: int) -> Layout:
        """The layout in which an operand is read.

        Args:
            op: The operator.
            operand: Which.

        Returns:
            Its layout.
        """
        runs = []
        for parts, name in zip(self.parts, self.loops, strict=True):
            axis = None if name is None else op.loop_of[name].operands[operand]
            holding = WHOLE if name is None else COPIES if axis is None else split(axis)
            runs.append(Run(parts, holding))
        return layout(runs)

    def result_layout(self, op: Operator) -> Layout:
        """The layout that the results come in.

        Args:
            op: The operator.

        Returns:
            Their layout.
        """
        runs = []
        for parts, name in zip(self.parts, self.loops, strict=True):
            axis = None if name is None else op.loop_of[name].result
            runs.append(Run(parts, WHOLE if name is None else PARTS if axis is None else split(axis)))
        return layout(runs)

    def interface(self, op: Operator) -> Layout:
        """The layout that a layer counted by itself takes and gives: split by samples and in space, else whole.

        Args:
            op: The operator.

        Returns:
            The layout of its first operand's and its result's batch and spatial axes.
        """
        axes = {name: op.loop_of[name].operands[0] for name in self.loops if name == "batch" or name in SPATIAL}
        runs = [
            Run(parts, WHOLE if name is None or axes.get(name) is None else split(axes[name] or 0))
            for parts, name in zip(self.parts, self.loops, strict=True)
        ]
        return layout(runs)


def strategy(parts: Sequence[int], loops: Sequence[str | None]) -> Strategy:
    """The strategy with given digits, in its only form.

    Args:
        parts: Of each digit.
        loops: What each digit shares out.

    Returns:
        The strategy, without digits of one part, neighbours with the same loop merged.
    """
    kept: list[tuple[int, str | None]] = []
    for count, loop in zip(parts, loops, strict=True):
        if count == 1:
            continue
        if kept and kept[-1][1] == loop:
            kept[-1] = (kept[-1][0] * count, loop)
        else:
            kept.append((count, loop))
    return Strategy(tuple(count for count, _ in kept), tuple(loop for _, loop in kept))


def strategies_of(op: Operator, mesh: Mesh, idle: bool, *, alike: bool = False) -> tuple[Strategy, ...]:
    """All legal ways to share an operator out.

    Args:
        op: The operator.
        mesh: The devices.
        idle: Whether channels may be fewer than devices, so that some of these have nothing to do.
        alike: Whether devices may all do the same of an operator with a weight: nothing has to travel then, which is
            fastest where links are slow.

    Returns:
        At least one; unless `alike`, an operator with a weight is shared among all devices if any way does so.
    """
    found: dict[Strategy, None] = {}
    for grid in mesh.grids:
        for loops in product([*op.loop_of, None], repeat=len(grid)):
            item = strategy(grid, loops)
            if is_legal(op, item, idle):
                found[item] = None
    shared = tuple(item for item in found if None not in item.loops)
    return shared if op.is_weighted and shared and not alike else tuple(found)


def is_legal(op: Operator, item: Strategy, idle: bool) -> bool:
    """Whether every device has its piece of every loop.

    Args:
        op: The operator.
        item: The strategy.
        idle: Whether channels may be fewer than devices.

    Returns:
        False if a loop is too short, does not divide where it must, a halo would reach beyond the neighbour, or two
        loops split one axis of the results (groups, and channels of groups).
    """
    axes = [op.loop_of[name].result for name in set(item.loops) if name]
    split = [axis for axis in axes if axis is not None]
    if len(set(split)) < len(split):
        return False
    return all(_is_divisible(op.loop_of[name], item.parts_of(name), idle) for name in set(item.loops) if name)


def _is_divisible(loop: Loop, parts: int, idle: bool) -> bool:
    if loop.aligned:
        return loop.size % parts == 0
    if loop.size < parts:
        return idle and loop.name in {"out", "in"}
    window = loop.window
    return window is None or window.rows_from_neighbour(parts) <= min(window.inputs, window.outputs) // parts


@dataclass(frozen=True)
class Pricing:
    """What prices depend on beside the network.

    Attributes:
        mesh: The devices.
        training: Whether gradients are computed.
        objective: What a plan shall have least of.
        element_bytes: Bytes of one number that is sent.
        device: How fast each device computes; None where only communication counts.
        halo_of_gradient: Whether backward the halo of the result's gradient travels, as in the paper, instead of the
            gradient of the operand's halo, as the executor sends it; equal for windows that keep size and channels.
        overlap: Whether a halo travels while the interior is computed.
        idle: Whether channels may be fewer than devices, so that some of these have nothing to do.
    """

    mesh: Mesh
    training: bool
    objective: Objective
    element_bytes: float = 4.0
    device: Device | None = None
    halo_of_gradient: bool = False
    overlap: bool = False
    idle: bool = False

    @cached_property
    def spaces(self) -> dict[int, LayoutSpace]:
        """Layouts by rank; filled on demand by `space`."""
        return {}

    def space(self, rank: int) -> LayoutSpace:
        """All layouts of values of a rank.

        Args:
            rank: Number of axes.

        Returns:
            The layouts.
        """
        if rank not in self.spaces:
            self.spaces[rank] = LayoutSpace(self.mesh, rank, self.training, self.objective, self.idle)
        return self.spaces[rank]

    def seen(self, item: Layout) -> Layout:
        """A layout as it counts here: without gradients, a copy is a copy.

        Args:
            item: The layout.

        Returns:
            The layout, or the one without gradients.
        """
        if self.training:
            return item
        return layout([Run(run.parts, WHOLE if run.holding == COPIES else run.holding) for run in item.runs])


def own_price(op: Operator, item: Strategy, pricing: Pricing, element_bytes: float | None = None) -> Price:
    """What an operator takes by itself: computing, halos, and sums of its parameters' gradients.

    Args:
        op: The operator.
        item: How it is shared out.
        pricing: Devices and units.
        element_bytes: Bytes of a number of its first operand, where other than usual.

    Returns:
        The price.
    """
    halo = _halos(op, item, pricing, element_bytes or pricing.element_bytes)
    compute_s = _compute_s(op, item, pricing)
    hidden = min(halo.seconds, compute_s) if pricing.overlap else 0.0
    total = Traffic(halo.seconds - hidden, halo.bytes, halo.energy_j)
    for operand, parameter in enumerate(op.operands):
        if parameter.role == "parameter" and pricing.training:
            total += _gradient_sum(parameter, item.operand_layout(op, operand), pricing)
    power = 0.0 if pricing.device is None else pricing.device.power_w
    return Price(total, compute_s, compute_s * power, _memory(op, item, pricing))


def _gradient_sum(parameter: Operand, held: Layout, pricing: Pricing) -> Traffic:
    """All-reduce of a parameter's gradient over the digits on which devices have copies of it."""
    total, stride = Traffic(), 1
    for run in reversed(held.runs):
        if run.holding == COPIES:
            size = parameter.elements * pricing.element_bytes / held.pieces
            total += traffic("all-reduce", run.parts, size, pricing.mesh.link(stride, run.parts))
        stride *= run.parts
    return total


def _halos(op: Operator, item: Strategy, pricing: Pricing, element_bytes: float) -> Traffic:
    total = Traffic()
    for loop in op.loops:
        parts = item.parts_of(loop.name)
        if loop.window is None or parts == 1:
            continue
        rows = loop.window.rows_from_neighbour(parts)
        link = pricing.mesh.link(*_digit(item, loop.name))
        assert loop.operands[0] is not None
        assert loop.result is not None
        operand = op.operands[0]
        forward = _slab(operand.shape, loop.operands[0], item.operand_layout(op, 0)) * rows
        total += traffic("halo", parts, forward * element_bytes, link)
        if pricing.training:
            result = _slab(op.results[0].shape, loop.result, item.result_layout(op)) * rows
            backward = result if pricing.halo_of_gradient else forward
            total += traffic("halo", parts, backward * pricing.element_bytes, link)
    return total


def _slab(shape: Sequence[int], axis: int, held: Layout) -> float:
    """Elements of one row across an axis, of a device's piece."""
    return math.prod(shape) / shape[axis] / (held.pieces / held.parts_of(axis))


def _digit(item: Strategy, name: str) -> tuple[int, int]:
    """Stride and parts that cover all digits of a loop."""
    stride, low, high = 1, None, 1
    for parts, loop in zip(reversed(item.parts), reversed(item.loops), strict=True):
        if loop == name:
            low = stride if low is None else low
            high = stride * parts
        stride *= parts
    assert low is not None
    return low, high // low


def _compute_s(op: Operator, item: Strategy, pricing: Pricing) -> float:
    """The roofline of the largest piece; training takes 3 passes with a weight (forward, two gradients), else 2."""
    if pricing.device is None or not op.results:
        return 0.0
    macs = float(op.macs)
    for name in {name for name in item.loops if name is not None}:
        size, parts = op.loop_of[name].size, item.parts_of(name)
        macs *= -(-size // parts) / size
    layouts = [item.operand_layout(op, i) for i in range(len(op.operands))]
    moved = math.fsum(x.elements / held.pieces for x, held in zip(op.operands, layouts, strict=True))
    moved += math.fsum(y.elements / item.result_layout(op).pieces for y in op.results)
    passes = (3 if op.is_weighted else 2) if pricing.training else 1
    return passes * pricing.device.seconds(macs, moved * pricing.element_bytes)


def _memory(op: Operator, item: Strategy, pricing: Pricing) -> float:
    """Parameters (twice with gradients) and results (all are kept for the backward pass)."""
    copies = 2 if pricing.training else 1
    held = math.fsum(
        copies * operand.elements / item.operand_layout(op, i).pieces
        for i, operand in enumerate(op.operands)
        if operand.role == "parameter"
    )
    held += math.fsum(result.elements / item.result_layout(op).pieces for result in op.results)
    return held * pricing.element_bytes
