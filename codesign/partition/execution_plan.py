"""From the planner's choice, or a random one, to a plan that can be carried out."""

import random
from collections import Counter
from collections.abc import Sequence

from codesign.partition.network import Network, Operand
from codesign.partition.options import Option, direct_option
from codesign.partition.placement import COPIES, WHOLE, Layout, Run, layout
from codesign.partition.plan_file import ExecutionPlan, OperatorPlacement, Path
from codesign.partition.strategies import Pricing, strategies_of


def execution_plan(network: Network, chosen: Sequence[Option], pricing: Pricing) -> ExecutionPlan:
    """Spells out every change of layout of a choice.

    Args:
        network: The network.
        chosen: An option for each operator.
        pricing: Devices and units; training.

    Returns:
        The plan. A parameter that one operator reads is kept in pieces as that operator reads it; one that several read
        is kept whole.
    """
    exits = {r.value: o.exit for op, o in zip(network.operators, chosen, strict=True) for r in op.results}
    readers = Counter(x.value for op in network.operators for x in op.operands)
    placed = []
    for op, option in zip(network.operators, chosen, strict=True):
        paths = []
        for i, operand in enumerate(op.operands):
            read = option.strategy.operand_layout(op, i)
            if operand.value in exits:
                first = _path(operand.shape, exits[operand.value], option.entries[i], pricing)
                paths.append((*first, *_path(operand.shape, option.entries[i], read, pricing)[1:]))
            else:
                paths.append(_path(operand.shape, _kept(operand, read, readers[operand.value], pricing), read, pricing))
        shape = op.results[0].shape if op.results else (1,)
        exit_path = _path(shape, option.strategy.result_layout(op), option.exit, pricing) if op.results else None
        end = exit_path or (option.strategy.result_layout(op),)
        placed.append(OperatorPlacement(op.name, option.strategy, tuple(paths), end))
    mesh = tuple((axis.name, axis.size) for axis in pricing.mesh.axes)
    return ExecutionPlan(network.digest, network.batch, mesh, tuple(placed))


def _path(shape: Sequence[int], before: Layout, after: Layout, pricing: Pricing) -> Path:
    if before == after:
        return (before,)
    return pricing.space(len(shape)).table(shape, pricing.element_bytes).path(before, after)


def _kept(operand: Operand, read: Layout, readers: int, pricing: Pricing) -> Layout:
    """The layout that a parameter, a constant or the input is kept in."""
    if operand.role == "constant":
        return read
    if operand.role == "parameter" and readers == 1:
        return layout([Run(run.parts, WHOLE if run.holding == COPIES else run.holding) for run in read.runs])
    return layout([Run(pricing.mesh.devices, WHOLE)])


def random_plan(network: Network, pricing: Pricing, seed: int) -> ExecutionPlan:
    """Some legal plan: every operator is shared out at random.

    Args:
        network: The network.
        pricing: Devices and units; training.
        seed: Source of the choice.

    Returns:
        The plan.
    """
    source = random.Random(seed)
    chosen = []
    for op in network.operators:
        item = source.choice(strategies_of(op, pricing.mesh, idle=False))
        chosen.append(direct_option(op, item, pricing))
    return execution_plan(network, chosen, pricing)
