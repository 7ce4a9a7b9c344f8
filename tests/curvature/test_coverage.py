"""How often the true trace lies within three standard errors: at least 99 % of seeded runs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from codesign.curvature.block_traces import block_traces
from codesign.curvature.hutch_plus_plus import hutch_plus_plus
from codesign.curvature.hutchinson import hutchinson
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.probing import StoppingRule, TraceEstimate
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.curvature.xtrace import xtrace

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]
TinyNetwork = Callable[[str], tuple[nn.Module, Tensor, Tensor, str]]
Estimator = Callable[[DenseOperator, StoppingRule, int], TraceEstimate]

NETWORKS = ["gelu", "silu", "tanh", "attention", "shared"]


def _coverage(estimate: Estimator, matrix: Tensor, rule: StoppingRule, seeds: int) -> float:
    found = [estimate(DenseOperator(matrix), rule, seed) for seed in range(seeds)]
    errors = torch.tensor([e.trace for e in found], dtype=torch.float64) - matrix.trace()
    allowed = 3 * torch.tensor([e.standard_error for e in found], dtype=torch.float64)
    assert not any(e.is_exact for e in found)
    return float((errors.abs() <= allowed + 1e-13 * matrix.abs().sum()).double().mean())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "rule", [StoppingRule(0.0, 16, 16), StoppingRule(0.2, 16, 50)], ids=["fewest probes", "stopping on the error"]
)
def test_hutchinson_on_networks(
    name: str, rule: StoppingRule, tiny_network: TinyNetwork, dense_block: DenseBlock
) -> None:
    assert _coverage(hutchinson, dense_block(*tiny_network(name)), rule, 300) >= 0.99


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("estimate", "seeds"), [(hutch_plus_plus, 200), (xtrace, 100)])
def test_low_rank_methods_on_networks(
    name: str, estimate: Estimator, seeds: int, tiny_network: TinyNetwork, dense_block: DenseBlock
) -> None:
    matrix = dense_block(*tiny_network(name))
    assert _coverage(estimate, matrix, StoppingRule(0.2, 16, 50), seeds) >= 0.99


def _dominated(eigenvalues: Tensor) -> Tensor:
    size = len(eigenvalues)
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(random).Q
    return basis @ torch.diag(eigenvalues) @ basis.mT


@pytest.mark.parametrize(
    "matrix",
    [
        _dominated(torch.tensor([1.0] + [0.0] * 99, dtype=torch.float64)),
        _dominated(torch.tensor([1.0] + [0.01] * 99, dtype=torch.float64)),
        _dominated(0.7 ** torch.arange(100, dtype=torch.float64)),
    ],
    ids=["rank one", "one and a floor", "geometric"],
)
def test_skewed_quadratic_forms(matrix: Tensor) -> None:
    fewest = StoppingRule(0.0, 16, 16)
    assert _coverage(hutchinson, matrix, fewest, 500) >= 0.99
    assert _coverage(hutchinson, matrix, StoppingRule(0.2, 16, 80), 300) >= 0.99
    assert _coverage(hutch_plus_plus, matrix, StoppingRule(0.0, 16, 48), 200) >= 0.99
    assert _coverage(xtrace, matrix, StoppingRule(0.0, 16, 32), 100) >= 0.99
    # Neither a plain standard error over the values nor one widened by Student's factor does this.
    values = torch.stack([hutchinson(DenseOperator(matrix), fewest, seed).values for seed in range(500)])
    scatter = values.std(1) / 4 * 3.5863
    assert float(((values.mean(1) - matrix.trace()).abs() <= scatter).double().mean()) < 0.99


def test_end_to_end_on_a_network(tiny_network: TinyNetwork, dense_block: DenseBlock) -> None:
    module, inputs, labels, parameter = tiny_network("silu")
    network = ModuleNetwork(module, torch.float64)
    weights = {name: network.weights[name] for name in (parameter, "2.weight")}
    exact = {name: float(dense_block(module, inputs, labels, name).trace()) for name in weights}
    rule, inside = StoppingRule(0.3, 16, 40), 0
    for seed in range(50):
        found = block_traces(network.with_weights, weights, inputs, labels, rule=rule, seed=seed, vectors_at_once=16)
        inside += sum(abs(b.trace - exact[n]) <= 3 * b.standard_error for n, b in found.blocks.items())
    assert inside >= 0.99 * 2 * 50
