"""What every search strategy must keep, as functions that a test calls with one case.

    @pytest.mark.parametrize("check", STRATEGY_CHECKS)
    def test_my_strategy(check):
        check(StrategyCase(lambda: MyStrategy(...), measure, fits, at_most=100, other=Plan(...)))

A check raises AssertionError with the plan that breaks it.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from codesign.errors import CodesignError
from codesign.plan.plan import Plan
from codesign.search.engine import Strategy, drive
from codesign.search.journal import MemoryJournal
from codesign.search.objective import Evaluation


@dataclass(frozen=True)
class StrategyCase:
    """A strategy with something to search.

    Attributes:
        make: Builds the strategy anew, always the same.
        measure: Measures a plan; the same plan always gives the same evaluation.
        fits: Whether a plan keeps the limits that the strategy was given.
        at_most: More plans than the strategy may ask for.
        other: A plan that the strategy does not ask first.
    """

    make: Callable[[], Strategy]
    measure: Callable[[Plan], Evaluation]
    fits: Callable[[Plan], bool]
    at_most: int
    other: Plan


Check = Callable[[StrategyCase], None]


class _KilledError(Exception):
    """Stands for a kill in the middle of a search."""


class _CountedMeasure:
    """Measures, and is killed when it has measured `most` plans."""

    def __init__(self, measure: Callable[[Plan], Evaluation], most: int) -> None:
        self._measure, self._most, self.done = measure, most, 0

    def __call__(self, plan: Plan) -> Evaluation:
        if self.done == self._most:
            raise _KilledError
        self.done += 1
        return self._measure(plan)


def check_asks_the_same_until_told(case: StrategyCase) -> None:
    """Asking again gives the same plan.

    Args:
        case: The strategy.
    """
    strategy = case.make()
    first, again = strategy.ask(), strategy.ask()
    assert first is not None, "the strategy asks for no plan at all"
    assert first == again, f"asked {first.digest}, then without being told {again.digest if again else None}"


def check_comes_to_an_end(case: StrategyCase) -> None:
    """The search ends, and stays ended.

    Args:
        case: The strategy.
    """
    strategy = case.make()
    asked = 0
    while (plan := strategy.ask()) is not None:
        asked += 1
        assert asked < case.at_most, f"the strategy still asks after {asked} plans"
        strategy.tell(case.measure(plan))
    assert strategy.ask() is None, "the strategy asks again after it has ended"


def check_asks_no_plan_twice(case: StrategyCase) -> None:
    """Every measurement is of a new plan.

    Args:
        case: The strategy.
    """
    plans = _asked(case)
    repeated = [plan.digest for i, plan in enumerate(plans) if plan in plans[:i]]
    assert not repeated, f"asked more than once: {', '.join(repeated)}"


def check_keeps_the_limits(case: StrategyCase) -> None:
    """No plan breaks the budget.

    Args:
        case: The strategy.
    """
    broken = [plan.digest for plan in _asked(case) if not case.fits(plan)]
    assert not broken, f"these plans break the limits: {', '.join(broken)}"


def check_is_deterministic(case: StrategyCase) -> None:
    """The same answers to the same questions give the same plans.

    Args:
        case: The strategy.
    """
    first, second = _asked(case), _asked(case)
    assert first == second, f"asked {[p.digest for p in first]}, the second time {[p.digest for p in second]}"


def check_refuses_what_was_not_asked(case: StrategyCase) -> None:
    """The evaluation of a plan that was not asked for is an error.

    Args:
        case: The strategy.

    Raises:
        AssertionError: The strategy takes it.
    """
    strategy = case.make()
    assert strategy.ask() != case.other, "the case's other plan is the first that the strategy asks for"
    try:
        strategy.tell(case.measure(case.other))
    except CodesignError:
        return
    raise AssertionError(f"took the evaluation of {case.other.digest}, which it did not ask for")


def check_resumes_after_every_measurement(case: StrategyCase) -> None:
    """Killed after any number of measurements and started again, it measures the rest and finds the same.

    Args:
        case: The strategy.
    """
    whole = drive(case.make(), case.measure, MemoryJournal(), "conformance")
    for survived in range(len(whole)):
        journal = MemoryJournal()
        killed, resumed = _CountedMeasure(case.measure, survived), _CountedMeasure(case.measure, len(whole))
        with contextlib.suppress(_KilledError):
            drive(case.make(), killed, journal, "conformance")
        found = drive(case.make(), resumed, journal, "conformance")
        assert found == whole, f"killed after {survived} measurements it finds something else"
        assert resumed.done == len(whole) - survived, f"killed after {survived} measurements it repeats some"


STRATEGY_CHECKS: tuple[Check, ...] = (
    check_asks_the_same_until_told,
    check_comes_to_an_end,
    check_asks_no_plan_twice,
    check_keeps_the_limits,
    check_is_deterministic,
    check_refuses_what_was_not_asked,
    check_resumes_after_every_measurement,
)


def _asked(case: StrategyCase) -> list[Plan]:
    found = drive(case.make(), case.measure, MemoryJournal(), "conformance")
    return [evaluation.plan for evaluation in found]
