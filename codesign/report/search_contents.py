"""What a joint search found, as immutable values that the page, the table and the JSON file are made from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from codesign.ir.annotations import Provenance
from codesign.report.search_point import SearchPoint, ShadowPrice


@dataclass(frozen=True)
class SpaceAxis:
    """One thing that variants differ in.

    Attributes:
        name: Of the axis.
        values: That it can have, in the space's order.
    """

    name: str
    values: tuple[int | float | str, ...]


@dataclass(frozen=True)
class SearchSpace:
    """What was searched.

    Attributes:
        name: Of the architecture space.
        axes: In the space's order.
        variants: Number of architectures.
    """

    name: str
    axes: tuple[SpaceAxis, ...]
    variants: int


@dataclass(frozen=True)
class ElasticTraining:
    """How the weights that all variants share were trained.

    Attributes:
        method: In words, such as `largest, smallest and 2 random variants a step, distilled from the largest`.
        epochs: Passes over the training data.
        seconds: That training took, measured.
        parameters: Number of shared weights.
    """

    method: str
    epochs: int
    seconds: float
    parameters: int


@dataclass(frozen=True)
class Objective:
    """One of the numbers that a search makes small.

    Attributes:
        metric: `loss_nats`, `latency_s`, `energy_j`, `peak_memory_bytes` or `weight_bytes`.
        reference: Its value in the reference point of the hypervolume.
    """

    metric: str
    reference: float


@dataclass(frozen=True)
class TrialDone:
    """The state of a search when a trial ended.

    Attributes:
        number: Of the trial.
        seconds: Since the search began, measured.
        hypervolume: That the front so far dominates below the reference, in the product of the objectives' units.
        worker: Which worker ran the trial, such as `worker 2`.
    """

    number: int
    seconds: float
    hypervolume: float
    worker: str


@dataclass(frozen=True)
class ReasonCount:
    """How many variants went no further for one reason.

    Attributes:
        reason: In words: which lower bound discarded them, or the message of a failure.
        count: How many.
    """

    reason: str
    count: int


@dataclass(frozen=True)
class BudgetPlan:
    """The point chosen under one budget.

    Attributes:
        limits: By metric, in its unit; empty if nothing was limited.
        identity: The chosen point; None where none keeps the limits.
        failure: Why there is none: the tightest value that can be reached.
        shadow_prices: Of each limit.
    """

    limits: Mapping[str, float]
    identity: str | None
    failure: str | None = None
    shadow_prices: tuple[ShadowPrice, ...] = ()


@dataclass(frozen=True)
class RankAgreement:
    """How well predictions order what was measured.

    Attributes:
        tau: Kendall's tau-b; None for fewer than three points, or where one side is constant.
        points: How many were compared.
    """

    tau: float | None
    points: int


@dataclass(frozen=True)
class TargetResult:
    """What was found for one target.

    Attributes:
        name: Of the target.
        description: Of the target.
        profile: Name of its hardware profile.
        profile_notes: What is not verified about the profile, and which products were rounded.
        runner: What runs finalists, such as `local`.
        cost_provenance: What predicted latency and energy are.
        joint_points: Number of combinations of variant, bits and places.
        objectives: What was made small, with the reference point.
        trials: Those that ended, in that order.
        discarded: Variants that a bound kept out, by reason.
        failed: Variants that failed, by message.
        points: All that were decided, the front's among them.
        budgets: The first is the target's choice.
        latency_agreement: Of predicted and measured latency, over finalists.
        loss_agreement: Of predicted and measured loss, over finalists.
        joint_points_at_least: Whether there may be more joint points, because not every variant was looked at.
    """

    name: str
    description: str
    profile: str
    profile_notes: tuple[str, ...]
    runner: str
    cost_provenance: Provenance
    joint_points: int
    objectives: tuple[Objective, ...]
    trials: tuple[TrialDone, ...]
    discarded: tuple[ReasonCount, ...]
    failed: tuple[ReasonCount, ...]
    points: tuple[SearchPoint, ...]
    budgets: tuple[BudgetPlan, ...]
    latency_agreement: RankAgreement
    loss_agreement: RankAgreement
    joint_points_at_least: bool = False

    @property
    def front(self) -> tuple[SearchPoint, ...]:
        """Points that no other dominates, the fastest first."""
        return tuple(sorted((p for p in self.points if p.on_front), key=lambda p: p.predicted.latency_s))

    @property
    def chosen(self) -> SearchPoint | None:
        """The point chosen under the first budget."""
        return self.point(self.budgets[0].identity) if self.budgets and self.budgets[0].identity is not None else None

    @property
    def built(self) -> tuple[SearchPoint, ...]:
        """Points whose product was run, the fastest first by what was predicted."""
        return tuple(sorted((p for p in self.points if p.finalist), key=lambda p: p.predicted.latency_s))

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets that products were run on, in their order."""
        return tuple(dict.fromkeys(name for p in self.points if p.finalist for name in p.finalist.accuracy))

    @property
    def reference_volume(self) -> float:
        """Volume of the box between zero and the reference point."""
        return math.prod(objective.reference for objective in self.objectives)

    def point(self, identity: str) -> SearchPoint:
        """A point by its identity.

        Args:
            identity: Digest of its plan.

        Returns:
            The point.
        """
        return next(p for p in self.points if p.identity == identity)


@dataclass(frozen=True)
class PlanOnTarget:
    """A plan on one target.

    Attributes:
        target: Name of the target.
        latency_s: Seconds of one run; None if it cannot run there.
        energy_j: Joules of one run; None if it cannot run there, or nothing says.
        loss_nats: Task loss there, on search data; None if it cannot run there.
        cost_provenance: What latency and energy are.
        loss_provenance: What the loss is.
        failure: Why it cannot run there.
    """

    target: str
    latency_s: float | None
    energy_j: float | None
    loss_nats: float | None
    cost_provenance: Provenance
    loss_provenance: Provenance
    failure: str | None = None


@dataclass(frozen=True)
class PlanEverywhere:
    """The plan that was chosen for one target, on every target.

    Attributes:
        chosen_for: Name of that target.
        identity: Digest of the plan.
        on: One for each target, in the order of the search's targets.
    """

    chosen_for: str
    identity: str
    on: tuple[PlanOnTarget, ...]


@dataclass(frozen=True)
class JointSearch:
    """Everything that a joint search ends with.

    Attributes:
        name: Of the run.
        seed: Source of all randomness.
        data: What each split holds, in words.
        environment: Versions and machine.
        strategy: How variants were proposed, in words.
        budget: How long the search was allowed to be, in words.
        storage: Where the study is kept.
        dashboard_command: What opens it in `optuna-dashboard`.
        workers: Processes that searched.
        seconds: That the search took, training of shared weights included, measured.
        space: What was searched.
        elastic: How shared weights were trained; None where variants brought their own.
        targets: At least one.
        comparison: Chosen plans on all targets; empty for one target.
    """

    name: str
    seed: int
    data: Mapping[str, str]
    environment: Mapping[str, str]
    strategy: str
    budget: str
    storage: str
    dashboard_command: str
    workers: int
    seconds: float
    space: SearchSpace
    elastic: ElasticTraining | None
    targets: tuple[TargetResult, ...]
    comparison: tuple[PlanEverywhere, ...] = ()
