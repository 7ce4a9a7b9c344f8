"""What a plan shall have least of."""

from dataclasses import dataclass
from typing import Literal

from codesign.partition.collectives import NOTHING, Traffic

Goal = Literal["training", "latency", "throughput", "energy", "memory"]
"""`training`: time of a step, forward and backward. `latency`: time of one forward pass. `throughput`: the same, of a
batch. `energy`: joules of a training step. `memory`: bytes that a device holds in training."""
GOALS: tuple[Goal, ...] = ("training", "latency", "throughput", "energy", "memory")


@dataclass(frozen=True)
class Price:
    """What one operator or one change of layout takes, on the busiest device.

    Attributes:
        traffic: Communication.
        compute_s: Seconds of computing.
        compute_j: Joules of computing.
        memory_bytes: What stays in memory: parameters, their gradients, results.
    """

    traffic: Traffic = NOTHING
    compute_s: float = 0.0
    compute_j: float = 0.0
    memory_bytes: float = 0.0

    def __add__(self, other: "Price") -> "Price":
        return Price(
            self.traffic + other.traffic,
            self.compute_s + other.compute_s,
            self.compute_j + other.compute_j,
            self.memory_bytes + other.memory_bytes,
        )

    @property
    def seconds(self) -> float:
        """Communication and computing, one after the other."""
        return self.traffic.seconds + self.compute_s

    @property
    def energy_j(self) -> float:
        """Communication and computing."""
        return self.traffic.energy_j + self.compute_j


@dataclass(frozen=True)
class Objective:
    """A weighted sum; what has no weight but the time breaks ties.

    Attributes:
        per_second: Weight of time.
        per_joule: Weight of energy.
        per_byte: Weight of memory.
    """

    per_second: float
    per_joule: float = 0.0
    per_byte: float = 0.0

    def of(self, price: Price) -> float:
        """The value of a price.

        Args:
            price: What something takes.

        Returns:
            The weighted sum.
        """
        return self.per_second * price.seconds + self.per_joule * price.energy_j + self.per_byte * price.memory_bytes


def objective_of(goal: Goal) -> Objective:
    """What a goal weighs.

    Args:
        goal: The goal.

    Returns:
        The weights; a second counts as a nanojoule or a microbyte where the goal is another.
    """
    match goal:
        case "energy":
            return Objective(1e-9, per_joule=1.0)
        case "memory":
            return Objective(1e-6, per_byte=1.0)
        case "training" | "latency" | "throughput":
            return Objective(1.0)


def is_training(goal: Goal) -> bool:
    """Whether gradients are computed.

    Args:
        goal: The goal.

    Returns:
        False for forward passes alone.
    """
    return goal not in {"latency", "throughput"}
