import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.curvature.pair_selection import select_pairs

EIGENVALUES = st.integers(1, 5).flatmap(
    lambda c: st.lists(st.lists(st.just(0.0) | st.floats(1e-9, 1), min_size=c, max_size=c), min_size=1, max_size=20)
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _spread(seed: int) -> torch.Tensor:
    return torch.rand(40, 5, dtype=torch.float64, generator=_generator(seed)) ** 8


@settings(max_examples=100, deadline=None)
@given(EIGENVALUES, st.floats(0, 0.9), st.integers(2, 6))
def test_head_holds_the_largest_and_leaves_at_most_the_share(
    values: list[list[float]], drop: float, draws: int
) -> None:
    eigenvalues = torch.tensor(values, dtype=torch.float64)
    selection = select_pairs(eigenvalues, drop, draws, _generator())
    assert torch.equal(selection.eigenvalues, eigenvalues[selection.rows, selection.ranks])
    assert (selection.eigenvalues > 0).all()
    pairs = selection.rows * eigenvalues.shape[1] + selection.ranks
    assert (pairs.diff() > 0).all()  # grouped by row, no repeats
    head = selection.eigenvalues[selection.head]
    left = eigenvalues.flatten().clone()
    left[pairs[selection.head]] = 0
    assert left.sum() <= drop * eigenvalues.sum() * (1 + 1e-12)
    assert not len(head) or head.min() >= left.max()
    assert len(selection.draws) in {0, draws}
    assert abs(selection.tail_eigenvalue_sum - float(left.sum())) <= 1e-12


@settings(max_examples=50, deadline=None)
@given(EIGENVALUES)
def test_without_drop_everything_is_summed_exactly(values: list[list[float]]) -> None:
    eigenvalues = torch.tensor(values, dtype=torch.float64)
    selection = select_pairs(eigenvalues, 0.0, 2, _generator())
    assert len(selection.rows) == int((eigenvalues > 0).sum())
    total, error = selection.sum_over_pairs(torch.ones(len(selection.rows), dtype=torch.float64))
    assert error == 0
    assert abs(total - float(eigenvalues.sum())) <= 1e-12 * max(1.0, float(eigenvalues.sum()))


def test_a_short_tail_is_run_whole() -> None:
    eigenvalues = torch.tensor([[0.5, 0.3, 0.1, 0.05, 0.05]], dtype=torch.float64)
    selection = select_pairs(eigenvalues, 0.15, 2, _generator())
    assert selection.head.all()
    assert len(selection.rows) == 5
    assert not len(selection.draws)


def test_sampled_sum_is_unbiased_and_its_error_is_right() -> None:
    eigenvalues = _spread(1)
    norms = torch.rand(eigenvalues.shape, dtype=torch.float64, generator=_generator(2)) * 10
    truth = float((eigenvalues * norms).sum())
    estimates, errors = [], []
    for seed in range(2000):
        selection = select_pairs(eigenvalues, 0.3, 8, _generator(seed))
        estimate, error = selection.sum_over_pairs(norms[selection.rows, selection.ranks])
        estimates.append(estimate)
        errors.append(error)
    found = torch.tensor(estimates, dtype=torch.float64)
    spread = float(found.std())
    assert abs(float(found.mean()) - truth) < 4 * spread / 2000**0.5
    # The mean squared reported error is the true variance, which also follows from the tail itself.
    reported = float(torch.tensor(errors, dtype=torch.float64).square().mean().sqrt())
    assert abs(reported / spread - 1) < 0.1
    flat, order = eigenvalues.flatten().sort(descending=True)
    kept = int(selection.head.sum())
    weights, sizes = flat[kept:], norms.flatten()[order][kept:]
    variance = weights.sum() * (weights * sizes**2).sum() - (weights * sizes).sum() ** 2
    assert abs(spread / float((variance / 8).sqrt()) - 1) < 0.1


def test_equal_norms_are_summed_without_error() -> None:
    eigenvalues = _spread(3)
    selection = select_pairs(eigenvalues, 0.5, 4, _generator())
    total, error = selection.sum_over_pairs(torch.ones(len(selection.rows), dtype=torch.float64))
    assert abs(total - float(eigenvalues.sum())) < 1e-12
    assert error < 1e-15


def test_no_curvature_at_all_gives_zero() -> None:
    selection = select_pairs(torch.zeros(3, 4, dtype=torch.float64), 0.1, 4, _generator())
    assert selection.sum_over_pairs(torch.zeros(0, dtype=torch.float64)) == (0.0, 0.0)
