"""The trials of a joint search on one target."""

import math
import time
from collections.abc import Sequence

from codesign.errors import CodesignError, InfeasibleBudgetError
from codesign.flow.search_context import SearchContext, TargetContext
from codesign.flow.search_points import FoundNetwork
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
from codesign.search.joint_allocation import allocate, least_total
from codesign.search.joint_problem import JointAllocation, JointProblem
from codesign.search.joint_study import Candidate, JointStudy, Outcome, StudyOptions
from codesign.search.pareto import dominates

CERTAIN = 2.0
"""Standard errors by which a variant's loss in floating point must exceed that of a point before it is discarded."""


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
    options = StudyOptions(section.sampler, trials, section.metrics, section.points, context.search.seed)
    return JointStudy(context.storage, f"{context.search.name} on {place.target.name}", context.space, options)


class TrialEvaluator:
    """Evaluates candidates on one target.

    Args:
        context: The search.
        place: The target.
        analyst: Knows the variants.
    """

    def __init__(self, context: SearchContext, place: TargetContext, analyst: VariantAnalyst) -> None:
        self._context, self._place, self._analyst = context, place, analyst
        self._limits = limits_of(context.search.search.limits, place)

    def evaluate(self, candidate: Candidate, reached: Sequence[FoundNetwork]) -> Outcome:
        """Decides widths and places of a candidate and measures the network's loss on search data.

        Args:
            candidate: What to evaluate.
            reached: Networks so far: what they reached need not be reached again.

        Returns:
            What came of it; an error of this candidate is an outcome too.
        """
        try:
            return self._evaluate(candidate, reached)
        except InfeasibleBudgetError as error:
            return Outcome("infeasible", None, {"reason": str(error)})
        except CodesignError as error:
            return Outcome("failed", None, {"reason": str(error)})

    def _evaluate(self, candidate: Candidate, reached: Sequence[FoundNetwork]) -> Outcome:
        variant = candidate.variant
        screened = self._analyst.screen(variant)
        optimistic = screened.float_loss.value - CERTAIN * screened.float_loss.standard_error
        bound = (optimistic, *lower_bounds(self._place, screened.program, screened.facts))
        for network in reached:
            if dominates(network.values, bound):
                reason = f"trial {network.trial} is better than anything that it could reach"
                return Outcome("discarded", bound, {"reason": reason})
        analysed = self._analyst.analyse(variant)
        problem = problem_of(self._place, analysed)
        started = time.perf_counter()
        allocation, limits = self._decide(problem, candidate)
        seconds = time.perf_counter() - started
        plan = plan_of(architecture_name(self._context.space.name, variant), analysed.facts, allocation)
        loss = self._analyst.loss_of(variant, plan.bits_of)
        record = {
            "plan": plan.to_json(),
            "metrics": dict(allocation.metrics),
            "limits": limits,
            "float_loss": [analysed.float_loss.value, analysed.float_loss.standard_error],
            "loss": [loss.value, loss.standard_error],
            "increase_nats": allocation.loss_increase_nats + analysed.activation_increase_nats,
            "decision": {
                "status": allocation.status,
                "method": allocation.method,
                "bound_nats": allocation.bound + analysed.activation_increase_nats,
                "gap": allocation.gap,
                "seconds": seconds,
            },
        }
        return Outcome("evaluated", (loss.value, *metrics_of(allocation.metrics)), record)

    def _decide(self, problem: JointProblem, candidate: Candidate) -> tuple[JointAllocation, dict[str, float]]:
        """The exact optimum under the limits and the candidate's share of the traded metric."""
        metric = DECIDED[candidate.metric]
        best = allocate(problem, self._limits)
        if candidate.share >= 1.0:
            return best, dict(self._limits)
        least = least_total(problem, metric, self._limits)
        assert least is not None  # `allocate` found a choice
        most = max(best.metrics[metric], least)
        limits = {**self._limits, metric: least + candidate.share * (most - least)}
        return allocate(problem, limits), limits
