"""Bit widths and places of all layers in one exact programme, with what crosses between places priced at its width.

    minimise    sum_v loss_v(b_v)
    subject to  sum_v t_v(b_v, p_v) + sum_(u,v) t_uv(b_v, p_u, p_v) <= latency

A value travels at the width of the layer that reads it, so a slow link makes narrow widths worth their loss just where
the network is cut. A place is one of several devices, or a way to share a layer out among equal ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.partition.mesh import Link
from codesign.partition.network import Edge, Network, Operator
from codesign.partition.options import Option, direct_option
from codesign.partition.strategies import Pricing, own_price, strategies_of
from codesign.quantization.scheme import Widths
from codesign.solver.edge_programme import Limit, solve
from codesign.solver.pairwise import PairwiseProblem, pairwise_problem

TIME_LIMIT_S = 60.0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class WidthChoice:
    """Widths that a layer may take.

    Attributes:
        widths: Of its weight and of what it reads.
        loss_increase_nats: Growth of the task loss if this layer alone takes them.
    """

    widths: Widths
    loss_increase_nats: float


@dataclass(frozen=True)
class PlacedOption:
    """One way to run an operator.

    Attributes:
        place: The device, or how the operator is shared out.
        widths: Its widths.
        loss_increase_nats: Growth of the task loss.
        seconds: By itself.
        energy_j: By itself.
    """

    place: str
    widths: Widths
    loss_increase_nats: float
    seconds: float
    energy_j: float = 0.0


@dataclass(frozen=True)
class PlacedProblem:
    """All options, and what changes of place take.

    Attributes:
        names: Of the operators.
        options: Of each operator.
        edges: Producer, consumer, and seconds `[options of the producer, options of the consumer]`.
    """

    names: tuple[str, ...]
    options: tuple[tuple[PlacedOption, ...], ...]
    edges: tuple[tuple[int, int, Array], ...]


@dataclass(frozen=True)
class PlacedAllocation:
    """The best choice.

    Attributes:
        choice: Operator and its option, in the order in which they run.
        loss_increase_nats: Sum over operators.
        seconds: Operators and changes of place.
        gap: Loss less the proven bound; 0 for an optimum.
    """

    choice: tuple[tuple[str, PlacedOption], ...]
    loss_increase_nats: float
    seconds: float
    gap: float


def problem_on_devices(
    network: Network,
    choices: Mapping[str, Sequence[WidthChoice]],
    devices: Sequence[str],
    seconds: Callable[[Operator, str, Widths], float | None],
    link: Link,
    usual: Widths,
) -> PlacedProblem:
    """Each operator runs on one of several devices, which may differ.

    Args:
        network: The network; its input is on the first device, and its output is wanted there.
        choices: Widths of layers with weights, by name.
        devices: Their names.
        seconds: Time of an operator on a device at its widths; None where the device cannot run it.
        link: Between any two devices.
        usual: Widths of operators without a weight.

    Returns:
        The problem.

    Raises:
        InputError: No device can run some operator, or a layer has no widths to choose from.
    """
    options = []
    for op in network.operators:
        offered = []
        for choice in _choices_of(op, choices, usual):
            for device in devices if op.results else devices[:1]:
                own = seconds(op, device, choice.widths) if op.results else 0.0
                if own is not None:
                    offered.append(PlacedOption(device, choice.widths, choice.loss_increase_nats, own))
        if not offered:
            raise InputError(f"operator {op.name!r} ({op.kind}): no device can run it; add a device that can")
        options.append(tuple(offered))
    edges = [
        (e.producer, e.consumer, _messages(e, options[e.producer], options[e.consumer], link)) for e in network.edges
    ]
    return _with_input(network, options, edges, devices[0], link)


def _with_input(
    network: Network,
    options: list[tuple[PlacedOption, ...]],
    edges: list[tuple[int, int, Array]],
    first: str,
    link: Link,
) -> PlacedProblem:
    """The input comes from the first device."""
    for i, op in enumerate(network.operators):
        for operand in op.operands:
            if operand.value == network.source:
                options[i] = tuple(
                    o
                    if o.place == first
                    else PlacedOption(
                        o.place,
                        o.widths,
                        o.loss_increase_nats,
                        o.seconds + _message_s(operand.elements, o.widths, link),
                        o.energy_j,
                    )
                    for o in options[i]
                )
    return PlacedProblem(tuple(op.name for op in network.operators), tuple(options), tuple(edges))


def _choices_of(op: Operator, choices: Mapping[str, Sequence[WidthChoice]], usual: Widths) -> Sequence[WidthChoice]:
    if not op.is_weighted:
        return (WidthChoice(usual, 0.0),)
    if not choices.get(op.name):
        raise InputError(f"layer {op.name!r}: no widths to choose from; name it in the choices")
    return choices[op.name]


def _message_s(elements: int, widths: Widths, link: Link) -> float:
    return link.latency_s + elements * widths.activation / 8 / link.bandwidth_bytes_per_s


def _messages(edge: Edge, made: Sequence[PlacedOption], read: Sequence[PlacedOption], link: Link) -> Array:
    elements = math.prod(edge.shape)
    return np.asarray([
        [0.0 if a.place == b.place else _message_s(elements, b.widths, link) for b in read] for a in made
    ])


def problem_on_mesh(
    network: Network,
    choices: Mapping[str, Sequence[WidthChoice]],
    pricing_of: Callable[[Widths], Pricing],
    usual: Widths,
) -> PlacedProblem:
    """Each operator is shared out among equal devices; changes of layout are collectives at the reader's width.

    Args:
        network: The network.
        choices: Widths of layers with weights, by name.
        pricing_of: Devices and units at some widths: bytes of a number, and rates; all with the same mesh.
        usual: Widths of operators without a weight.

    Returns:
        The problem.
    """
    pricings: dict[Widths, Pricing] = {}
    layouts: list[list[Option]] = []
    options: list[tuple[PlacedOption, ...]] = []
    for op in network.operators:
        offered, placed = [], []
        for choice in _choices_of(op, choices, usual):
            pricing = pricings.setdefault(choice.widths, pricing_of(choice.widths))
            for item in strategies_of(op, pricing.mesh, pricing.idle):
                price = own_price(op, item, pricing, choice.widths.activation / 8)
                placed.append(direct_option(op, item, pricing))
                offered.append(
                    PlacedOption(str(item), choice.widths, choice.loss_increase_nats, price.seconds, price.energy_j)
                )
        options.append(tuple(offered))
        layouts.append(placed)
    edges = []
    for edge in network.edges:
        read = options[edge.consumer]
        columns = []
        for option, where in zip(read, layouts[edge.consumer], strict=True):
            pricing = pricings[option.widths]
            space = pricing.space(len(edge.shape))
            prices = space.table(edge.shape, option.widths.activation / 8).prices
            before = [space.index[made.exit] for made in layouts[edge.producer]]
            columns.append(prices[before, space.index[where.entries[edge.operand]]])
        edges.append((edge.producer, edge.consumer, np.stack(columns, axis=1)))
    return PlacedProblem(tuple(op.name for op in network.operators), tuple(options), tuple(edges))


def allocate_placed(problem: PlacedProblem, latency_s: float, time_limit_s: float = TIME_LIMIT_S) -> PlacedAllocation:
    """The choice of least loss that keeps a limit on time, and the fastest of equals.

    Args:
        problem: Options and edges.
        latency_s: What all operators and changes of place may take.
        time_limit_s: Seconds for the programme.

    Returns:
        The optimum, or the best choice found in time, with its gap.

    Raises:
        InfeasibleBudgetError: Even the fastest choice takes longer; the message says how long.
    """
    times = tuple(np.asarray([o.seconds for o in offered]) for offered in problem.options)
    losses = tuple(np.asarray([o.loss_increase_nats for o in offered]) for offered in problem.options)
    as_time = pairwise_problem(times, problem.edges)
    free = {pair: np.where(np.isfinite(table), 0.0, np.inf) for pair, table in as_time.edges.items()}
    limit = Limit(times, as_time.edges, latency_s)
    found = solve(PairwiseProblem(losses, free), [limit], time_limit_s)
    if found is None:
        fastest = solve(as_time, time_limit_s=time_limit_s)
        least = math.inf if fastest is None else fastest.value
        raise InfeasibleBudgetError(
            f"latency: no choice of widths and places takes {latency_s:.6g} s or less; the fastest takes {least:.6g} s"
        )
    same_loss = Limit(losses, {}, found.value)
    better = solve(as_time, [limit, same_loss], time_limit_s) if found.gap == 0 else None
    picks = found.picks if better is None else better.picks
    choice = tuple(
        (name, offered[pick]) for name, offered, pick in zip(problem.names, problem.options, picks, strict=True)
    )
    loss = math.fsum(option.loss_increase_nats for _, option in choice)
    return PlacedAllocation(choice, loss, as_time.value(picks), found.gap)
