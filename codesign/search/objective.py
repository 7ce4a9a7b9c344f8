"""What a search is told about a plan."""

import math
from dataclasses import dataclass

from codesign.errors import MeasurementError
from codesign.plan.plan import Cost, Plan


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
