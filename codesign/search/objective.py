"""What a search is told about a plan."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from codesign.errors import InputError, MeasurementError
from codesign.plan.plan import Cost, Plan, plan_from_json


@dataclass(frozen=True)
class Evaluation:
    """A plan and what it was found to be worth.

    Attributes:
        plan: The plan.
        cost: Its price on the target.
        loss_increase_nats: Mean growth of the task loss, such as the KL divergence of the whole plan's outputs.
        accuracy: Share of right answers, where it was measured.
        sample_losses_nats: The mean's samples `[N]`, in the same order for all plans; empty where they were not kept.
    """

    plan: Plan
    cost: Cost
    loss_increase_nats: float
    accuracy: float | None = None
    sample_losses_nats: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for what, value in (("loss_increase_nats", self.loss_increase_nats), ("accuracy", self.accuracy or 0.0)):
            if not math.isfinite(value):
                raise MeasurementError(
                    f"plan {self.plan.digest}: {what} was measured as {value}; look for NaN in weights or data"
                )
        if not all(map(math.isfinite, self.sample_losses_nats)):
            raise MeasurementError(f"plan {self.plan.digest}: a sample's loss is not finite; look for NaN in the data")

    def to_json(self) -> dict[str, object]:
        """The evaluation as JSON values."""
        return {
            "plan": self.plan.to_json(),
            "cost": {
                "latency_s": float(self.cost.latency_s),
                "energy_j": float(self.cost.energy_j),
                "peak_memory_bytes": self.cost.peak_memory_bytes,
                "weight_bytes": self.cost.weight_bytes,
                "bops": float(self.cost.bops),
            },
            "loss_increase_nats": float(self.loss_increase_nats),
            "accuracy": None if self.accuracy is None else float(self.accuracy),
            "sample_losses_nats": [float(loss) for loss in self.sample_losses_nats],
        }

    def improvement(self, other: "Evaluation") -> tuple[float, float]:
        """How much less this plan loses than another one, on the same samples.

        Both means share their samples, so that the standard error is that of the paired differences:
        `sqrt(var(d) / N)`, with `d_n` the difference on sample n. It is usually far below that of either mean.

        Args:
            other: The other plan's evaluation.

        Returns:
            The difference of the means in nats, positive if this plan is better, and its standard error (0 where
            samples were not kept).
        """
        gain = other.loss_increase_nats - self.loss_increase_nats
        count = len(self.sample_losses_nats)
        if count < 2 or count != len(other.sample_losses_nats):
            return gain, 0.0
        differences = [b - a for a, b in zip(self.sample_losses_nats, other.sample_losses_nats, strict=True)]
        mean = math.fsum(differences) / count
        variance = math.fsum((d - mean) ** 2 for d in differences) / (count - 1)
        return gain, math.sqrt(variance / count)


def evaluation_from_json(value: Mapping[str, object]) -> Evaluation:
    """The inverse of `Evaluation.to_json`.

    Args:
        value: What `to_json` returned.

    Returns:
        The evaluation.

    Raises:
        InputError: It is something else.
    """
    match value:
        case {
            "plan": {"architecture": str() as architecture, "bits": dict() as bits},
            "cost": {
                "latency_s": float() as latency_s,
                "energy_j": float() as energy_j,
                "peak_memory_bytes": int() as peak_memory_bytes,
                "weight_bytes": int() as weight_bytes,
                "bops": float() as bops,
            },
            "loss_increase_nats": float() as loss,
            "accuracy": float() | None as accuracy,
            "sample_losses_nats": list() as samples,
        }:
            plan = plan_from_json({"architecture": architecture, "bits": bits})
            cost = Cost(latency_s, energy_j, peak_memory_bytes, weight_bytes, bops)
            return Evaluation(plan, cost, loss, accuracy, tuple(samples))
        case _:
            raise InputError(
                "a measured plan in the journal has another form; delete the journal, it is measured again"
            )
