"""Refines plans by their measured loss, under the limits that the additive model gave them."""

from collections.abc import Mapping, Sequence

from codesign.errors import CodesignError
from codesign.search.fitted_prices import fit_prices
from codesign.search.neighbourhood import Neighbourhood, Picks
from codesign.search.objective import Evaluation


class LocalSearch:
    """First-improvement search: proposes choices one by one and is told their measured losses; no randomness.

    First it proposes the starts and moves to the best mean. Then it proposes the neighbour of the base that is cheapest
    under prices fitted to all measurements so far (`fit_prices`), never a choice twice. A neighbour becomes the
    incumbent and the new base if it is better by more than `significance` standard errors of the paired difference: the
    least of many noisy values is otherwise too good to be true. Once all neighbours are measured, the best choice whose
    neighbours are not is the next base.
    """

    def __init__(self, neighbourhood: Neighbourhood, starts: Sequence[Picks], significance: float = 1.0) -> None:
        """Begins a search.

        Args:
            neighbourhood: Problem, limits and moves.
            starts: Choices that keep the limits, measured first, in this order; at least one.
            significance: Standard errors by which an improvement must exceed 0.
        """
        self._neighbourhood = neighbourhood
        self._starts = list(dict.fromkeys(starts))
        self._significance = significance
        self._measured: dict[Picks, Evaluation] = {}
        self._exhausted: set[Picks] = set()
        self._base: Picks | None = None
        self._incumbent: Picks | None = None

    @property
    def incumbent(self) -> Picks:
        """The best choice so far, by what the measurements can tell apart."""
        if self._incumbent is None:
            raise CodesignError("local search: nothing was measured yet; tell it the first start's loss")
        return self._incumbent

    @property
    def measured(self) -> Mapping[Picks, Evaluation]:
        """All measurements so far, in order."""
        return self._measured

    def ask(self) -> Picks | None:
        """The next choice to measure; asking again without telling gives the same one.

        Returns:
            A choice that keeps the limits and was not measured, or None if there is none.
        """
        for start in self._starts:
            if start not in self._measured:
                return start
        while self._base is not None:
            losses = {picks: found.loss_increase_nats for picks, found in self._measured.items()}
            prices = fit_prices(self._neighbourhood.prices, losses, self._base)
            for neighbour in self._neighbourhood.around(self._base, prices):
                if neighbour not in self._measured:
                    return neighbour
            self._exhausted.add(self._base)
            rest = [picks for picks in self._measured if picks not in self._exhausted]
            self._base = min(rest, key=lambda picks: (losses[picks], picks), default=None)
        return None

    def tell(self, picks: Picks, found: Evaluation) -> None:
        """Takes a measurement.

        Args:
            picks: What was asked.
            found: Its measured loss.
        """
        required = 0.0 if picks in self._starts else self._significance
        self._measured[picks] = found
        if self._incumbent is None or _is_better(found, self._measured[self._incumbent], required):
            self._incumbent = self._base = picks


def _is_better(one: Evaluation, other: Evaluation, significance: float) -> bool:
    gain, error = one.improvement(other)
    return gain > 0 and gain > significance * error
