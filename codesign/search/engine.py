"""The loop of every search: ask for a plan, measure it, tell the result; and the strategy for one budget."""

from collections.abc import Callable, Mapping
from typing import Protocol

from codesign.errors import CodesignError
from codesign.files import digest_of
from codesign.plan.plan import Plan
from codesign.progress import Progress, Silent
from codesign.search.from_facts import plan_of_choice
from codesign.search.integer_program import Allocation, solve
from codesign.search.journal import Journal
from codesign.search.local_search import LocalSearch
from codesign.search.neighbourhood import Neighbourhood, Picks
from codesign.search.objective import Evaluation, evaluation_from_json
from codesign.search.problem import AllocationProblem, uniform_choices

NEIGHBOURS_OF_OPTIMUM = 4
"""Neighbours of the additive optimum that are measured before the search moves to the best start."""


class Strategy(Protocol):
    """Chooses what to measure next; the same answers to the same questions give the same plans in another process."""

    def ask(self) -> Plan | None:
        """The next plan to measure.

        Returns:
            A plan, the same one until it is told; None when the search is over.
        """

    def tell(self, evaluation: Evaluation) -> None:
        """Takes the measurement of the plan that was asked.

        Args:
            evaluation: What the plan was found to be worth.
        """


def drive(
    strategy: Strategy,
    measure: Callable[[Plan], Evaluation],
    journal: Journal,
    subject: str,
    progress: Progress | None = None,
    expected: int = 0,
    label: str = "measuring plans",
) -> tuple[Evaluation, ...]:
    """Asks, measures and tells until the strategy has no more plans; what the journal holds is not measured again.

    Args:
        strategy: Chooses plans.
        measure: Measures one plan on the same samples every time.
        journal: Keeps every measurement before it is told.
        subject: Digest of all that a measurement depends on beside the plan: graph, data, options.
        progress: Told of every plan.
        expected: Number of plans, for the progress.
        label: What the progress calls the work.

    Returns:
        All evaluations, in the order in which they were asked.
    """
    listener = progress or Silent()
    listener.start(label, expected)
    found = []
    try:
        while (plan := strategy.ask()) is not None:
            evaluation = recall_or_measure(plan, measure, journal, subject)
            strategy.tell(evaluation)
            found.append(evaluation)
            listener.advance()
    finally:
        listener.finish()
    return tuple(found)


def recall_or_measure(plan: Plan, measure: Callable[[Plan], Evaluation], journal: Journal, subject: str) -> Evaluation:
    """Reads a plan's measurement from the journal, or measures it and keeps it there.

    Args:
        plan: The plan.
        measure: Measures one plan.
        journal: Keeps measurements.
        subject: Digest of all that a measurement depends on beside the plan.

    Returns:
        The measurement.

    Raises:
        CodesignError: The measurement is of another plan.
    """
    key = digest_of(subject, plan.to_json())
    record = journal.find(key)
    if record is None:
        evaluation = measure(plan)
        journal.append(key, evaluation.to_json())
        record = evaluation.to_json()
    recalled = evaluation_from_json(record)
    if recalled.plan != plan:
        raise CodesignError(f"plan {plan.digest}: the measurement is of plan {recalled.plan.digest}; measure that plan")
    return recalled


class AllocationStrategy:
    """Widths of all layers under one budget: the additive optimum, refined by measured losses.

    It measures the exact optimum of the additive model, its most promising neighbours and every uniform plan that fits,
    and goes on from the best by `LocalSearch`. All plans keep the limits exactly under the problem's metrics.

    Attributes:
        allocation: The additive optimum with its bound.
    """

    def __init__(
        self,
        problem: AllocationProblem,
        limits: Mapping[str, float],
        architecture: str,
        evaluations: int,
        significance: float = 1.0,
    ) -> None:
        """Solves the additive model.

        Args:
            problem: Layers with their options.
            limits: Largest allowed total by metric.
            architecture: Name of the architecture variant, for the plans.
            evaluations: Plans to measure at most; 1 measures the additive optimum alone.
            significance: Standard errors by which a measured improvement must exceed 0 to be believed.

        Raises:
            CodesignError: `evaluations` is below 1.
        """
        if evaluations < 1:
            raise CodesignError(f"evaluations of a search: got {evaluations}, at least 1 is needed; raise it")
        self._problem, self._architecture, self._evaluations = problem, architecture, evaluations
        self.allocation: Allocation = solve(problem, limits)
        self._neighbourhood = Neighbourhood(problem, limits)
        self._search = LocalSearch(self._neighbourhood, self._starts(limits), significance)
        self._asked: Plan | None = None

    def _starts(self, limits: Mapping[str, float]) -> list[Picks]:
        place = self._neighbourhood
        optimum = place.picks_of(self.allocation.choice)
        around = place.around(optimum, place.prices)
        near = [picks for picks, _ in zip(around, range(NEIGHBOURS_OF_OPTIMUM), strict=False)]
        uniform = [place.picks_of(c) for c in reversed(uniform_choices(self._problem)) if self._problem.fits(c, limits)]
        return [optimum, *uniform, *near]

    def ask(self) -> Plan | None:
        """The next plan to measure.

        Returns:
            A plan that keeps the limits, the same one until it is told; None when the search is over.
        """
        if self._asked is None and self.told < self._evaluations:
            picks = self._search.ask()
            self._asked = None if picks is None else self._plan(picks)
        return self._asked

    def tell(self, evaluation: Evaluation) -> None:
        """Takes the measurement of the plan that was asked.

        Args:
            evaluation: What the plan was found to be worth.

        Raises:
            CodesignError: It is of another plan.
        """
        if self._asked is None or self._asked != evaluation.plan:
            raise CodesignError(
                f"plan {evaluation.plan.digest} was not asked for; tell the evaluation of the asked plan"
            )
        self._asked = None
        self._search.tell(self._neighbourhood.picks_of(evaluation.plan.bits), evaluation)

    @property
    def told(self) -> int:
        """How many plans were measured."""
        return len(self._search.measured)

    @property
    def proposal(self) -> Plan:
        """The additive optimum as a plan."""
        return plan_of_choice(self.allocation.choice, self._architecture)

    @property
    def best(self) -> Evaluation:
        """The best plan so far, by what the measurements can tell apart."""
        return self._search.measured[self._search.incumbent]

    def _plan(self, picks: Picks) -> Plan:
        return plan_of_choice(self._neighbourhood.choice_of(picks), self._architecture)
