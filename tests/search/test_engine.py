"""The strategy for one budget and the loop that drives strategies, with the journal between them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import CodesignError, InfeasibleBudgetError, MeasurementError
from codesign.plan.plan import Cost, Plan
from codesign.quantization.scheme import BitWidths
from codesign.search.engine import AllocationStrategy, drive
from codesign.search.from_facts import plan_of_choice
from codesign.search.journal import FileJournal, MemoryJournal
from codesign.search.objective import Evaluation
from codesign.search.problem import AllocationProblem, LayerOption, LayerOptions, uniform_choices
from codesign.testing.strategy_conformance import STRATEGY_CHECKS, Check, StrategyCase

NAMES = ("stem", "conv1", "conv2", "conv3", "shortcut", "head")
WIDTHS = tuple(BitWidths(bits, 8) for bits in (2, 3, 4, 8))
SIZES = (30.0, 100.0, 200.0, 400.0, 50.0, 80.0)
LIMITS = {"weight_bytes": 3.6 * sum(SIZES)}
EVALUATIONS = 25


def _problem() -> AllocationProblem:
    layers = tuple(
        LayerOptions(
            name,
            tuple(
                LayerOption(w, (3.0 - 0.3 * i) * 4.0**-w.weight, {"weight_bytes": SIZES[i] * w.weight}) for w in WIDTHS
            ),
        )
        for i, name in enumerate(NAMES)
    )
    return AllocationProblem(layers, ties=(("conv3", "shortcut"),), fixed={"stem": WIDTHS[-1]})


def _measure(plan: Plan) -> Evaluation:
    """Layers of odd and even position disturb the outputs in opposite directions."""
    shifts = [(-1) ** i * (1 + 0.2 * i) * 2.0**-bits.weight for i, (_, bits) in enumerate(plan.bits)]
    samples = tuple((sum(shifts) * (1 + 0.1 * n) + 0.05 * max(shifts)) ** 2 for n in range(8))
    size = int(_problem().totals_of(plan.bits)["weight_bytes"])
    return Evaluation(plan, Cost(1e-3, 1e-6, 0, size, 0.0), float(np.mean(samples)), None, samples)


def _strategy(evaluations: int = EVALUATIONS) -> AllocationStrategy:
    return AllocationStrategy(_problem(), LIMITS, "net", evaluations)


CASE = StrategyCase(
    make=_strategy,
    measure=_measure,
    fits=lambda plan: _problem().fits(plan.bits, LIMITS) and _problem().respects_ties(plan.bits),
    at_most=EVALUATIONS + 1,
    other=Plan("net", tuple((name, WIDTHS[-1]) for name in NAMES)),
)


@pytest.mark.parametrize("check", STRATEGY_CHECKS)
def test_the_strategy_conforms(check: Check) -> None:
    check(CASE)


def test_the_optimum_and_the_uniform_plans_come_first() -> None:
    strategy = _strategy()
    plans = [evaluation.plan for evaluation in drive(strategy, _measure, MemoryJournal(), "here")]
    assert plans[0] == strategy.proposal == plan_of_choice(strategy.allocation.choice, "net")
    uniform = [plan_of_choice(c, "net") for c in uniform_choices(_problem()) if _problem().fits(c, LIMITS)]
    assert uniform
    assert plans[1 : 1 + len(uniform)] == uniform[::-1]
    assert strategy.told == len(plans) == EVALUATIONS


def test_the_best_is_no_worse_than_what_it_started_from() -> None:
    strategy = _strategy()
    found = drive(strategy, _measure, MemoryJournal(), "here")
    assert strategy.best in found
    assert strategy.best.loss_increase_nats < found[0].loss_increase_nats
    assert strategy.best.loss_increase_nats < found[1].loss_increase_nats


def test_one_evaluation_measures_the_additive_optimum_alone() -> None:
    strategy = _strategy(1)
    [only] = drive(strategy, _measure, MemoryJournal(), "here")
    assert strategy.best == only == _measure(strategy.proposal)


def test_two_budgets_share_measurements_but_two_subjects_do_not() -> None:
    journal, counts = MemoryJournal(), [0]

    def counted(plan: Plan) -> Evaluation:
        counts[0] += 1
        return _measure(plan)

    drive(_strategy(10), counted, journal, "data A")
    drive(_strategy(12), counted, journal, "data A")
    assert counts == [12]
    drive(_strategy(10), counted, journal, "data B")
    assert counts == [22]
    assert len(journal) == 22


def test_a_measurement_that_is_not_a_number_stops_the_search_and_is_not_kept() -> None:
    journal = MemoryJournal()

    def broken(plan: Plan) -> Evaluation:
        return Evaluation(plan, _measure(plan).cost, float("nan"))

    with pytest.raises(MeasurementError, match="was measured as nan"):
        drive(_strategy(), broken, journal, "here")
    assert len(journal) == 0


def test_the_measurement_of_another_plan_is_refused() -> None:
    with pytest.raises(CodesignError, match="the measurement is of plan"):
        drive(_strategy(), lambda _: _measure(CASE.other), MemoryJournal(), "here")


def test_searches_without_sense_are_refused() -> None:
    with pytest.raises(CodesignError, match="evaluations of a search: got 0"):
        _strategy(0)
    with pytest.raises(InfeasibleBudgetError, match="weight_bytes: at most 100 bytes allowed, least possible"):
        AllocationStrategy(_problem(), {"weight_bytes": 100.0}, "net", 5)
    with pytest.raises(CodesignError, match="was not asked for"):
        _strategy().tell(_measure(CASE.other))


@pytest.mark.parametrize("survived", [0, 1, 7, EVALUATIONS - 1])
def test_killed_and_started_again_with_a_file_it_ends_the_same(tmp_path: Path, survived: int) -> None:
    left = [survived]

    def killed(plan: Plan) -> Evaluation:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return _measure(plan)

    whole = tmp_path / "whole.jsonl"
    expected = drive(_strategy(), _measure, FileJournal(whole), "here")
    path = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        drive(_strategy(), killed, FileJournal(path), "here")
    if survived:
        path.write_bytes(path.read_bytes()[:-5])  # the last line was being written
    assert drive(_strategy(), _measure, FileJournal(path), "here") == expected
    assert path.read_bytes() == whole.read_bytes()


def test_another_process_writes_the_same_journal(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import test_engine as t\n"
        "t.drive(t._strategy(), t._measure, t.FileJournal(Path(sys.argv[2])), 'here')\n"
    )
    journals = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.jsonl"
        command = [sys.executable, "-c", program, str(Path(__file__).parent), str(path)]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed})
        journals.append(path.read_bytes())
    assert journals[0] == journals[1]
    assert len(journals[0].splitlines()) == EVALUATIONS
    assert all(json.loads(line)["record"]["plan"]["architecture"] == "net" for line in journals[0].splitlines())


class _Broken(AllocationStrategy):
    """Asks plans that break the budget, again and again."""

    def ask(self) -> Plan | None:
        return CASE.other

    def tell(self, evaluation: Evaluation) -> None:
        del evaluation


@pytest.mark.parametrize(
    "check",
    [
        check
        for check in STRATEGY_CHECKS
        if check.__name__ in {"check_comes_to_an_end", "check_refuses_what_was_not_asked"}
    ],
)
def test_the_checks_notice_a_broken_strategy(check: Callable[[StrategyCase], None]) -> None:
    broken = StrategyCase(lambda: _Broken(_problem(), LIMITS, "net", 5), _measure, CASE.fits, 10, CASE.other)
    with pytest.raises(AssertionError, match=r"still asks|is the first"):
        check(broken)
