"""What the planner chooses from: ways to run each operator, with the layouts that its neighbours see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.partition.network import Edge, Network, Operator
from codesign.partition.objective import Price
from codesign.partition.placement import Layout
from codesign.partition.strategies import Pricing, Strategy, own_price
from codesign.solver.pairwise import PairwiseProblem, pairwise_problem


@dataclass(frozen=True)
class Option:
    """One way to run an operator.

    Attributes:
        strategy: How it is shared out.
        entries: Layout of each operand at the border to its producer.
        exit: Layout of the results at the border to their readers.
        price: What it takes by itself, changes of layout up to these borders included.
    """

    strategy: Strategy
    entries: tuple[Layout, ...]
    exit: Layout
    price: Price


def direct_option(op: Operator, item: Strategy, pricing: Pricing) -> Option:
    """An option whose borders are where the operator itself reads and writes.

    Args:
        op: The operator.
        item: How it is shared out.
        pricing: Devices and units.

    Returns:
        The option.
    """
    entries = tuple(pricing.seen(item.operand_layout(op, i)) for i in range(len(op.operands)))
    return Option(item, entries, item.result_layout(op), own_price(op, item, pricing))


def layer_option(op: Operator, item: Strategy, pricing: Pricing, source: str) -> Option:
    """An option counted as Gholami et al. count a layer: it takes and gives values split by samples and in space only.

    Args:
        op: The operator.
        item: How it is shared out.
        pricing: Devices and units.
        source: The network's input, which comes without communication and has no gradient.

    Returns:
        The option; gathers of its result and sums of its operands' gradients are in its price.
    """
    border = item.interface(op)
    price = own_price(op, item, pricing)
    for i, operand in enumerate(op.operands):
        if operand.role == "activation" and operand.value != source:
            table = pricing.space(len(operand.shape)).table(operand.shape, pricing.element_bytes)
            price += Price(table.traffic(border, pricing.seen(item.operand_layout(op, i))))
    for result in op.results:
        table = pricing.space(len(result.shape)).table(result.shape, pricing.element_bytes)
        price += Price(table.traffic(item.result_layout(op), border))
    return Option(item, (border,) * len(op.operands), border, price)


def edge_prices(
    edge: Edge, producers: Sequence[Option], consumers: Sequence[Option], pricing: Pricing
) -> NDArray[np.float64]:
    """What it takes to bring a value from each producer's layout to each consumer's.

    Args:
        edge: The value.
        producers: Options of the operator that computes it.
        consumers: Options of the operator that reads it.
        pricing: Devices and units.

    Returns:
        `[producers, consumers]`.
    """
    space = pricing.space(len(edge.shape))
    table = space.table(edge.shape, pricing.element_bytes)
    before = [space.index[option.exit] for option in producers]
    after = [space.index[option.entries[edge.operand]] for option in consumers]
    prices: NDArray[np.float64] = table.prices[np.ix_(before, after)]
    return prices


def problem_of(
    network: Network, options: Sequence[Sequence[Option]], pricing: Pricing, redistribution: bool
) -> PairwiseProblem:
    """The choice among options as numbers.

    Args:
        network: The network.
        options: Of each operator.
        pricing: Devices and units.
        redistribution: Whether changes of layout between operators count.

    Returns:
        The problem.
    """
    nodes = [np.asarray([pricing.objective.of(option.price) for option in offered]) for offered in options]
    edges = network.edges if redistribution else ()
    tables = [
        (e.producer, e.consumer, edge_prices(e, options[e.producer], options[e.consumer], pricing)) for e in edges
    ]
    return pairwise_problem(nodes, tables)


def path_of(edge: Edge, producer: Option, consumer: Option, pricing: Pricing) -> tuple[Layout, ...]:
    """The layouts that a value takes on its way.

    Args:
        edge: The value.
        producer: How it is computed.
        consumer: How it is read.
        pricing: Devices and units.

    Returns:
        Layouts from the producer's to the consumer's.
    """
    table = pricing.space(len(edge.shape)).table(edge.shape, pricing.element_bytes)
    return table.path(producer.exit, consumer.entries[edge.operand])
