"""Choosing a plan by measured values: the additive optimum proposes, its neighbourhood is measured."""

from collections.abc import Iterator, Mapping

from codesign.errors import CodesignError
from codesign.plan.plan import Plan
from codesign.search.from_facts import plan_of_choice
from codesign.search.integer_program import Allocation, solve
from codesign.search.objective import Evaluation
from codesign.search.problem import AllocationProblem, Bits, Choice, uniform_choices


class MeasuredSearch:
    """A local search whose objective is measured and whose moves are ordered by the additive model.

    It starts from the best measured of the additive optimum and the uniform plans that keep the limits. A move takes
    one group of tied layers one width up or down, or one up and another down, and keeps the limits; moves that the
    additive model likes most are measured first, and the first that is better is taken. Better means by more than
    `significance` standard errors of the paired difference: all plans are measured on the same samples, and the best
    of many noisy values is too good. Deterministic; nothing is asked twice.

    Args:
        problem: Layers with their options.
        limits: Largest allowed total by metric.
        architecture: Name that plans carry.
        evaluations: How many plans may be asked for.
        significance: Standard errors by which a move must be better.

    Attributes:
        allocation: The additive optimum, with bound and gap.
        told: How many plans were measured.

    Raises:
        InfeasibleBudgetError: No plan keeps the limits; what can be reached is named.
    """

    def __init__(
        self,
        problem: AllocationProblem,
        limits: Mapping[str, float],
        architecture: str,
        evaluations: int,
        significance: float = 1.0,
    ) -> None:
        self.allocation: Allocation = solve(problem, limits)
        self.told = 0
        self._problem, self._limits = problem, dict(limits)
        self._architecture, self._evaluations, self._significance = architecture, evaluations, significance
        self._best: Evaluation | None = None
        self._best_choice: Choice = self.allocation.choice
        uniform = [choice for choice in reversed(uniform_choices(problem)) if problem.fits(choice, limits)]
        self._starts = [self.allocation.choice, *(c for c in uniform if c != self.allocation.choice)]
        self._seen: set[Choice] = set(self._starts)
        self._pending: list[Choice] | None = None
        self._asked: Choice | None = None

    @property
    def proposal(self) -> Plan:
        """The additive optimum as a plan."""
        return plan_of_choice(self.allocation.choice, self._architecture)

    @property
    def best(self) -> Evaluation:
        """The plan to choose.

        Raises:
            CodesignError: Nothing has been told yet.
        """
        if self._best is None:
            raise CodesignError("no plan has been measured yet; ask for one and tell its value first")
        return self._best

    def ask(self) -> Plan | None:
        """The next plan to measure; the one before it must have been told.

        Returns:
            The plan, or None when the evaluations are used up or no move is left.
        """
        if self.told >= self._evaluations:
            return None
        if self.told < len(self._starts):
            self._asked = self._starts[self.told]
        else:
            if self._pending is None:
                self._pending = self._neighbours(self._best_choice)
            if not self._pending:
                return None
            self._asked = self._pending.pop(0)
            self._seen.add(self._asked)
        return plan_of_choice(self._asked, self._architecture)

    def tell(self, evaluation: Evaluation) -> None:
        """Takes the value of the plan that was asked for.

        Args:
            evaluation: What was measured.

        Raises:
            CodesignError: It is the value of another plan.
        """
        if self._asked is None or evaluation.plan != plan_of_choice(self._asked, self._architecture):
            raise CodesignError(f"plan {evaluation.plan.digest} was told, but it is not the one that was asked for")
        significance = 0.0 if self.told < len(self._starts) else self._significance
        if self._best is None or _is_better(evaluation, self._best, significance):
            self._best, self._best_choice, self._pending = evaluation, self._asked, None
        self._asked = None
        self.told += 1

    def _neighbours(self, choice: Choice) -> list[Choice]:
        """Unseen moves that keep the limits, those with the least loss under the additive model first."""
        bits = [dict(choice)[self._problem.layers[group.layers[0]].name] for group in self._problem.groups]
        found = {
            moved for picks in self._moves(bits)
            if (moved := self._problem.choice_of(picks)) not in self._seen and self._problem.fits(moved, self._limits)
        }  # fmt: skip
        return sorted(found, key=lambda moved: (self._problem.loss_of(moved), str(moved)))

    def _moves(self, bits: list[Bits]) -> Iterator[list[Bits]]:
        groups = self._problem.groups
        place = [group.bits.index(b) for group, b in zip(groups, bits, strict=True)]
        ups = [g for g, group in enumerate(groups) if place[g] + 1 < len(group.bits)]
        downs = [g for g in range(len(groups)) if place[g] > 0]
        single = [(g, 1) for g in ups] + [(g, -1) for g in downs]
        pairs = [((up, 1), (down, -1)) for up in ups for down in downs if up != down]
        for steps in [*((step,) for step in single), *pairs]:
            moved = list(bits)
            for g, step in steps:
                moved[g] = groups[g].bits[place[g] + step]
            yield moved


def _is_better(one: Evaluation, other: Evaluation, significance: float) -> bool:
    gain, standard_error = one.improvement(other)
    return gain > 0 and gain > significance * standard_error
