"""Elimination and the integer programme find what enumeration finds."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.solver import elimination
from codesign.solver.edge_programme import Limit, solve
from codesign.solver.elimination import eliminate
from codesign.solver.pairwise import PairwiseProblem, pairwise_problem


@st.composite
def problems(draw: st.DrawFn) -> PairwiseProblem:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes = [rng.integers(0, 20, size).astype(float) for size in sizes]
    pairs = [(u, v) for u in range(len(sizes)) for v in range(len(sizes)) if u != v]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=7)) if pairs else []
    edges = []
    for u, v in chosen:
        table = rng.integers(0, 20, (sizes[u], sizes[v])).astype(float)
        table[rng.random(table.shape) < 0.15] = np.inf
        edges.append((u, v, table))
    return pairwise_problem(nodes, edges)


def all_picks(problem: PairwiseProblem) -> list[tuple[int, ...]]:
    return list(product(*(range(len(prices)) for prices in problem.nodes)))


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_both_equal_enumeration(problem: PairwiseProblem) -> None:
    least = min(problem.value(picks) for picks in all_picks(problem))
    found = eliminate(problem)
    assert found is not None
    assert found.value == least
    assert found.gap == 0
    programme = solve(problem)
    if math.isinf(least):
        assert programme is None
    else:
        assert programme is not None
        assert programme.value == least
        assert programme.gap == 0


@settings(max_examples=40, deadline=None)
@given(problem=problems(), share=st.floats(0, 1))
def test_limits_are_kept(problem: PairwiseProblem, share: float) -> None:
    weights = tuple(prices[::-1].copy() for prices in problem.nodes)
    sums = {picks: sum(w[i] for w, i in zip(weights, picks, strict=True)) for picks in all_picks(problem)}
    limit = float(round(share * max(sums.values())))
    least = min((problem.value(p) for p, total in sums.items() if total <= limit), default=math.inf)
    found = solve(problem, [Limit(weights, {}, limit)])
    if math.isinf(least):
        assert found is None
    else:
        assert found is not None
        assert found.value == least
        assert sums[found.picks] <= limit


def test_edges_of_a_limit_count() -> None:
    problem = pairwise_problem([np.array([0.0, 1.0])] * 2, [])
    moved = {(0, 1): np.array([[3.0, 0.0], [0.0, 3.0]])}
    problem = PairwiseProblem(problem.nodes, {(0, 1): np.zeros((2, 2))})
    found = solve(problem, [Limit((np.zeros(2),) * 2, moved, 1.0)])
    assert found is not None
    assert found.value == 1.0
    assert found.picks[0] != found.picks[1]


def test_tables_that_grow_too_large_are_left_to_the_programme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "LARGEST_TABLE", 3)
    triangle = [(u, v, np.ones((2, 2))) for u, v in ((0, 1), (1, 2), (0, 2))]
    assert eliminate(pairwise_problem([np.zeros(2)] * 3, triangle)) is None
