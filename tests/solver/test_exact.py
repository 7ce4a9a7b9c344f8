"""Trellises, whole numbers and labels against enumeration."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.solver import exact
from codesign.solver.constrained import ConstrainedProblem, Excluded, Limited, Sum, whole_objective, whole_sum
from codesign.solver.exact import all_undominated, optimise, states_of
from codesign.solver.label_setting import undominated
from codesign.solver.trellis import trellis


def _problem(seed: int, nodes: int, triple: bool) -> ConstrainedProblem:
    rng = np.random.default_rng(seed)
    sizes = tuple(int(rng.integers(1, 4)) for _ in range(nodes))
    pairs = [(u, v) for u in range(nodes) for v in range(u + 1, nodes) if rng.random() < 0.4]

    def random_sum() -> Sum:
        own = {v: rng.integers(0, 5, size).astype(float) for v, size in enumerate(sizes)}
        return Sum(own, {(u, v): rng.integers(0, 5, (sizes[u], sizes[v])).astype(float) for u, v in pairs})

    limits = tuple(Limited(random_sum(), float(rng.integers(4, 10 * nodes)), 1.0) for _ in range(rng.integers(0, 3)))
    excluded = (Excluded((0, 1, 2), rng.random(sizes[:3]) < 0.3),) if triple and nodes > 2 else ()
    objective = Sum({v: values - 2.0 for v, values in random_sum().nodes.items()}, random_sum().edges)
    return ConstrainedProblem(sizes, objective, limits, excluded)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_optima_and_fronts_equal_enumeration(seed: int, nodes: int, triple: bool) -> None:
    problem = _problem(seed, nodes, triple)
    measure = Sum({v: np.arange(size, dtype=float) for v, size in enumerate(problem.sizes)})
    states = states_of(problem, measure)
    assert states is not None
    allowed = [p for p in product(*map(range, problem.sizes)) if problem.allows(p)]
    found = optimise(problem, states, measure)
    assert found.is_proven
    if not allowed:
        assert (found.picks, found.bound) == (None, math.inf) or found.picks is None
        return
    assert found.picks in allowed
    best = min((problem.value(p), sum(measure.terms(p))) for p in allowed)
    assert (problem.value(found.picks), sum(measure.terms(found.picks))) == best
    front = all_undominated(problem, states, measure, 10**6)
    assert front is not None
    points = {(problem.value(p), sum(measure.terms(p))) for p in allowed}
    kept = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert kept <= {(problem.value(p), sum(measure.terms(p))) for p in front} <= points


def _knapsack(seed: int) -> ConstrainedProblem:
    """A chain of nodes whose gap between dual and optimum is wide."""
    rng = np.random.default_rng(seed)
    nodes, options = 7, 3
    objective = Sum({v: rng.integers(0, 40, options).astype(float) for v in range(nodes)})
    edges = {(v, v + 1): rng.integers(0, 9, (options, options)).astype(float) for v in range(nodes - 1)}
    limits = tuple(
        Limited(Sum({v: rng.integers(0, 30, options).astype(float) for v in range(nodes)}, edges), limit)
        for limit in (90.0, 95.0)
    )
    return ConstrainedProblem((options,) * nodes, objective, limits)


@pytest.mark.parametrize(
    "seed", [*range(8), 165, 184, 463, 517, 753, 1523, 1540]
)  # the last ones need the whole distance
def test_a_growing_distance_from_the_bound_finds_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "FIRST_BEAM", 1)
    monkeypatch.setattr(exact, "FEW_ARCS", 0)
    problem = _knapsack(seed)
    states = states_of(problem)
    assert states is not None
    values = [problem.value(p) for p in product(*map(range, problem.sizes)) if problem.allows(p)]
    found = optimise(problem, states)
    assert found.is_proven
    assert found.bound == min(values, default=math.inf) or (found.picks is None and not values)


def test_multipliers_are_the_slope_of_the_bound() -> None:
    options = np.asarray([4.0, 1.0, 0.0]), np.asarray([1.0, 2.0, 4.0])
    problem = ConstrainedProblem(
        (3, 3, 3), Sum(dict.fromkeys(range(3), options[0])), (Limited(Sum(dict.fromkeys(range(3), options[1])), 9.0),)
    )
    states = states_of(problem)
    assert states is not None
    assert optimise(problem, states).multipliers == pytest.approx((0.5,))


def test_a_frontier_follows_the_graph_and_a_dense_one_is_refused() -> None:
    chain = trellis([4] * 10, [(v, v + 1) for v in range(9)])
    assert chain is not None
    assert max(len(step.before) for step in chain.steps) == 1
    star = trellis([10] * 12, [(v, 11) for v in range(11)])  # in its own order the frontier would hold eleven nodes
    assert star is not None
    assert max(math.prod(step.shape) for step in star.steps) <= 100
    assert trellis([8] * 12, [tuple(range(12))]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.floats(1e-3, 1e6))
def test_whole_numbers_keep_their_distance_from_the_limit(values: list[float], limit: float) -> None:
    most = Limited(Sum({}), limit).slack
    whole = whole_sum(Sum({0: np.asarray(values)}), most)
    for value, quanta in zip(values, whole.tables[0][1], strict=True):
        if value > limit:
            assert quanta > whole.most or not whole.is_exact
        else:
            assert abs(Fraction(int(quanta)) * Fraction(whole.quantum) - Fraction(value)) <= Fraction(whole.quantum)
            assert quanta <= whole.most + 1


def test_ties_of_rounding_go_to_even() -> None:
    """0.1 three times lies in the middle between 0.3 and the next float, whose last digit is even."""
    assert math.fsum([0.1] * 3) > 0.3
    assert not Fraction(0.1) * 3 <= Limited(Sum({}), 0.3).slack
    assert Fraction(0.1) * 3 <= Limited(Sum({}), math.nextafter(0.3, 1.0)).slack


def test_objectives_count_from_their_least_terms() -> None:
    whole = whole_objective(Sum({0: np.asarray([-1.0, 2.0, math.inf]), 1: np.asarray([0.5])}))
    assert [int(q) * whole.quantum for q in whole.tables[0][1][:2]] == [0.0, 3.0]
    assert (whole.most * whole.quantum, whole.offset, whole.is_exact) == (3.0, -0.5, True)


@given(st.integers(1, 4), st.integers(0, 60), st.integers(0, 10**6))
def test_undominated_labels_include_the_pareto_set(sums: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, values = rng.integers(0, 3, count), rng.integers(0, 5, (sums, count))
    kept = set(undominated(state, values).tolist())
    for i in range(count):
        better = [j for j in range(count) if state[j] == state[i] and (values[:, j] <= values[:, i]).all() and j != i]
        strictly = [j for j in better if (values[:, j] != values[:, i]).any()]
        assert i in kept or better
        if sums < 3 and strictly:
            assert i not in kept
