"""Labels, the integer programme and brute force agree; limits are kept without tolerance."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.quantization.scheme import Widths
from codesign.search.allocation_table import read_table
from codesign.search.joint_allocation import allocate, least_total
from codesign.search.joint_problem import JointOption, JointProblem, Method
from codesign.search.joint_solution import solution_of
from codesign.testing.joint_problems import ProblemKind, all_choices, random_problem

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "hawq_v3_resnet18.json"
KINDS = st.builds(
    ProblemKind,
    nodes=st.integers(1, 6),
    widths=st.integers(1, 2),
    places=st.integers(1, 2),
    shape=st.sampled_from(["chain", "residual", "dense", "loose"]),
    numbers=st.sampled_from(["whole", "tenths", "real"]),
    ties=st.booleans(),
    excludes=st.booleans(),
    loads=st.booleans(),
)
Cases = tuple[JointProblem, dict[str, float]]


@st.composite
def limited_problems(draw: st.DrawFn) -> Cases:
    problem = random_problem(draw(KINDS), draw(st.integers(0, 10**6)))
    choices = list(all_choices(problem).values())
    limits = {}
    if choices:
        for metric in draw(st.lists(st.sampled_from(problem.metrics), unique=True)):
            # Limits that a choice meets exactly, and limits just below.
            met = draw(st.sampled_from(choices))[1][metric]
            limits[metric] = max(0.0, draw(st.sampled_from([met, math.nextafter(met, -1), 0.9 * met, met + 0.5])))
    return problem, limits


def _fitting(
    problem: JointProblem, limits: Mapping[str, float]
) -> dict[tuple[int, ...], tuple[float, Mapping[str, float]]]:
    return {
        picks: (loss, totals)
        for picks, (loss, totals) in all_choices(problem).items()
        if all(totals[metric] <= limit for metric, limit in limits.items())
    }


def _check_optimum(problem: JointProblem, limits: Mapping[str, float], method: Method) -> None:
    fitting = _fitting(problem, limits)
    found = solution_of(problem, limits, method=method)
    assert (found.is_proven, found.method) == (True, method)
    if not fitting:
        assert found.picks is None
        return
    assert found.picks in fitting
    least = min(loss for loss, _ in fitting.values())
    assert problem.loss_of(found.picks) == pytest.approx(least, rel=1e-12, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(limited_problems())
def test_labels_equal_brute_force_under_any_limits(case: Cases) -> None:
    _check_optimum(*case, "label-setting")


@settings(max_examples=40, deadline=None)
@given(limited_problems())
def test_the_integer_programme_equals_brute_force(case: Cases) -> None:
    problem, limits = case
    apart = {metric: limit * (1 + 1e-6) for metric, limit in limits.items()}  # HiGHS cannot see the last digits
    _check_optimum(problem, apart, "integer-programme")


@settings(max_examples=80, deadline=None)
@given(limited_problems())
def test_of_equal_losses_the_cheapest_is_taken(case: Cases) -> None:
    problem, limits = case
    fitting = _fitting(problem, limits)
    finite = {m: limit for m, limit in limits.items() if limit > 0 and not problem.is_maximum(m)}
    if not fitting or not finite:
        return
    found = allocate(problem, limits)
    equal = [totals for loss, totals in fitting.values() if loss == found.loss_increase_nats]
    shares = [math.fsum(totals[m] / limit for m, limit in finite.items()) for totals in equal]
    assert math.fsum(found.metrics[m] / limit for m, limit in finite.items()) <= min(shares) * (1 + 1e-9)
    assert (found.status, found.gap, found.bound) == ("optimal", 0.0, found.loss_increase_nats)


@settings(max_examples=50, deadline=None)
@given(limited_problems(), st.data())
def test_least_totals_equal_brute_force(case: Cases, data: st.DataObject) -> None:
    problem, limits = case
    metric = data.draw(st.sampled_from(problem.metrics))
    limits.pop(metric, None)
    totals = [totals[metric] for _, totals in _fitting(problem, limits).values()]
    found = least_total(problem, metric, limits)
    if not totals:
        assert found is None
        return
    assert found == pytest.approx(min(totals), rel=1e-12, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(limited_problems(), st.floats(1.0, 2.0))
def test_a_looser_limit_is_never_worse(case: Cases, factor: float) -> None:
    problem, limits = case
    tight, loose = (solution_of(problem, x) for x in (limits, {m: v * factor for m, v in limits.items()}))
    if tight.picks is not None:
        assert loose.picks is not None
        assert problem.loss_of(loose.picks) <= problem.loss_of(tight.picks)


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE.name} is absent")
@pytest.mark.parametrize("position", range(9))
def test_equals_the_reference_optimum(position: int) -> None:
    case = json.loads(REFERENCE.read_text())["cases"][position]
    table, options = read_table(REFERENCE).problem, []
    for layer in table.layers:
        widths = [o.bits for o in layer.options if isinstance(o.bits, int)]
        options.append(
            tuple(
                JointOption(Widths(bits, bits), "d", o.loss_increase, o.metrics)
                for bits, o in zip(widths, layer.options, strict=True)
            )
        )
    problem = JointProblem(tuple(layer.name for layer in table.layers), tuple(options), ties=table.ties)
    found = allocate(problem, case["limit"])
    assert [option.widths.weight for _, option in found.choice] == case["optimal_bits"]
    assert found.loss_increase_nats == pytest.approx(case["optimal_loss_increase"], rel=1e-12)
    assert found.gap == 0


def test_a_known_choice_does_not_change_the_answer() -> None:
    problem = random_problem(ProblemKind(8, 3, 2, "residual", "real"), 3)
    limits = {"latency_s": 1.1 * (least_total(problem, "latency_s") or 0.0)}
    cold = solution_of(problem, limits)
    known = [*cold.paths, tuple(len(offered) - 1 for offered in problem.options)]
    assert solution_of(problem, limits, known=known).picks == cold.picks


def test_the_same_input_gives_the_same_answer() -> None:
    problem = random_problem(ProblemKind(8, 3, 2, "residual", "whole"), 5)
    limits = {metric: 1.5 * (least_total(problem, metric) or 0.0) for metric in ("latency_s", "energy_j")}
    assert allocate(problem, limits).choice == allocate(problem, limits).choice


def _two_widths(latencies: tuple[float, float], count: int = 3) -> JointProblem:
    options = tuple(
        JointOption(Widths(bits, 8), "d", loss, {"latency_s": seconds})
        for bits, loss, seconds in zip((8, 4), (0.0, 1.0), latencies, strict=True)
    )
    return JointProblem(tuple(f"n{i}" for i in range(count)), (options,) * count)


def test_a_sum_that_is_above_the_limit_by_its_last_digit_is_not_taken() -> None:
    assert math.fsum([0.1] * 3) > 0.3
    found = allocate(_two_widths((0.1, 0.05)), {"latency_s": 0.3})
    assert found.loss_increase_nats == 1.0
    assert allocate(_two_widths((0.1, 0.05)), {"latency_s": math.fsum([0.1] * 3)}).loss_increase_nats == 0.0


def test_many_terms_below_the_grid_are_decided_by_the_correctly_rounded_sum() -> None:
    """Terms of a millionth of the limit lose digits on the grid of whole numbers."""
    tiny = 1e-7 / 3
    problem = _two_widths((tiny, tiny / 7), 40)
    big = JointProblem(
        (*problem.names, "big"), (*problem.options, (JointOption(Widths(8, 8), "d", 0.0, {"latency_s": 0.1}),))
    )
    exact = math.fsum([0.1, *[tiny] * 40])
    assert allocate(big, {"latency_s": exact}).loss_increase_nats == 0.0
    assert allocate(big, {"latency_s": math.nextafter(exact, 0.0)}).loss_increase_nats == 1.0


@pytest.mark.parametrize("unit", [2.0**-60, 1e-9, 1.0, 2.0**60])
def test_units_do_not_matter(unit: float) -> None:
    problem = random_problem(ProblemKind(6, 2, 2, "residual", "whole"), 1)
    scaled = JointProblem(
        problem.names,
        tuple(
            tuple(
                JointOption(o.widths, o.place, o.loss_increase_nats, {m: v * unit for m, v in o.metrics.items()})
                for o in offered
            )
            for offered in problem.options
        ),
        tuple(type(e)(e.producer, e.consumer, {m: t * unit for m, t in e.metrics.items()}) for e in problem.edges),
        {m: v * unit for m, v in problem.constant.items()},
    )
    limit = 2.0 + (least_total(problem, "latency_s") or 0.0)
    assert allocate(scaled, {"latency_s": limit * unit}).picks == allocate(problem, {"latency_s": limit}).picks


def test_a_budget_out_of_reach_names_the_tightest_values() -> None:
    problem = _two_widths((2e-3, 1e-3))
    with pytest.raises(InfeasibleBudgetError, match=r"latency_s: at most 2 ms allowed, least possible 3 ms"):
        allocate(problem, {"latency_s": 2e-3})
    options = tuple(
        JointOption(Widths(8, 8), place, 0.0, {"latency_s": seconds, "energy_j": joules})
        for place, seconds, joules in (("fast", 1.0, 3.0), ("slow", 3.0, 1.0))
    )
    both = JointProblem(("a", "b"), (options, options))
    with pytest.raises(InfeasibleBudgetError, match="least possible 2 s alone, 6 s while the other limits are kept"):
        allocate(both, {"latency_s": 2.0, "energy_j": 2.0})


def test_ties_without_common_widths_are_refused() -> None:
    one, other = (JointOption(Widths(bits, 8), "d", 0.0, {"latency_s": 1.0}) for bits in (4, 8))
    problem = JointProblem(("a", "b"), ((one,), (other,)), ties=(("a", "b"),))
    with pytest.raises(InfeasibleBudgetError, match="offer tied nodes the same widths"):
        allocate(problem, {"latency_s": 5.0})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"latncy_s": 1.0}, "did you mean 'latency_s'"),
        ({"latency_s": math.nan}, "got nan"),
        ({"latency_s": -1.0}, "-1"),
    ],
)
def test_limits_without_sense_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate(_two_widths((1.0, 0.5)), limits)


def test_when_time_runs_out_the_answer_fits_and_says_how_far_it_may_be() -> None:
    problem = random_problem(ProblemKind(60, 3, 3, "residual", "real"), 0)
    limits = {m: 1.3 * (least_total(problem, m) or 0.0) for m in ("latency_s", "energy_j")}
    found = allocate(problem, {m: 2.0 * limit for m, limit in limits.items()}, time_limit_s=0.05)
    assert all(found.metrics[m] <= 2.0 * limit for m, limit in limits.items())
    assert found.bound <= found.loss_increase_nats
    assert (found.gap > 0) == (found.status == "time-limit")
