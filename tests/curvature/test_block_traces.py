import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from codesign.curvature.block_traces import BlockTraces, CurvatureMatrix, ProbingMethod, block_traces
from codesign.curvature.gauss_newton_operator import GaussNewtonOperator
from codesign.curvature.loss import SampleLoss
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.probing import StoppingRule
from codesign.errors import InputError

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]
TinyNetwork = Callable[[str], tuple[nn.Module, Tensor, Tensor, str]]

NETWORKS = ["gelu", "silu", "tanh", "attention", "shared"]
METHODS: list[ProbingMethod] = ["hutchinson", "hutch++", "xtrace"]
SIXTEEN = StoppingRule(0.0, 16, 16)


def _traces(
    problem: tuple[nn.Module, Tensor, Tensor, str],
    rule: StoppingRule,
    method: ProbingMethod = "hutchinson",
    seed: int = 0,
    samples_at_once: int | None = 64,
    vectors_at_once: int = 4,
    curvature: CurvatureMatrix = "hessian",
) -> BlockTraces:
    module, inputs, labels, _ = problem
    network = ModuleNetwork(module, inputs.dtype)
    weights = {name: weight for name, weight in network.weights.items() if weight.ndim > 1}
    return block_traces(
        network.with_weights,
        weights,
        inputs,
        labels,
        rule=rule,
        method=method,
        seed=seed,
        samples_at_once=samples_at_once,
        vectors_at_once=vectors_at_once,
        curvature=curvature,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_small_blocks_are_exact(name: str, tiny_network: TinyNetwork, dense_block: DenseBlock) -> None:
    problem = tiny_network(name)
    module, inputs, labels, _ = problem
    for parameter, block in _traces(problem, StoppingRule(), vectors_at_once=64).blocks.items():
        expected = float(dense_block(module, inputs, labels, parameter).trace())
        assert block.trace == pytest.approx(expected, rel=1e-10)
        assert (block.standard_error, block.draws) == (0.0, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_within_four_true_standard_errors_of_the_dense_hessian(
    name: str, tiny_network: TinyNetwork, dense_block: DenseBlock
) -> None:
    problem = tiny_network(name)
    module, inputs, labels, parameter = problem
    dense = dense_block(module, inputs, labels, parameter)
    block = _traces(problem, StoppingRule(0.0, 40, 40), vectors_at_once=40).blocks[parameter]
    error = math.sqrt(2 * float(dense.square().sum() - dense.diagonal().square().sum()) / block.draws)
    assert block.draws == 40
    assert abs(block.trace - float(dense.trace())) < 4 * error
    assert error < block.standard_error < 1.3 * error


@pytest.mark.parametrize("method", METHODS)
def test_each_method_finds_the_trace_and_stops_for_each_weight(
    method: ProbingMethod, tiny_network: TinyNetwork, dense_block: DenseBlock
) -> None:
    problem = tiny_network("silu")
    module, inputs, labels, _ = problem
    rule = StoppingRule(0.25, 6, 50)
    blocks = _traces(problem, rule, method, vectors_at_once=16).blocks
    assert {name for name, block in blocks.items() if not block.draws} == {"4.weight"}  # 24 elements
    for name, block in blocks.items():
        assert (
            abs(block.trace - float(dense_block(module, inputs, labels, name).trace()))
            <= 3 * block.standard_error + 1e-12
        )
        assert block.standard_error <= 0.25 * abs(block.trace)


def test_draws_of_a_weight_depend_on_the_seed_and_its_name_only(tiny_network: TinyNetwork) -> None:
    problem = tiny_network("gelu")
    module, inputs, labels, _ = problem
    network = ModuleNetwork(module, torch.float64)
    both = _traces(problem, SIXTEEN, seed=5).blocks
    name = "3.weight"
    alone = block_traces(network.with_weights, {name: network.weights[name]}, inputs, labels, rule=SIXTEEN, seed=5)
    assert alone.blocks[name].trace == pytest.approx(both[name].trace, rel=1e-12)
    assert _traces(problem, SIXTEEN, seed=6).blocks[name].trace != pytest.approx(both[name].trace, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("samples_at_once", "vectors_at_once"), [(None, 1), (3, 5), (1, 20)])
def test_chunks_do_not_matter(
    method: ProbingMethod, samples_at_once: int | None, vectors_at_once: int, tiny_network: TinyNetwork
) -> None:
    problem, rule = tiny_network("attention"), StoppingRule(0.0, 5, 16)
    whole = _traces(problem, rule, method).blocks
    parts = _traces(problem, rule, method, 0, samples_at_once, vectors_at_once).blocks
    for name, block in whole.items():
        assert parts[name].trace == pytest.approx(block.trace, rel=1e-9)
        assert parts[name].standard_error == pytest.approx(block.standard_error, rel=1e-7)


def test_gauss_newton_blocks(tiny_network: TinyNetwork) -> None:
    problem = tiny_network("tanh")
    module, inputs, labels, parameter = problem
    network = ModuleNetwork(module, torch.float64)
    weights = {parameter: network.weights[parameter]}
    operator = GaussNewtonOperator(network.with_weights, weights, inputs, labels)
    expected = float((operator @ torch.eye(operator.dimension, dtype=torch.float64)).trace())
    found = _traces(problem, StoppingRule(), vectors_at_once=64, curvature="gauss-newton").blocks[parameter]
    hessian = _traces(problem, StoppingRule(), vectors_at_once=64).blocks[parameter]
    assert found.trace == pytest.approx(expected, rel=1e-12)
    assert found.trace != pytest.approx(hessian.trace, rel=1e-2)


def test_passes_over_data_are_counted(tiny_network: TinyNetwork) -> None:
    problem = tiny_network("silu")  # three weights, four rounds of four vectors each
    assert _traces(problem, SIXTEEN).passes_over_data == 2 + 2 * 3 * 16
    assert _traces(problem, SIXTEEN, samples_at_once=4).passes_over_data == 2 * 4 + 2 * 3 * 16


class _NoBatchedForm(torch.autograd.Function):
    """The identity, with a derivative that torch cannot batch: it reads a value."""

    calls = 0

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        _NoBatchedForm.calls += 1
        assert math.isfinite(gradients[0].sum().item())
        return gradients[0].clone()


def test_operations_without_a_batched_form_are_run_one_by_one(tiny_network: TinyNetwork) -> None:
    module, inputs, labels, _ = tiny_network("shared")
    network = ModuleNetwork(module, torch.float64)
    weights = {"out.weight": network.weights["out.weight"]}

    def through(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = _NoBatchedForm.apply(network.with_weights(x, chosen))  # type: ignore[no-untyped-call] # torch
        return found

    batched, alone = (block_traces(f, weights, inputs, labels, rule=SIXTEEN) for f in (network.with_weights, through))
    assert alone.blocks["out.weight"].trace == pytest.approx(batched.blocks["out.weight"].trace, rel=1e-12)
    assert _NoBatchedForm.calls == 1 + 1 + 16  # the kept gradient, one refusal, one product a probe


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", [StoppingRule(0.05, 6, 20), StoppingRule()])
def test_weights_without_influence_have_trace_zero(method: ProbingMethod, rule: StoppingRule) -> None:
    torch.manual_seed(0)
    dead = nn.Linear(8, 10)  # what follows sees zeros
    nn.init.zeros_(dead.weight)
    nn.init.constant_(dead.bias, -1)
    module = nn.Sequential(dead, nn.ReLU(), nn.Linear(10, 3)).double().eval()
    network = ModuleNetwork(module, torch.float64)
    weights = {"unused": torch.ones(5, 5, dtype=torch.float64), **network.weights}

    def forward(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        return network.with_weights(x, {name: weight for name, weight in chosen.items() if name != "unused"})

    inputs, labels = torch.randn(6, 8, dtype=torch.float64), torch.randint(0, 3, (6,))
    blocks = block_traces(forward, weights, inputs, labels, method=method, rule=rule).blocks
    for name in ("unused", "0.weight", "2.weight"):
        assert (blocks[name].trace, blocks[name].standard_error) == (0.0, 0.0)
    assert blocks["2.bias"].trace > 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(10, 2, dtype=torch.int64), "one class index for each"),
        (torch.zeros(9, dtype=torch.int64), "as many targets as samples"),
        (torch.full((10,), 3), "allowed are 0 to 2"),
        (torch.full((10,), -1), "allowed are 0 to 2"),
    ],
)
def test_bad_labels_are_refused(labels: Tensor, message: str, tiny_network: TinyNetwork) -> None:
    module, inputs, _, parameter = tiny_network("shared")
    with pytest.raises(InputError, match=message):
        _traces((module, inputs, labels, parameter), SIXTEEN)


def test_bad_data_and_losses_are_refused(tiny_network: TinyNetwork) -> None:
    module, inputs, labels, parameter = tiny_network("gelu")
    with pytest.raises(InputError, match="at least one"):
        _traces((module, inputs[:0], labels[:0], parameter), SIXTEEN)
    network = ModuleNetwork(module, torch.float64)
    flat = SampleLoss(lambda output, target: output.argmax().double())
    with pytest.raises(InputError, match="not differentiable"):
        block_traces(network.with_weights, network.weights, inputs, labels, flat)
    inputs[3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        _traces((module, inputs, labels, parameter), SIXTEEN)
