"""What each mode of planning may choose.

| mode             | layers with weights                                                            |
|------------------|--------------------------------------------------------------------------------|
| `batch`          | samples over all devices                                                       |
| `model`          | output channels over all devices                                               |
| `grid`           | samples over columns, output channels over rows; one grid for all layers       |
| `dense-grid`     | convolutions as in `batch`, dense layers as in `grid`                          |
| `mesh-tensorflow`| one rule for each named dimension of the whole network (arXiv 1811.02084)      |
| `optimal`        | anything, each layer by itself                                                 |

The first four are counted as Gholami et al. do: a layer takes and gives whole channels, and sums its operand's gradient
with an all-reduce. What stands between layers (activation functions, pooling, ...) follows the samples there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from codesign.partition.mesh import Mesh, MeshAxis
from codesign.partition.network import Network, Operator
from codesign.partition.options import Option, direct_option, layer_option, problem_of
from codesign.partition.placement import COPIES, PARTS, WHOLE, Layout, Run, layout
from codesign.partition.strategies import SPATIAL, Pricing, Strategy, is_legal, strategies_of, strategy
from codesign.solver.pairwise import PairwiseProblem

Mode = Literal["batch", "model", "grid", "dense-grid", "mesh-tensorflow", "optimal"]
MODES: tuple[Mode, ...] = ("batch", "model", "grid", "dense-grid", "mesh-tensorflow", "optimal")
RESHAPES = frozenset({"Between", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators behind which dimensions have other names."""


@dataclass(frozen=True)
class Candidate:
    """One problem to solve; a mode is as good as the best of its candidates.

    Attributes:
        options: Of each operator.
        problem: Their prices.
    """

    options: tuple[tuple[Option, ...], ...]
    problem: PairwiseProblem


def candidates(network: Network, pricing: Pricing, mode: Mode, redistribution: bool) -> Iterator[Candidate]:
    """What a mode chooses from.

    Args:
        network: The network.
        pricing: Devices and units.
        mode: The mode.
        redistribution: Whether changes of layout between layers count.

    Yields:
        Problems; none if the mode is impossible, such as more devices than samples in `batch`.
    """
    match mode:
        case "optimal":
            yield from _optimal(network, pricing, redistribution)
        case "mesh-tensorflow":
            for grid in dict.fromkeys([*pricing.mesh.grids, (pricing.mesh.devices,)]):  # its user shapes the mesh
                yield from _global_rules(network, pricing, redistribution, grid)
        case _:
            for convolution, dense in _assignments(pricing, mode):
                yield from _assigned(network, pricing, redistribution, convolution, dense)


def _assignments(pricing: Pricing, mode: Mode) -> Iterator[tuple[Strategy, Strategy]]:
    """Strategies of convolutions and of dense layers."""
    mesh = pricing.mesh
    samples, channels = strategy((mesh.devices,), ("batch",)), strategy((mesh.devices,), ("out",))
    if mode == "batch":
        yield samples, samples
    elif mode == "model":
        yield channels, channels
    else:
        for item in dict.fromkeys(_grids(pricing)):
            yield (item if mode == "grid" else samples), item


def _grids(pricing: Pricing) -> Iterator[Strategy]:
    for grid in pricing.mesh.grids:
        if pricing.mesh.free:
            yield strategy(grid, ("batch", "out"))
            continue
        for code in range(1 << len(grid)):
            yield strategy(grid, ["out" if code >> i & 1 else "batch" for i in range(len(grid))])


def _assigned(
    network: Network, pricing: Pricing, redistribution: bool, convolution: Strategy, dense: Strategy
) -> Iterator[Candidate]:
    options: list[tuple[Option, ...]] = []
    for op in network.operators:
        if op.is_weighted:
            item = dense if op.is_dense else convolution
            if not set(item.loops) <= set(op.loop_of) or not is_legal(op, item, pricing.idle):
                return
            options.append((layer_option(op, item, pricing, network.source),))
        else:
            options.append(_followers(op, pricing))
    yield _candidate(network, options, pricing, redistribution)


def _followers(op: Operator, pricing: Pricing) -> tuple[Option, ...]:
    """Ways to run an operator that split samples only."""
    items = [s for s in strategies_of(op, pricing.mesh, pricing.idle) if set(s.loops) <= {"batch", None}]
    return tuple(direct_option(op, item, pricing) for item in items)


