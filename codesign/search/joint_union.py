"""The front of several variants of a network, each with its own joint problem."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codesign.errors import InfeasibleBudgetError
from codesign.search.joint_front import front
from codesign.search.joint_problem import JointAllocation, JointProblem


@dataclass(frozen=True)
class Candidate:
    """A variant that may give points of the front.

    Attributes:
        name: Its name.
        loss_nats: Loss before anything is quantised; 0 where only increases count.
        problem: Its joint problem.
    """

    name: str
    loss_nats: float
    problem: JointProblem


@dataclass(frozen=True)
class UnionPoint:
    """A point of the common front.

    Attributes:
        name: Of the variant.
        loss_nats: Its loss and the increase.
        allocation: The optimum for this variant under its own total as the limit.
    """

    name: str
    loss_nats: float
    allocation: JointAllocation


def union_front(
    candidates: Sequence[Candidate],
    metric: str,
    limits: Mapping[str, float] | None = None,
    points: int | None = None,
) -> tuple[UnionPoint, ...]:
    """Points of (metric, loss) that no choice of any variant beats.

    A variant whose least possible loss and metric, each by itself, are beaten by a point already found is passed over:
    nothing of it can enter the front. With the whole front of each variant the result is exact.

    Args:
        candidates: The variants.
        metric: What is traded for the loss.
        limits: Limits on other metrics, or on this one.
        points: None for the whole front of each variant; else optima at so many budgets.

    Returns:
        The front, from the cheapest to the best; of equal points the first variant's.

    Raises:
        InfeasibleBudgetError: No variant keeps the limits; the message is that of the last one.
    """
    found: list[UnionPoint] = []
    refused: InfeasibleBudgetError | None = None
    for candidate in sorted(candidates, key=lambda item: item.loss_nats):
        if _is_beaten(candidate, metric, found):
            continue
        try:
            own = front(candidate.problem, metric, limits, points)
        except InfeasibleBudgetError as error:
            refused = error
            continue
        found += [UnionPoint(candidate.name, candidate.loss_nats + a.loss_increase_nats, a) for a in own]
        found = _undominated(found, metric)
    if not found and refused is not None:
        raise refused
    return tuple(found)


def _is_beaten(candidate: Candidate, metric: str, found: Sequence[UnionPoint]) -> bool:
    problem = candidate.problem
    loss = candidate.loss_nats + math.fsum(min(o.loss_increase_nats for o in offered) for offered in problem.options)
    own = [min(o.metrics.get(metric, 0.0) for o in offered) for offered in problem.options]
    least = max(own) if problem.is_maximum(metric) else math.fsum([problem.constant.get(metric, 0.0), *own])
    # Rounding must not discard a point of the front.
    return any(p.allocation.metrics[metric] < least * (1 - 1e-12) and p.loss_nats < loss - 1e-12 for p in found)


def _undominated(found: Sequence[UnionPoint], metric: str) -> list[UnionPoint]:
    kept: list[UnionPoint] = []
    for point in sorted(found, key=lambda p: (p.allocation.metrics[metric], p.loss_nats)):
        if not kept or point.loss_nats < kept[-1].loss_nats:
            kept.append(point)
    return kept
