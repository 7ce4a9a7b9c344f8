"""The best placement of every operator, proven."""

import math
import time
from dataclasses import dataclass

from codesign.errors import InfeasibleBudgetError
from codesign.partition.modes import Candidate, Mode, candidates
from codesign.partition.network import Network
from codesign.partition.objective import Price
from codesign.partition.options import Option, path_of
from codesign.partition.strategies import Pricing
from codesign.solver.edge_programme import Limit, solve
from codesign.solver.elimination import eliminate
from codesign.solver.pairwise import PairwiseSolution

TIME_LIMIT_S = 60.0
"""Seconds after which the integer programme's best plan so far is taken, with its gap."""


@dataclass(frozen=True)
class PlacedOperator:
    """One operator of a plan.

    Attributes:
        name: Of the operator.
        option: How it is run.
        price: What it takes, changes of layout of its operands included.
    """

    name: str
    option: Option
    price: Price


@dataclass(frozen=True)
class Planned:
    """A plan of one mode.

    Attributes:
        mode: The mode.
        operators: In the order in which they run.
        value: Of the objective.
        gap: Value less the proven bound; 0 for an optimum.
        method: How it was found.
        seconds: Time that took.
    """

    mode: Mode
    operators: tuple[PlacedOperator, ...]
    value: float
    gap: float
    method: str
    seconds: float

    @property
    def price(self) -> Price:
        """All operators together."""
        total = Price()
        for placed in self.operators:
            total += placed.price
        return total


def plan(
    network: Network,
    pricing: Pricing,
    mode: Mode = "optimal",
    redistribution: bool = True,
    memory_bytes: float = math.inf,
) -> Planned | None:
    """Finds the best plan of a mode.

    Args:
        network: The network.
        pricing: Devices, units and objective.
        mode: What may be chosen.
        redistribution: Whether changes of layout between layers count.
        memory_bytes: What a device can hold.

    Returns:
        The plan; None if the mode is impossible here, such as more devices than samples in `batch`.

    Raises:
        InfeasibleBudgetError: Plans are possible, but none fits into the memory.
    """
    started = time.perf_counter()
    best: tuple[PairwiseSolution, Candidate] | None = None
    seen = False
    for candidate in candidates(network, pricing, mode, redistribution):
        seen = True
        found = _solve(candidate, memory_bytes)
        if found is not None and math.isfinite(found.value) and (best is None or found.value < best[0].value):
            best = (found, candidate)
    if best is None:
        if seen and memory_bytes < math.inf and plan(network, pricing, mode, redistribution) is not None:
            raise InfeasibleBudgetError(
                f"memory: no plan of mode {mode!r} fits into {memory_bytes:.6g} bytes on each device; "
                "take more devices or a smaller batch"
            )
        return None
    solution, candidate = best
    chosen = [offered[pick] for offered, pick in zip(candidate.options, solution.picks, strict=True)]
    placed = _placed(network, chosen, pricing, redistribution)
    return Planned(mode, placed, solution.value, solution.gap, solution.method, time.perf_counter() - started)


def _solve(candidate: Candidate, memory_bytes: float) -> PairwiseSolution | None:
    problem = candidate.problem
    if math.isinf(memory_bytes):
        found = eliminate(problem)
        return found if found is not None else solve(problem, time_limit_s=TIME_LIMIT_S)
    import numpy as np

    held = tuple(np.asarray([option.price.memory_bytes for option in offered]) for offered in candidate.options)
    return solve(problem, [Limit(held, {}, memory_bytes)], TIME_LIMIT_S)


def _placed(
    network: Network, chosen: list[Option], pricing: Pricing, redistribution: bool
) -> tuple[PlacedOperator, ...]:
    prices = [option.price for option in chosen]
    for edge in network.edges if redistribution else ():
        table = pricing.space(len(edge.shape)).table(edge.shape, pricing.element_bytes)
        path = path_of(edge, chosen[edge.producer], chosen[edge.consumer], pricing)
        prices[edge.consumer] += Price(table.traffic(path[0], path[-1]))
    return tuple(
        PlacedOperator(op.name, option, price)
        for op, option, price in zip(network.operators, chosen, prices, strict=True)
    )