def _candidate(
    network: Network, options: Sequence[tuple[Option, ...]], pricing: Pricing, redistribution: bool
) -> Candidate:
    return Candidate(tuple(options), problem_of(network, options, pricing, redistribution))


def _optimal(network: Network, pricing: Pricing, redistribution: bool) -> Iterator[Candidate]:
    options = []
    for op in network.operators:
        items = strategies_of(op, pricing.mesh, pricing.idle)
        offered = [layer_option(op, item, pricing, network.source) for item in items if op.is_weighted]
        if redistribution or not op.is_weighted:
            offered += [direct_option(op, item, pricing) for item in items]
        options.append(_undominated(offered, pricing))
    yield _candidate(network, options, pricing, redistribution)


def _undominated(offered: Sequence[Option], pricing: Pricing) -> tuple[Option, ...]:
    """The cheapest of options that look alike from outside."""
    best: dict[tuple[object, ...], Option] = {}
    for option in offered:
        key = (option.entries, option.exit, option.price.memory_bytes)
        if key not in best or pricing.objective.of(option.price) < pricing.objective.of(best[key].price):
            best[key] = option
    return tuple(best.values())


def _global_rules(
    network: Network, pricing: Pricing, redistribution: bool, grid: tuple[int, ...]
) -> Iterator[Candidate]:
    """A dimension keeps its name, and so its layout, until a reshape; sums are all-reduced at once."""
    options: list[tuple[Option, ...]] = []
    for op in network.operators:
        items = [s for s in _of_grid(op, pricing, grid) if _is_rule(op, s, grid) and _is_shared(op, s, pricing)]
        if not items:
            return
        if op.is_weighted and not redistribution:
            options.append(tuple(layer_option(op, item, pricing, network.source) for item in items))
        else:
            options.append(tuple(direct_option(op, item, pricing) for item in items))
    problem = problem_of(network, options, pricing, redistribution)
    edges = {
        (e.producer, e.consumer): problem.edges.get((e.producer, e.consumer), np.zeros(()))
        + _mask(network, e.producer, e.consumer, options)
        for e in network.edges
    }
    yield Candidate(tuple(options), PairwiseProblem(problem.nodes, edges))


def _of_grid(op: Operator, pricing: Pricing, grid: tuple[int, ...]) -> tuple[Strategy, ...]:
    axes = tuple(MeshAxis(f"axis{i}", size, pricing.mesh.axes[0].link) for i, size in enumerate(grid))
    return strategies_of(op, Mesh(axes), idle=False)


def _is_rule(op: Operator, item: Strategy, grid: tuple[int, ...]) -> bool:
    """Whether a strategy fits one grid, splits no space, and splits each loop evenly over one axis of the grid."""
    digits = tuple(parts for parts in grid if parts > 1)
    named = [name for name in item.loops if name is not None]
    is_of_grid = item.parts == digits or (not named and len(item.parts) <= 1)
    return (
        is_of_grid
        and len(set(named)) == len(named)
        and not SPATIAL & set(named)
        and all(op.loop_of[name].size % item.parts_of(name) == 0 for name in named)
    )


def _is_shared(op: Operator, item: Strategy, pricing: Pricing) -> bool:
    """Whether a strategy shares an operator with a weight among all devices, where any grid of them allows that.

    The optimum is held to the same: devices that do alike have nothing to send, and would be the best of all modes.
    """
    if not op.is_weighted or None not in item.loops:
        return True
    return any(None in other.loops for other in strategies_of(op, pricing.mesh, pricing.idle))


def _mask(network: Network, producer: int, consumer: int, options: Sequence[Sequence[Option]]) -> "np.ndarray":
    """0 where both sides split a value alike, infinite elsewhere."""
    made, read = network.operators[producer], network.operators[consumer]
    table = np.zeros((len(options[producer]), len(options[consumer])))
    if made.kind in RESHAPES or read.kind in RESHAPES:
        return table
    before = [_named(option.strategy.result_layout(made)) for option in options[producer]]
    for edge in network.edges:
        if (edge.producer, edge.consumer) == (producer, consumer):
            after = [_named(option.strategy.operand_layout(read, edge.operand)) for option in options[consumer]]
            table += [[0.0 if a == b else np.inf for b in after] for a in before]
    return table


def _named(item: Layout) -> Layout:
    return layout([Run(run.parts, WHOLE if run.holding in {COPIES, PARTS} else run.holding) for run in item.runs])
