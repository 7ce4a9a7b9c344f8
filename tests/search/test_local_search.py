"""The local search on losses that do not add up: errors of layers meet in the same outputs."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.errors import CodesignError
from codesign.plan.plan import Cost, Plan
from codesign.search import local_search
from codesign.search.integer_program import solve
from codesign.search.local_search import LocalSearch
from codesign.search.neighbourhood import Neighbourhood, Picks, Prices
from codesign.search.objective import Evaluation
from codesign.search.problem import AllocationProblem, LayerOption, LayerOptions

NOWHERE = Plan("none", ())
NOTHING = Cost(0.0, 0.0, 0, 0, 0.0)


@dataclass(frozen=True)
class InteractingLayers:
    """Losses `1/2 |sum_g v_g|^2` on each sample: what layer g adds to the outputs has a part that all layers share.

    Attributes:
        shifts: Change of the outputs by each option of each layer, `[layers, options, samples, outputs]`.
        sizes: Weights of each layer.
        bits: Widths of the options.
    """

    shifts: NDArray[np.float64]
    sizes: NDArray[np.int64]
    bits: tuple[int, ...]

    def losses(self, picks: Picks) -> NDArray[np.float64]:
        """Loss of each sample, `[samples]`."""
        total = sum(self.shifts[layer, pick] for layer, pick in enumerate(picks))
        return np.asarray((total**2).sum(axis=1) / 2)

    def evaluate(self, picks: Picks) -> Evaluation:
        """The mean over samples."""
        samples = self.losses(picks)
        return Evaluation(NOWHERE, NOTHING, float(samples.mean()), None, tuple(samples.tolist()))

    def neighbourhood(self, average_bits: float) -> Neighbourhood:
        """The additive problem: each layer's loss alone, under a limit on the weights' bytes."""
        alone = (self.shifts**2).sum(axis=3).mean(axis=2) / 2
        layers = tuple(
            LayerOptions(
                f"layer{g}",
                tuple(
                    LayerOption(b, float(alone[g, j]), {"weight_bytes": float(size * b)})
                    for j, b in enumerate(self.bits)
                ),
            )
            for g, size in enumerate(self.sizes)
        )
        return Neighbourhood(AllocationProblem(layers), {"weight_bytes": float(self.sizes.sum() * average_bits)})


def _interacting(seed: int, layers: int, bits: tuple[int, ...]) -> InteractingLayers:
    rng = np.random.default_rng(seed)
    samples, outputs = 30, 10
    shared = rng.normal(size=(samples, outputs))
    shifts = np.zeros((layers, len(bits), samples, outputs))
    for g in range(layers):
        scale = np.exp(rng.normal(-2.0, 1.0))
        for j, width in enumerate(bits):
            part = rng.normal() * shared + rng.normal(size=(samples, outputs))
            shifts[g, j] = scale * 2.0 ** (2 - width) * np.exp(rng.normal(0.0, 0.3)) * part
    return InteractingLayers(shifts, np.exp(rng.uniform(3, 6, layers)).astype(np.int64), bits)


def _search(
    network: InteractingLayers, average_bits: float, evaluations: int, significance: float = 0.0
) -> LocalSearch:
    place = network.neighbourhood(average_bits)
    optimum = place.picks_of(solve(place.problem, place.limits).choice)
    search = LocalSearch(place, [optimum], significance)
    for _ in range(evaluations):
        picks = search.ask()
        if picks is None:
            break
        search.tell(picks, network.evaluate(picks))
    return search


def _best_of_all(network: InteractingLayers, average_bits: float) -> tuple[float, Picks]:
    place = network.neighbourhood(average_bits)
    every = product(range(len(network.bits)), repeat=len(network.sizes))
    fitting = [picks for picks in every if place.problem.fits(place.choice_of(picks), place.limits)]
    return min((float(network.losses(picks).mean()), picks) for picks in fitting)


def test_it_finds_the_optimum_that_the_sum_misses() -> None:
    found, missed_by_the_sum = 0, 0
    for seed in range(8):
        network = _interacting(seed, layers=6, bits=(2, 3, 4, 8))
        search = _search(network, 3.5, evaluations=150)  # of about 1,800 plans that fit
        least, _ = _best_of_all(network, 3.5)
        losses = [evaluation.loss_increase_nats for evaluation in search.measured.values()]
        found += min(losses) == least
        missed_by_the_sum += losses[0] > least
        assert search.measured[search.incumbent].loss_increase_nats == min(losses)
    assert missed_by_the_sum >= 5
    assert found >= 7


def test_fitted_prices_find_better_plans_for_the_same_number_of_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(prices: Prices, measured: dict[Picks, float], base: Picks) -> Prices:
        del measured, base
        return prices

    networks = [_interacting(seed, layers=40, bits=(2, 3, 4, 8)) for seed in range(8)]
    fitted = [_search(network, 3.5, 30) for network in networks]
    monkeypatch.setattr(local_search, "fit_prices", unchanged)
    static = [_search(network, 3.5, 30) for network in networks]
    ratios = [
        one.measured[one.incumbent].loss_increase_nats / other.measured[other.incumbent].loss_increase_nats
        for one, other in zip(fitted, static, strict=True)
    ]
    assert np.exp(np.mean(np.log(ratios))) < 0.97
    assert sum(ratio < 0.99 for ratio in ratios) > sum(ratio > 1.01 for ratio in ratios)


def test_everything_reachable_is_measured_once_and_then_it_ends() -> None:
    network = _interacting(0, layers=4, bits=(2, 4, 8))
    search = _search(network, 5.0, evaluations=10_000)
    place = network.neighbourhood(5.0)
    fitting = [p for p in product(range(3), repeat=4) if place.problem.fits(place.choice_of(p), place.limits)]
    assert sorted(search.measured) == sorted(fitting)
    assert search.ask() is None
    assert search.measured[search.incumbent].loss_increase_nats == _best_of_all(network, 5.0)[0]


def test_an_improvement_within_the_noise_is_not_believed() -> None:
    options = tuple(LayerOption(b, 1.0 / b, {"weight_bytes": float(b)}) for b in (2, 4))
    place = Neighbourhood(
        AllocationProblem((LayerOptions("a", options), LayerOptions("b", options))), {"weight_bytes": 6.0}
    )

    def evaluation(samples: tuple[float, ...]) -> Evaluation:
        return Evaluation(NOWHERE, NOTHING, float(np.mean(samples)), None, samples)

    start, other = (1, 0), (0, 1)
    # The mean falls by 0.1; the paired differences scatter by about 1, or hardly at all.
    for samples, believed in (((1.0, 3.0, 1.0, 2.6), False), ((1.88, 1.92, 1.89, 1.91), True)):
        search = LocalSearch(place, [start], significance=1.0)
        assert search.ask() == start
        search.tell(start, evaluation((2.0, 2.0, 2.0, 2.0)))
        while (picks := search.ask()) not in {other, None}:
            assert picks is not None
            search.tell(picks, evaluation((9.0, 9.0, 9.0, 9.0)))
        search.tell(other, evaluation(samples))
        assert (search.incumbent == other) == believed


def test_the_start_with_the_best_mean_is_the_base() -> None:
    network = _interacting(1, layers=4, bits=(2, 4, 8))
    starts: list[Picks] = [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 1)]
    search = LocalSearch(network.neighbourhood(5.0), [*starts, starts[0]], significance=1e9)
    for start in starts:
        assert search.ask() == start
        search.tell(start, network.evaluate(start))
    assert search.incumbent == min(starts, key=lambda picks: network.losses(picks).mean())


def test_before_any_measurement_there_is_no_incumbent() -> None:
    search = LocalSearch(_interacting(0, 2, (2, 4)).neighbourhood(4.0), [(0, 0)])
    with pytest.raises(CodesignError, match="nothing was measured yet"):
        _ = search.incumbent
