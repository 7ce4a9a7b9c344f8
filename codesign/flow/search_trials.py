"""The trials of a joint search on one target."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codesign.architecture.space import Variant
from codesign.errors import CodesignError, InfeasibleBudgetError
from codesign.flow.search_context import SearchContext, TargetContext
from codesign.flow.search_points import Reached
from codesign.flow.search_pricing import (
    DECIDED,
    architecture_name,
    limits_of,
    lower_bounds,
    metrics_of,
    plan_of,
    problem_of,
)
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.plan.plan import Plan
from codesign.progress import Progress, Silent
from codesign.search.finalists import most_valuable
from codesign.search.joint_allocation import allocate
from codesign.search.joint_front import front
from codesign.search.joint_problem import JointAllocation, JointProblem
from codesign.search.joint_study import Candidate, JointStudy, Outcome, StudyOptions
from codesign.search.pareto import dominates

CERTAIN = 2.0
"""Standard errors by which a variant's loss in floating point must exceed that of a point before it is discarded."""


@dataclass(frozen=True)
class Decision:
    """A point of a variant's own front.

    Attributes:
        limits: That it keeps.
        allocation: The best choice under them.
    """

    limits: Mapping[str, float]
    allocation: JointAllocation


def decisions(
    problem: JointProblem,
    limits: Mapping[str, float],
    metrics: Sequence[str],
    points: int,
    progress: Progress | None = None,
) -> tuple[Decision, ...]:
    """Points of a variant's fronts: the least loss, and the least loss under evenly spread budgets of every metric.

    Args:
        problem: Widths and places of the variant.
        limits: What every choice must keep.
        metrics: Traded metrics of the problem.
        points: Of each metric's front, both ends included.
        progress: Told of a front that could not be had: several limits at once can be too hard to prove.

    Returns:
        Different choices, each optimal under its limits.

    Raises:
        InfeasibleBudgetError: No choice keeps the limits.
    """
    best = allocate(problem, limits)
    found = {best.picks: Decision(dict(limits), best)}
    for metric in metrics:
        try:
            allocations = front(problem, metric, limits, points)
        except CodesignError as error:
            (progress or Silent()).note(f"the front over {metric} is left out for one variant: {error}")
            continue
        for allocation in allocations:
            budgets = {**limits, metric: allocation.metrics[metric]}
            found.setdefault(allocation.picks, Decision(budgets, allocation))
    return tuple(found.values())


def open_study(context: SearchContext, place: TargetContext, share: float = 1.0) -> JointStudy:
    """Opens the study of a target.

    Args:
        context: The search.
        place: The target.
        share: Of the run file's trials, how many may be drawn.

    Returns:
        The study; what it holds from before is kept.
    """
    section = context.search.search
    trials = None if section.trials is None else math.ceil(section.trials * share)
    options = StudyOptions(section.sampler, trials, section.points, context.search.seed)
    name = f"{context.search.name} on {place.target.name}, {context.subject(place)}"
    return JointStudy(context.storage, name, context.space, options)


class TrialEvaluator:
    """Evaluates candidates on one target.

    Args:
        context: The search.
        place: The target.
        analyst: Knows the variants.
    """

    def __init__(self, context: SearchContext, place: TargetContext, analyst: VariantAnalyst) -> None:
        self._context, self._place, self._analyst = context, place, analyst
        section = context.search.search
        self._limits = limits_of(section.limits, place)
        self._metrics, self._points = tuple(DECIDED[metric] for metric in section.metrics), section.points
        self._decided: dict[str, tuple[Decision, ...]] = {}

    def evaluate(self, candidate: Candidate, reached: Reached) -> Outcome:
        """Decides widths and places of a candidate and measures the network's loss on search data.

        The exact decision gives the candidate's own front. Of its points the one is taken that is expected to add most
        to what the networks so far dominate.

        Args:
            candidate: What to evaluate.
            reached: Networks so far.

        Returns:
            What came of it; an error of this candidate is an outcome too.
        """
        try:
            return self._evaluate(candidate, reached)
        except InfeasibleBudgetError as error:
            return Outcome("infeasible", None, {"reason": str(error)})
        except CodesignError as error:
            return Outcome("failed", None, {"reason": str(error)})

    def _evaluate(self, candidate: Candidate, reached: Reached) -> Outcome:
        variant = candidate.variant
        screened = self._analyst.screen(variant)
        optimistic = screened.float_loss.value - CERTAIN * screened.float_loss.standard_error
        bound = (optimistic, *lower_bounds(self._place, screened.program, screened.facts))
        better = next((network for network in reached.front if dominates(network.values, bound)), None)
        if better is not None:
            return Outcome("discarded", bound, {"reason": f"trial {better.trial} is better than its bounds"})
        decided = self._decisions(variant)
        analysed = self._analyst.analyse(variant)
        name = architecture_name(self._context.space.name, variant)
        offset = analysed.float_loss.value + analysed.activation_increase_nats
        new = [
            (plan, decision)
            for decision in decided
            if (plan := plan_of(name, self._place, analysed.facts, decision.allocation)).digest not in reached.plans
        ]
        values = [(offset + d.allocation.loss_increase_nats, *metrics_of(d.allocation.metrics)) for _, d in new]
        if not new:
            reason = "all networks that its decisions lead to were evaluated before"
            return Outcome("discarded", bound, {"reason": reason})
        plan, decision = new[most_valuable(values, [network.values for network in reached.networks])]
        return self._measured(variant, plan, decision)

    def _measured(self, variant: Variant, plan: Plan, decision: Decision) -> Outcome:
        analysed, allocation = self._analyst.analyse(variant), decision.allocation
        loss = self._analyst.loss_of(variant, plan.bits_of)
        record = {
            "plan": plan.to_json(),
            "metrics": dict(allocation.metrics),
            "limits": dict(decision.limits),
            "float_loss": [analysed.float_loss.value, analysed.float_loss.standard_error],
            "loss": [loss.value, loss.standard_error],
            "increase_nats": allocation.loss_increase_nats + analysed.activation_increase_nats,
            "decision": {
                "status": allocation.status,
                "method": allocation.method,
                "bound_nats": allocation.bound + analysed.activation_increase_nats,
                "gap": allocation.gap,
                "seconds": allocation.seconds,
            },
        }
        return Outcome("evaluated", (loss.value, *metrics_of(allocation.metrics)), record)

    def _decisions(self, variant: Variant) -> tuple[Decision, ...]:
        """The exact optimum without a limit of its own, and those under shares of every traded metric."""
        if variant.identity not in self._decided:
            problem = problem_of(self._place, self._analyst.analyse(variant))
            progress = self._context.progress
            self._decided[variant.identity] = decisions(problem, self._limits, self._metrics, self._points, progress)
        return self._decided[variant.identity]
