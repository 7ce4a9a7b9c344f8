"""An allocation problem under limits, reduced to what an integer programme has to decide."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from codesign.search.problem import PEAK_METRICS, AllocationProblem, Bits, Choice, Group, total
from codesign.solver.one_hot_model import Row, Terms


@dataclass(frozen=True)
class Candidate:
    """An option of a group.

    Attributes:
        bits: Bits of all its layers.
        loss: Sum over its layers.
        costs: By limited additive metric, exact sums over its layers.
    """

    bits: Bits
    loss: float
    costs: tuple[Fraction, ...]


@dataclass(frozen=True)
class Reduced:
    """What is left to decide.

    Attributes:
        problem: The whole problem.
        limits: Finite limits on additive metrics; limits on peaks have been applied to the candidates.
        groups: For each group of the problem the candidates that an optimum can need, never empty.
    """

    problem: AllocationProblem
    limits: Mapping[str, float]
    groups: tuple[tuple[Candidate, ...], ...]

    def choice(self, picks: Sequence[int]) -> Choice:
        """Spells out picks.

        Args:
            picks: Position of a candidate for each group.

        Returns:
            The choice for the whole problem.
        """
        return self.problem.choice_of([group[i].bits for group, i in zip(self.groups, picks, strict=True)])

    @property
    def losses(self) -> Terms:
        """Loss of each candidate above the least of its group, `[groups][candidates]`."""
        least = [min(option.loss for option in group) for group in self.groups]
        return [[option.loss - low for option in group] for group, low in zip(self.groups, least, strict=True)]

    @property
    def cost_shares(self) -> Terms:
        """Sum over limited metrics of cost / limit, `[groups][candidates]`."""
        return [[self._share(option) for option in group] for group in self.groups]

    def _share(self, option: Candidate) -> float:
        shares = zip(option.costs, self.limits.values(), strict=True)
        return math.fsum(float(cost) / limit for cost, limit in shares if limit)

    def rows(self, margin: float = 0.0) -> list[Row]:
        """Limits that can bind, each as slack above the cheapest candidates.

        Args:
            margin: Share of each limit that is taken off it.

        Returns:
            One row for each.
        """
        rows = []
        for position, metric in enumerate(self.limits):
            slack = self._slack(position, metric) - Fraction(margin * self.limits[metric])
            least = self._least(position)
            above = [
                [option.costs[position] - low for option in group]
                for group, low in zip(self.groups, least, strict=True)
            ]
            if sum(max(group) for group in above) >= slack:
                rows.append(Row([[float(cost) for cost in group] for group in above], float(slack)))
        return rows

    def each_limit_can_be_kept(self) -> bool:
        """Whether the choice that is cheapest by one metric keeps the limit on it, for each metric."""
        for position, (metric, limit) in enumerate(self.limits.items()):
            costs = [[option.costs[position] for option in group] for group in self.groups]
            cheapest = [group.index(min(group)) for group in costs]
            if self.problem.totals_of(self.choice(cheapest))[metric] > limit:
                return False
        return True

    def affordable(self) -> tuple[tuple[Candidate, ...], ...]:
        """Candidates that keep each limit beside the cheapest ones of the other groups, `[groups][candidates]`."""
        groups = self.groups
        for position, metric in enumerate(self.limits):
            slack = self._slack(position, metric)
            groups = tuple(
                tuple(option for option in group if option.costs[position] - low <= slack)
                for group, low in zip(groups, self._least(position), strict=True)
            )
        return groups

    def _least(self, position: int) -> list[Fraction]:
        return [min(option.costs[position] for option in group) for group in self.groups]

    def _slack(self, position: int, metric: str) -> Fraction:
        """What the limit leaves above the cheapest candidates; a sum that rounds to the limit keeps it."""
        limit = self.limits[metric]
        half_a_step = (Fraction(math.nextafter(limit, math.inf)) - Fraction(limit)) / 2
        constant = Fraction(self.problem.constant.get(metric, 0.0))
        return Fraction(limit) + half_a_step - constant - sum(self._least(position))


def reduce(problem: AllocationProblem, limits: Mapping[str, float]) -> Reduced | None:
    """Leaves out options that break a limit whatever the rest takes, and options that another one beats everywhere.

    Args:
        problem: The problem.
        limits: Largest allowed total by metric.

    Returns:
        The reduced problem, or None if that alone shows that no choice keeps the limits.
    """
    finite = {m: limit for m, limit in limits.items() if m not in PEAK_METRICS and math.isfinite(limit)}
    peaks = {m: limit for m, limit in limits.items() if m in PEAK_METRICS}
    if any(problem.constant.get(metric, 0.0) > limit for metric, limit in peaks.items()):
        return None
    groups = tuple(_candidates(problem, group, finite, peaks) for group in problem.groups)
    while True:
        reduced = Reduced(problem, finite, groups)
        if not all(groups) or not reduced.each_limit_can_be_kept():
            return None
        groups = reduced.affordable()
        if groups == reduced.groups:
            return Reduced(problem, finite, tuple(_undominated(group) for group in groups))


def least_alone(problem: AllocationProblem, metric: str) -> float:
    """The least total of one metric that any choice has.

    Args:
        problem: Layers with their options.
        metric: One of its metrics.

    Returns:
        The total.
    """
    picks = []
    for group in problem.groups:
        costs = [
            total(metric, [problem.layers[i].by_bits[bits].metrics[metric] for i in group.layers])
            for bits in group.bits
        ]
        picks.append(group.bits[costs.index(min(costs))])
    return problem.totals_of(problem.choice_of(picks))[metric]


def _candidates(
    problem: AllocationProblem, group: Group, additive: Mapping[str, float], peaks: Mapping[str, float]
) -> tuple[Candidate, ...]:
    found = []
    for bits in group.bits:
        options = [problem.layers[i].by_bits[bits] for i in group.layers]
        if all(option.metrics[metric] <= limit for option in options for metric, limit in peaks.items()):
            costs = tuple(
                sum((Fraction(option.metrics[metric]) for option in options), start=Fraction(0)) for metric in additive
            )
            found.append(Candidate(bits, math.fsum(option.loss_increase for option in options), costs))
    return tuple(found)


def _undominated(group: Sequence[Candidate]) -> tuple[Candidate, ...]:
    kept: list[Candidate] = []
    for option in group:
        if not any(_at_least_as_good(other, option) for other in kept):
            kept = [other for other in kept if not _at_least_as_good(option, other)]
            kept.append(option)
    return tuple(kept)


def _at_least_as_good(one: Candidate, other: Candidate) -> bool:
    return one.loss <= other.loss and all(a <= b for a, b in zip(one.costs, other.costs, strict=True))
