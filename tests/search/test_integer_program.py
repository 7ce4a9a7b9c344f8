"""The integer programme equals brute force, keeps limits without tolerance, and says what can be reached."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.search.allocation_table import read_table
from codesign.search.integer_program import least_total, solve
from codesign.search.problem import AllocationProblem, Choice, LayerOption, LayerOptions
from codesign.solver.one_hot_model import OutOfTimeError

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "hawq_v3_resnet18.json"
METRICS = ("latency_s", "weight_bytes", "peak_memory_bytes")


def _all_choices(problem: AllocationProblem) -> Iterator[Choice]:
    for picks in product(*(layer.options for layer in problem.layers)):
        choice = tuple((layer.name, option.bits) for layer, option in zip(problem.layers, picks, strict=True))
        tied = all(len({dict(choice)[name] for name in tie}) == 1 for tie in problem.ties)
        if tied and all(dict(choice)[name] == bits for name, bits in problem.fixed.items()):
            yield choice


def _fits(problem: AllocationProblem, choice: Choice, limits: Mapping[str, float]) -> bool:
    """Written again without the code under test."""
    bits_of = dict(choice)
    for metric, limit in limits.items():
        used = [o.metrics[metric] for layer in problem.layers for o in layer.options if o.bits == bits_of[layer.name]]
        used.append(problem.constant.get(metric, 0.0))
        if (max(used) if metric == "peak_memory_bytes" else math.fsum(used)) > limit:
            return False
    return True


def _loss(problem: AllocationProblem, choice: Choice) -> float:
    bits_of = dict(choice)
    return math.fsum(o.loss_increase for x in problem.layers for o in x.options if o.bits == bits_of[x.name])


def _brute_force(problem: AllocationProblem, limits: Mapping[str, float]) -> float | None:
    return min((_loss(problem, c) for c in _all_choices(problem) if _fits(problem, c, limits)), default=None)


@st.composite
def problems(draw: st.DrawFn) -> AllocationProblem:
    # Few distinct numbers make ties between choices frequent; free floats make sums that differ in the last digits.
    numbers = draw(
        st.sampled_from([
            st.integers(0, 6).map(float),
            st.sampled_from([0.1, 0.2, 0.3, 0.7]),
            st.floats(0, 1e3, allow_nan=False),
        ])
    )
    losses = draw(st.sampled_from([st.integers(-2, 6).map(float), st.floats(0, 10), st.sampled_from([0.1, 0.2, 0.3])]))
    layers = []
    for i in range(draw(st.integers(1, 5))):
        bits = draw(st.lists(st.sampled_from([2, 3, 4, 8]), min_size=1, max_size=4, unique=True))
        bits = sorted({8, *bits}, key=lambda b: -b)
        options = [LayerOption(b, draw(losses), {m: draw(numbers) for m in METRICS}) for b in bits]
        layers.append(LayerOptions(f"layer{i}", tuple(options)))
    names = [layer.name for layer in layers]
    ties = draw(st.lists(st.lists(st.sampled_from(names), min_size=2, max_size=3).map(tuple), max_size=2))
    fixed = {names[0]: 8} if draw(st.booleans()) and not ties else {}
    constant = {"latency_s": draw(numbers), "peak_memory_bytes": draw(numbers)} if draw(st.booleans()) else {}
    return AllocationProblem(tuple(layers), tuple(ties), fixed, constant)


@st.composite
def limited_problems(draw: st.DrawFn) -> tuple[AllocationProblem, dict[str, float]]:
    problem = draw(problems())
    choices = list(_all_choices(problem))
    limits = {}
    for metric in draw(st.lists(st.sampled_from(METRICS), unique=True)):
        # Limits that a choice meets exactly, and limits just below.
        met = problem.totals_of(draw(st.sampled_from(choices)))[metric]
        limits[metric] = max(0.0, draw(st.sampled_from([met, math.nextafter(met, -1), met * 0.9, met + 0.5])))
    return problem, limits


@settings(max_examples=400, deadline=None)
@given(limited_problems())
def test_equals_brute_force_under_any_limits(case: tuple[AllocationProblem, dict[str, float]]) -> None:
    problem, limits = case
    expected = _brute_force(problem, limits)
    if expected is None:
        with pytest.raises(InfeasibleBudgetError):
            solve(problem, limits)
        return
    found = solve(problem, limits)
    assert found.choice in set(_all_choices(problem))
    assert _fits(problem, found.choice, limits)
    assert found.loss_increase == _loss(problem, found.choice)
    assert found.loss_increase == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert (found.status, found.gap, found.bound) == ("optimal", 0.0, found.loss_increase)
    assert found.metrics == problem.totals_of(found.choice)


def _with_whole_losses(problem: AllocationProblem) -> AllocationProblem:
    """Losses rounded to whole numbers, whose sums are equal or far apart."""
    layers = tuple(
        LayerOptions(x.name, tuple(replace(o, loss_increase=float(round(o.loss_increase))) for o in x.options))
        for x in problem.layers
    )
    return replace(problem, layers=layers)


@settings(max_examples=150, deadline=None)
@given(limited_problems())
def test_no_choice_as_good_is_cheaper(case: tuple[AllocationProblem, dict[str, float]]) -> None:
    problem, limits = case
    problem = _with_whole_losses(problem)
    additive = {m: limit for m, limit in limits.items() if m != "peak_memory_bytes" and limit > 0}
    if _brute_force(problem, limits) is None or len(additive) != 1:
        return
    [metric] = additive
    found = solve(problem, limits)
    equals = [
        c for c in _all_choices(problem) if _fits(problem, c, limits) and _loss(problem, c) == found.loss_increase
    ]
    cheapest = min(problem.totals_of(choice)[metric] for choice in equals)
    assert found.metrics[metric] == pytest.approx(cheapest, rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(limited_problems(), st.sampled_from(METRICS))
def test_least_total_equals_brute_force(case: tuple[AllocationProblem, dict[str, float]], metric: str) -> None:
    problem, limits = case
    limits.pop(metric, None)
    fitting = [c for c in _all_choices(problem) if _fits(problem, c, limits)]
    expected = min((problem.totals_of(choice)[metric] for choice in fitting), default=None)
    found = least_total(problem, metric, limits)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE.name} is absent")
@pytest.mark.parametrize("position", range(9))
def test_equals_the_reference_optimum(position: int) -> None:
    case = json.loads(REFERENCE.read_text())["cases"][position]
    found = solve(read_table(REFERENCE).problem, case["limit"])
    assert [bits for _, bits in found.choice] == case["optimal_bits"]
    assert found.loss_increase == pytest.approx(case["optimal_loss_increase"], rel=1e-12)
    assert found.gap == 0
    assert found.seconds < 2  # about 0.015 s; a shared machine may be slow


def _scaled(problem: AllocationProblem, loss: float, units: Mapping[str, float]) -> AllocationProblem:
    layers = tuple(
        LayerOptions(
            layer.name,
            tuple(
                LayerOption(o.bits, o.loss_increase * loss, {m: v * units[m] for m, v in o.metrics.items()})
                for o in layer.options
            ),
        )
        for layer in problem.layers
    )
    return replace(problem, layers=layers)


def _staircase() -> AllocationProblem:
    """Eight layers with strictly better and dearer options, without equal sums."""
    layers = []
    for i in range(8):
        options = [
            LayerOption(
                bits, math.exp(-bits) * (1 + 0.37 * i), {"latency_s": bits * (1 + 0.11 * i), "bops": bits**2 + i}
            )
            for bits in (2, 3, 4, 8)
        ]
        layers.append(LayerOptions(f"n{i}", tuple(options)))
    return AllocationProblem(tuple(layers))


@pytest.mark.parametrize("loss", [2.0**-60, 1.0, 2.0**60])
@pytest.mark.parametrize("unit", [2.0**-50, 2.0**-30, 1.0, 2.0**40])
def test_units_do_not_matter(loss: float, unit: float) -> None:
    problem = _staircase()
    limits = {"latency_s": 60.0, "bops": 260.0}
    expected = solve(problem, limits)
    scaled = _scaled(problem, loss, {"latency_s": unit, "bops": 2.0**40})
    found = solve(scaled, {"latency_s": 60.0 * unit, "bops": 260.0 * 2.0**40})
    assert found.choice == expected.choice
    assert found.loss_increase == expected.loss_increase * loss


def test_one_byte_in_a_terabyte_decides() -> None:
    layers = tuple(
        LayerOptions(
            f"n{i}",
            (LayerOption(4, 1.0 + i, {"weight_bytes": 1e12}), LayerOption(8, 0.0, {"weight_bytes": 2e12 + i})),
        )
        for i in range(4)
    )
    problem = AllocationProblem(layers)
    # The best pair at 8 bits is n2 and n3, which is 5 bytes above 6e12.
    assert [b for _, b in solve(problem, {"weight_bytes": 6e12 + 5}).choice] == [4, 4, 8, 8]
    assert [b for _, b in solve(problem, {"weight_bytes": 6e12 + 4}).choice] == [4, 8, 4, 8]


def test_sums_that_miss_the_limit_by_one_rounding_are_not_returned() -> None:
    # Three tenths add up to 0.30000000000000004, which is above 0.3.
    layers = tuple(
        LayerOptions(f"n{i}", (LayerOption(4, 1.0, {"latency_s": 0.0}), LayerOption(8, 0.0, {"latency_s": 0.1})))
        for i in range(24)
    )
    problem = AllocationProblem(layers)
    assert math.fsum([0.1] * 3) > 0.3
    found = solve(problem, {"latency_s": 0.3})
    assert found.metrics["latency_s"] == 0.2
    assert found.loss_increase == 22.0
    assert found.bound <= 22.0


def test_equal_layers_are_served_in_order() -> None:
    layers = tuple(
        LayerOptions(f"n{i}", (LayerOption(4, 1.0, {"bops": 1.0}), LayerOption(8, 0.0, {"bops": 2.0})))
        for i in range(6)
    )
    assert [b for _, b in solve(AllocationProblem(layers), {"bops": 8.0}).choice] == [8, 8, 4, 4, 4, 4]


def test_the_same_input_gives_the_same_answer() -> None:
    first, second = (replace(solve(_staircase(), {"latency_s": 55.0}), seconds=0.0) for _ in range(2))
    assert first == second


def test_without_limits_every_layer_takes_its_best() -> None:
    problem = _staircase()
    assert {bits for _, bits in solve(problem, {}).choice} == {8}
    assert {bits for _, bits in solve(problem, {"latency_s": math.inf}).choice} == {8}


def test_a_limit_that_cannot_be_kept_alone_is_named_with_its_least_value() -> None:
    problem = _scaled(_staircase(), 1.0, {"latency_s": 1e-4, "bops": 1e9})
    least = problem.totals_of(tuple((layer.name, 2) for layer in problem.layers))["latency_s"]
    with pytest.raises(
        InfeasibleBudgetError, match=r"latency_s: at most 1 ms allowed, least possible 2\.216 ms"
    ) as error:
        solve(problem, {"latency_s": 1e-3, "bops": 1e15})
    assert "bops: least possible 60 G" in str(error.value)
    assert least == pytest.approx(2.216e-3)
    assert solve(problem, {"latency_s": 2.216e-3}).metrics["latency_s"] <= 2.216e-3


def test_limits_that_exclude_each_other_are_named_with_what_the_others_leave() -> None:
    layers = tuple(
        LayerOptions(
            f"n{i}",
            (
                LayerOption(4, 0.5, {"latency_s": 2e-3, "weight_bytes": 1000.0, "peak_memory_bytes": 64.0}),
                LayerOption(8, 0.1, {"latency_s": 1e-3, "weight_bytes": 3000.0, "peak_memory_bytes": 32.0}),
            ),
        )
        for i in range(4)
    )
    with pytest.raises(InfeasibleBudgetError) as error:
        solve(AllocationProblem(layers), {"latency_s": 5e-3, "weight_bytes": 9000.0})
    assert "latency_s: at most 5 ms allowed, least possible 4 ms alone, 6 ms while the other limits" in str(error.value)
    assert "weight_bytes: at most 9000 bytes allowed, least possible 4000 bytes alone, 10000 bytes" in str(error.value)
    with pytest.raises(InfeasibleBudgetError, match=r"peak_memory_bytes.*64 bytes while the other limits are kept"):
        solve(AllocationProblem(layers), {"peak_memory_bytes": 40.0, "weight_bytes": 9000.0})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"latncy_s": 1.0}, "did you mean 'latency_s'"),
        ({"latency_s": math.nan}, "got nan"),
        ({"latency_s": -1.0}, "got -1.0"),
    ],
)
def test_limits_without_sense_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve(_staircase(), limits)


def test_tied_layers_whose_exact_sum_is_just_above_are_not_taken_for_equals() -> None:
    # 0.2 + 0.2 and 0.1 + 0.3 agree when rounded; beside 0.1 and 0.1 only the second stays at 0.6.
    cheap, dear = {"latency_s": 0.1}, {"latency_s": 0.2}
    layers = (
        LayerOptions("a", (LayerOption(2, 0.0, cheap), LayerOption(8, 0.0, dear))),
        LayerOptions("b", (LayerOption(2, 1.0, {"latency_s": 0.3}), LayerOption(8, 0.0, dear))),
        LayerOptions("c", (LayerOption(8, 0.0, cheap),)),
    )
    problem = AllocationProblem(layers, ties=(("a", "b"),), constant={"latency_s": 0.1})
    assert math.fsum([0.1, 0.2, 0.2, 0.1]) > 0.6
    found = solve(problem, {"latency_s": 0.6})
    assert found.choice == (("a", 2), ("b", 2), ("c", 8))
    assert found.metrics["latency_s"] == 0.6


def _hard(layers: int) -> AllocationProblem:
    """Losses and two costs in nearly the same proportion everywhere, which leaves many near-optima."""
    found = []
    for i in range(layers):
        size = 1000.0 + 37.0 * (i * i % 101)
        options = [
            LayerOption(
                bits,
                size * 2.0**-bits,
                {"weight_bytes": size * bits, "latency_s": size * 1e-9 * (bits + 3) * (1 + 0.003 * (i * bits % 17))},
            )
            for bits in (2, 3, 4, 5, 6, 8)
        ]
        found.append(LayerOptions(f"n{i}", tuple(options)))
    return AllocationProblem(tuple(found))


def test_when_time_runs_out_the_answer_fits_and_says_how_far_it_may_be() -> None:
    problem = _hard(400)
    limits = {m: 0.97 * v for m, v in problem.totals_of(problem.choice_of([4] * 400)).items()}
    found = solve(problem, limits, time_limit_s=0.5)
    assert problem.fits(found.choice, limits)
    assert found.bound <= found.loss_increase
    assert (found.gap > 0) == (found.status == "time-limit")
    assert found.gap == pytest.approx((found.loss_increase - found.bound) / found.loss_increase)
    with pytest.raises(OutOfTimeError, match="no solution within 1e-09 s"):
        solve(problem, limits, time_limit_s=1e-9)
