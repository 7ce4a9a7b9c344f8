"""Plans near a plan that keep the same limits, the most promising first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from codesign.search.problem import PEAK_METRICS, AllocationProblem, Bits, Choice, total

Picks = tuple[int, ...]
"""Position of an option for each group of a problem."""
Prices = Sequence[Sequence[float]]
"""What each option of each group is thought to add to the loss, ragged `[groups][options]`."""

ROUNDING = 1e-9
"""Share of a limit by which running sums may miss it; what is yielded is checked exactly."""


@dataclass(frozen=True)
class Neighbourhood:
    """Moves between choices under limits: one group by one width, swaps of two groups, and what then fits.

    Attributes:
        problem: Layers with their options.
        limits: Largest allowed total by metric.
    """

    problem: AllocationProblem
    limits: Mapping[str, float]

    @cached_property
    def bits(self) -> tuple[tuple[Bits, ...], ...]:
        """For each group its bits, in ascending order, that break no limit on a peak."""
        return tuple(
            tuple(b for b in group.bits if self._below_peaks(group.layers, b)) for group in self.problem.groups
        )

    def _below_peaks(self, layers: Sequence[int], bits: Bits) -> bool:
        options = [self.problem.layers[i].by_bits[bits] for i in layers]
        return all(o.metrics[m] <= limit for o in options for m, limit in self.limits.items() if m in PEAK_METRICS)

    @cached_property
    def prices(self) -> Prices:
        """Losses of the problem."""
        return [
            [math.fsum(self.problem.layers[i].by_bits[b].loss_increase for i in group.layers) for b in offered]
            for group, offered in zip(self.problem.groups, self.bits, strict=True)
        ]

    @cached_property
    def _shares(self) -> list[list[list[float]]]:
        """Cost as a share of the limit, `[metrics][groups][options]`, for limited additive metrics."""
        limits = {m: x for m, x in self.limits.items() if m not in PEAK_METRICS and 0 < x < math.inf}
        return [
            [
                [
                    total(m, [self.problem.layers[i].by_bits[b].metrics[m] for i in group.layers]) / limit
                    for b in offered
                ]
                for group, offered in zip(self.problem.groups, self.bits, strict=True)
            ]
            for m, limit in limits.items()
        ]

    def _used(self, picks: Picks) -> list[float]:
        """Share of each limit that a choice uses, without the constant part."""
        return [math.fsum(group[i] for group, i in zip(shares, picks, strict=True)) for shares in self._shares]

    @cached_property
    def _room(self) -> list[float]:
        limited = [m for m, x in self.limits.items() if m not in PEAK_METRICS and 0 < x < math.inf]
        return [1 + ROUNDING - self.problem.constant.get(m, 0.0) / self.limits[m] for m in limited]

    def picks_of(self, choice: Choice) -> Picks:
        """Turns a choice into positions.

        Args:
            choice: One option a layer.

        Returns:
            Its picks.
        """
        bits_of = dict(choice)
        names = [self.problem.layers[group.layers[0]].name for group in self.problem.groups]
        return tuple(offered.index(bits_of[name]) for offered, name in zip(self.bits, names, strict=True))

    def choice_of(self, picks: Picks) -> Choice:
        """Turns positions into a choice.

        Args:
            picks: One position a group.

        Returns:
            The choice.
        """
        return self.problem.choice_of([offered[i] for offered, i in zip(self.bits, picks, strict=True)])

    def around(self, picks: Picks, prices: Prices) -> Iterator[Picks]:
        """Neighbours that keep the limits, by ascending price; equal prices by their picks.

        Args:
            picks: Where to start.
            prices: What each option adds to the loss.

        Yields:
            Different neighbours, never `picks` itself.
        """
        used = self._used(picks)
        found: set[Picks] = set()
        for move in self._moves(picks):
            self._add(found, picks, used, move)
        for group, step in self._steps(picks):
            complete = self._relieved if step > 0 else self._filled
            found.update(complete(picks, used, group, prices))
        found.discard(picks)
        for neighbour in sorted(found, key=lambda p: (self.price(p, prices), p)):
            if self.problem.fits(self.choice_of(neighbour), self.limits):
                yield neighbour

    def price(self, picks: Picks, prices: Prices) -> float:
        """Sum of prices.

        Args:
            picks: One position a group.
            prices: What each option adds to the loss.

        Returns:
            The predicted loss.
        """
        return math.fsum(group[i] for group, i in zip(prices, picks, strict=True))

    def _steps(self, picks: Picks) -> Iterator[tuple[int, int]]:
        for group, position in enumerate(picks):
            if position + 1 < len(self.bits[group]):
                yield group, 1
            if position > 0:
                yield group, -1

    def _moves(self, picks: Picks) -> Iterator[tuple[tuple[int, int], ...]]:
        """One group by one width; one group up and another down."""
        steps = list(self._steps(picks))
        yield from ((step,) for step in steps)
        for up in steps:
            if up[1] > 0:
                yield from ((up, down) for down in steps if down[1] < 0 and down[0] != up[0])

    def _add(self, found: set[Picks], picks: Picks, used: Sequence[float], move: Sequence[tuple[int, int]]) -> None:
        neighbour = picks
        for group, step in move:
            used = self._after(used, neighbour, group, step)
            neighbour = _moved(neighbour, group, step)
        if self._fits(used):
            found.add(neighbour)

    def _filled(self, picks: Picks, used: Sequence[float], group: int, prices: Prices) -> Iterator[Picks]:
        """One group a width down, then step by step what gains most for the room that it takes."""
        now, used = _moved(picks, group, -1), self._after(used, picks, group, -1)
        while self._fits(used):
            yield now
            ups = [g for g, step in self._steps(now) if step > 0 and g != group]
            fitting = [g for g in ups if self._fits(self._after(used, now, g, 1))]
            if not fitting:
                return
            best = min(fitting, key=lambda g: (self._price_per_share(now, g, 1, prices), g))
            now, used = _moved(now, best, 1), self._after(used, now, best, 1)

    def _relieved(self, picks: Picks, used: Sequence[float], group: int, prices: Prices) -> Iterator[Picks]:
        """One group a width up, then step by step what loses least for the room that it frees, until all fits."""
        now, used = _moved(picks, group, 1), self._after(used, picks, group, 1)
        while not self._fits(used):
            downs = [g for g, step in self._steps(now) if step < 0 and g != group]
            if not downs:
                return
            best = min(downs, key=lambda g: (self._price_per_share(now, g, -1, prices), g))
            now, used = _moved(now, best, -1), self._after(used, now, best, -1)
        yield now

    def _after(self, used: Sequence[float], picks: Picks, group: int, step: int) -> list[float]:
        here, there = picks[group], picks[group] + step
        return [
            now + shares[group][there] - shares[group][here] for shares, now in zip(self._shares, used, strict=True)
        ]

    def _fits(self, used: Sequence[float]) -> bool:
        return all(now <= room for now, room in zip(used, self._room, strict=True))

    def _price_per_share(self, picks: Picks, group: int, step: int, prices: Prices) -> float:
        """What a step adds to the price for each share of the limits that it takes or frees."""
        here, there = picks[group], picks[group] + step
        change = sum(abs(shares[group][there] - shares[group][here]) for shares in self._shares)
        return (prices[group][there] - prices[group][here]) / max(change, 1e-15)


def _moved(picks: Picks, group: int, step: int) -> Picks:
    return (*picks[:group], picks[group] + step, *picks[group + 1 :])
