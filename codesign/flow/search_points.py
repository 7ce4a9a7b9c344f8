"""Trials as networks, and which of them form the front."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from codesign.architecture.space import Variant
from codesign.plan.plan import Cost, Plan, plan_from_json
from codesign.report.contents import Estimate
from codesign.report.search_point import InnerDecision
from codesign.search.finalists import spread
from codesign.search.joint_study import FinishedTrial
from codesign.search.pareto import non_dominated


@dataclass(frozen=True)
class FoundNetwork:
    """A network that a trial evaluated.

    Attributes:
        trial: Number of the trial.
        variant: Its architecture.
        plan: Its widths and places.
        values: Measured loss in nats and the traded metrics.
        metrics: Totals of the inner decision.
        limits: That the inner decision kept.
        float_loss: Of the variant in floating point.
        increase_nats: What quantisation was expected to add.
        loss: Measured on search data, with shared weights.
        decision: How widths and places were found.
    """

    trial: int
    variant: Variant
    plan: Plan
    values: tuple[float, ...]
    metrics: Mapping[str, float]
    limits: Mapping[str, float]
    float_loss: Estimate
    increase_nats: float
    loss: Estimate
    decision: InnerDecision

    @property
    def cost(self) -> Cost:
        """Its price, as plans are priced elsewhere."""
        totals = self.metrics
        return Cost(
            totals["latency_s"],
            totals["energy_j"],
            int(totals["peak_memory_bytes"]),
            int(totals["weight_bytes"]),
            totals.get("bops", 0.0),
        )


def networks_of(finished: Sequence[FinishedTrial]) -> tuple[FoundNetwork, ...]:
    """Networks that trials evaluated; of equal plans the first stays.

    Args:
        finished: Trials in the order in which they ended.

    Returns:
        The networks, by the number of their trials.
    """
    found: dict[str, FoundNetwork] = {}
    for trial in sorted(finished, key=lambda t: t.candidate.number):
        if trial.outcome.kind == "evaluated":
            network = _network(trial)
            found.setdefault(network.plan.digest, network)
    return tuple(found.values())


def front_of(networks: Sequence[FoundNetwork]) -> tuple[FoundNetwork, ...]:
    """Networks that no other dominates in loss, latency, energy and memory.

    Args:
        networks: Any.

    Returns:
        The front, in the order given.
    """
    return tuple(networks[i] for i in non_dominated([network.values for network in networks]))


class Reached:
    """What the trials so far reached, kept as they come in.

    Args:
        price: Prices networks as the target's cost model does now.

    Attributes:
        networks: All networks.
        plans: Digests of their plans.
        front: Networks that no other dominates.
    """

    def __init__(self, price: Callable[[Sequence[FoundNetwork]], Sequence[FoundNetwork]]) -> None:
        self._price = price
        self._seen: set[int] = set()
        self.networks: list[FoundNetwork] = []
        self.plans: set[str] = set()
        self.front: tuple[FoundNetwork, ...] = ()

    def add(self, finished: Sequence[FinishedTrial]) -> None:
        """Takes in what is new.

        Args:
            finished: All trials so far.
        """
        new = [trial for trial in finished if trial.candidate.number not in self._seen]
        self._seen.update(trial.candidate.number for trial in new)
        networks = self._price(networks_of(new))
        self.networks.extend(networks)
        self.plans.update(network.plan.digest for network in networks)
        self.front = front_of([*self.front, *networks])


def finalists_of(networks: Sequence[FoundNetwork], count: int) -> tuple[FoundNetwork, ...]:
    """Networks of the front that are worth building: those that together dominate most.

    Args:
        networks: Any.
        count: How many at most.

    Returns:
        The most valuable first.
    """
    return tuple(networks[i] for i in spread([network.values for network in networks], count))


def _network(trial: FinishedTrial) -> FoundNetwork:
    record, values = trial.outcome.record, trial.outcome.values
    assert values is not None
    plan, decision = record["plan"], record["decision"]
    assert isinstance(plan, Mapping)
    assert isinstance(decision, Mapping)
    return FoundNetwork(
        trial=trial.candidate.number,
        variant=trial.candidate.variant,
        plan=plan_from_json(plan),
        values=values,
        metrics=_numbers(record["metrics"]),
        limits=_numbers(record["limits"]),
        float_loss=_estimate(record["float_loss"]),
        increase_nats=float(str(record["increase_nats"])),
        loss=_estimate(record["loss"]),
        decision=InnerDecision(**decision),
    )


def _numbers(value: object) -> dict[str, float]:
    assert isinstance(value, Mapping)
    return {str(name): float(number) for name, number in value.items()}


def _estimate(value: object) -> Estimate:
    assert isinstance(value, Sequence)
    return Estimate(float(value[0]), float(value[1]))
