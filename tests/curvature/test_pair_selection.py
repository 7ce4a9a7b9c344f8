import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.curvature.pair_selection import PairSelection, drawn_coefficients, only_draws, part_sums, select_pairs

WEIGHTS = st.integers(1, 5).flatmap(
    lambda c: st.lists(
        st.lists(st.just(0.0) | st.floats(1e-9, 1) | st.floats(-1, -1e-9), min_size=c, max_size=c),
        min_size=1,
        max_size=20,
    )
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _spread(seed: int) -> torch.Tensor:
    return torch.rand(40, 5, dtype=torch.float64, generator=_generator(seed)) ** 8


def _estimate(selection: PairSelection, vectors: torch.Tensor, count: int, seed: int) -> tuple[float, torch.Tensor]:
    """The head's sum and the draws' estimates of `sum_k w_k ||v_k||^2` for vectors `[N, C, n]`."""
    head = selection.head
    squares = vectors[head.samples, head.columns].square().sum(1)
    total = float((head.signs * head.factors * squares).sum())
    draws = selection.draw(count, _generator(seed))
    assert selection.tail is not None
    found = []
    for sample, sign, factor, randomness in zip(
        draws.samples.tolist(), draws.signs.tolist(), draws.factors.tolist(), draws.randomness.tolist(), strict=True
    ):
        c = drawn_coefficients(selection.tail[sample], selection.tail_sums[sample], sign, randomness)
        assert abs(float(c.square().sum()) - 1) < 1e-12
        found.append(sign * factor * float((c @ vectors[sample]).square().sum()))
    return total, torch.tensor(found, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.floats(0, 0.9), st.integers(2, 6), st.none() | st.integers(0, 6))
def test_head_holds_the_heaviest_and_leaves_at_most_the_share(
    values: list[list[float]], drop: float, draws: int, most: int | None
) -> None:
    weights = torch.tensor(values, dtype=torch.float64)
    selection = select_pairs(weights, drop, draws, most)
    head, size = selection.head, weights.abs()
    assert torch.equal(head.factors * head.signs, weights[head.samples, head.columns])
    assert (head.factors > 0).all()
    pairs = head.samples * weights.shape[1] + head.columns
    assert (pairs.diff() > 0).all()  # grouped by sample, no repeats
    assert selection.tail is not None
    left = weights.clone()
    left[head.samples, head.columns] = 0
    assert torch.equal(selection.tail, left)
    assert torch.equal(selection.tail_sums, part_sums(left))
    assert not len(head) or head.factors.min() >= left.abs().max()
    if most is None:
        assert left.abs().sum() <= drop * size.sum() * (1 + 1e-12)
    else:
        assert len(head) <= most
    assert selection.has_tail == bool((left != 0).any())


def test_without_drop_everything_is_run() -> None:
    weights = _spread(0) - 0.1
    selection = select_pairs(weights, 0.0, 2)
    assert len(selection.head) == weights.numel()
    assert not selection.has_tail


def test_a_short_tail_is_run_whole() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.1, 0.05, 0.05]], dtype=torch.float64)
    assert len(select_pairs(weights, 0.15, 2).head) == 5
    assert len(select_pairs(weights, 0.15, 2, max_pairs=3).head) == 3


def test_sampled_sum_is_unbiased_and_its_error_is_right() -> None:
    weights = _spread(1) * torch.where(torch.rand(40, 5, generator=_generator(3)) < 0.2, -1.0, 1.0)
    vectors = torch.randn(40, 5, 4, dtype=torch.float64, generator=_generator(2))
    truth = float((weights * vectors.square().sum(2)).sum())
    selection = select_pairs(weights, 0.3, 8)
    head, values = _estimate(selection, vectors, 4000, 0)
    error = float(values.std()) / 4000**0.5
    assert error > 0
    assert abs(head + float(values.mean()) - truth) < 4 * error


def test_draws_do_not_depend_on_what_is_drawn_later() -> None:
    selection = select_pairs(_spread(1), 0.3, 8)
    generator = _generator(5)
    first, second = selection.draw(8, generator), selection.draw(8, generator)
    assert torch.equal(first.randomness, selection.draw(8, _generator(5)).randomness)
    assert not torch.equal(first.randomness, second.randomness)
    both = first.joined(second)
    assert len(both) == 16
    assert torch.equal(both.samples[8:], second.samples)


def test_units_without_weight_are_never_drawn() -> None:
    sums = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    draws = only_draws(sums).draw(3000, _generator())
    assert set(zip(draws.samples.tolist(), draws.signs.tolist(), strict=True)) == {(1, -1), (3, 1)}
    assert abs(float((draws.samples == 1).double().mean()) - 2 / 3) < 0.05
    assert (draws.factors == 3).all()


def test_no_curvature_at_all_gives_nothing_to_run() -> None:
    selection = select_pairs(torch.zeros(3, 4, dtype=torch.float64), 0.1, 4)
    assert not len(selection.head)
    assert not selection.has_tail
