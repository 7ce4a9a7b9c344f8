import itertools

import pytest
import torch
from torch import Tensor

from codesign.curvature import gram_spectrum
from codesign.curvature.gram_spectrum import GramPart, GramSums, largest_eigenvalues, plan_passes
from codesign.curvature.pair_selection import Seeds
from codesign.curvature.tapped_network import Linear
from codesign.data_parallel import Shard
from codesign.progress import Silent

PAIRS = 12


def _seeds(signs: Tensor) -> Seeds:
    count = len(signs)
    factors = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    return Seeds(torch.arange(count), torch.zeros(count, dtype=torch.int64), signs, factors, torch.zeros(count).long())


@pytest.mark.parametrize("outputs", [2, 40], ids=["weight side", "pair side"])
@pytest.mark.parametrize("indefinite", [False, True])
def test_equals_the_dense_matrix_on_both_sides_and_in_parts(outputs: int, indefinite: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.where(torch.arange(PAIRS) % 3 == 0, -1, 1) if indefinite else torch.ones(PAIRS, dtype=torch.int64)
    seeds = _seeds(signs)
    columns = torch.randn(PAIRS, 1, 3, 2, dtype=torch.float64, generator=generator)
    gradients = torch.randn(PAIRS, 1, 1, outputs, 2, dtype=torch.float64, generator=generator)
    vectors = (gradients[:, 0, 0] @ columns[:, 0].mT).flatten(1)
    dense = torch.linalg.eigvalsh(vectors.mT @ ((signs * seeds.factors).unsqueeze(1) * vectors)).flip(0)
    on_weights = outputs * 3 <= PAIRS
    bounds = [0, outputs] if on_weights else [0, 7, 39, outputs]
    sums = GramSums(seeds, slice(0, PAIRS), {"a": 3}, torch.float64, Shard())
    found: dict[str, Tensor] = {}
    for begin, end in itertools.pairwise(bounds):
        assert not found
        sums.begin([GramPart("a", slice(begin, end), on_weights, 0, last=end == outputs)])
        for chunk in (slice(0, 5), slice(5, PAIRS)):
            which = torch.arange(PAIRS)[chunk].unsqueeze(1)
            sums.add("a", which, columns[chunk], gradients[chunk])
        sums.add("a", torch.full((2, 1), -1), columns[:2], gradients[:2])  # places without a seed
        sums.add("other", torch.zeros(2, 1).long(), columns[:2], gradients[:2])
        found = sums.finish()
    assert len(found["a"]) == min(PAIRS, outputs * 3)
    wanted = largest_eigenvalues(dense, len(dense), len(dense))
    assert largest_eigenvalues(found["a"], len(dense), len(dense)) == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_the_rest_of_the_spectrum_is_zero() -> None:
    values = torch.tensor([3.0, -1.0], dtype=torch.float64)
    assert largest_eigenvalues(values, 4, 10) == (3.0, 0.0, 0.0, 0.0)
    assert largest_eigenvalues(values, 4, 3) == (3.0, 0.0, -1.0)
    assert largest_eigenvalues(values[:0], 2, 5) == (0.0, 0.0)


def _plan(memory: int, notes: list[str]) -> list[list[GramPart]]:
    geometries = {"small": Linear(8), "wide": Linear(4000), "huge": Linear(10**6)}
    channels = {"small": 2, "wide": 40, "huge": 10}
    return plan_passes(geometries, channels, list(geometries), 100, 4, memory, Silent(notes.append))


def test_passes_cover_every_layer_once_within_the_memory() -> None:
    notes: list[str] = []
    for memory in (10**9, 3 * 10**6, 500_000):
        passes = _plan(memory, notes)
        for parts in passes:
            assert sum(part.bytes for part in parts) <= memory
            assert len({part.layer for part in parts}) == len(parts)
        for name, channels in {"small": 2, "wide": 40}.items():
            own = [part for parts in passes for part in parts if part.layer == name]
            assert [c for part in own for c in range(part.channels.start, part.channels.stop)] == list(range(channels))
            assert [part.last for part in own] == [False] * (len(own) - 1) + [True]
    assert len(_plan(10**9, [])) == 1
    assert len(notes) == 2  # a single channel of the huge layer takes 40 MB
    assert all("layer huge: no eigenvalues" in note for note in notes)


def test_matrices_that_are_too_large_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram_spectrum, "LARGEST_SIDE", 50)
    notes: list[str] = []
    assert [part.layer for parts in _plan(10**9, notes) for part in parts] == ["small"]
    assert len(notes) == 2
