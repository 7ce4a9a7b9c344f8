import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.hutchinson import HutchinsonOptions, hutchinson_traces
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.tapped_network import BlockTrace
from codesign.errors import InputError

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]


class Attention(nn.Module):
    """One head of softmax attention over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT
        logits: Tensor = self.out((scores.softmax(-1) @ self.v(x)).mean(1))
        return logits


class Shared(nn.Module):
    """One ReLU layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(F.relu(self.twice(F.relu(self.twice(x)))))
        return logits


def _convolutional(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), activation, nn.MaxPool2d(2), nn.Conv2d(3, 2, 2), activation, nn.Flatten(),
        nn.Linear(2, 3),
    )  # fmt: skip


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "gelu": (lambda: _convolutional(nn.GELU()), (2, 4, 4)),
    "tanh": (lambda: _convolutional(nn.Tanh()), (2, 4, 4)),
    "softmax": (Attention, (3, 4)),
    "shared": (Shared, (4,)),
}


def _make(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    inputs = torch.randn(10, *shape, dtype=torch.float64) * 2
    return build().double().eval(), inputs, torch.randint(0, 3, (10,))


def _estimate(
    module: nn.Module, inputs: Tensor, labels: Tensor, options: HutchinsonOptions, seed: int = 0
) -> Mapping[str, BlockTrace]:
    network = ModuleNetwork(module, inputs.dtype)
    weights = {name: weight for name, weight in network.weights.items() if weight.ndim > 1}
    return hutchinson_traces(network.with_weights, weights, inputs, labels, options, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_within_four_standard_errors_of_the_dense_hessian(name: str, dense_block: DenseBlock) -> None:
    module, inputs, labels = _make(name)
    options = HutchinsonOptions(max_probes=400, relative_error=0, probes_at_once=100)
    for parameter, block in _estimate(module, inputs, labels, options).items():
        dense = dense_block(module, inputs, labels, parameter)
        # Variance of one Rademacher probe: 2 (||H||_F^2 - sum_i H_ii^2).
        error = math.sqrt(2 * float(dense.square().sum() - dense.diagonal().square().sum()) / 400)
        assert block.draws == 400
        assert abs(block.trace - float(dense.trace())) < 4 * error
        assert block.standard_error == pytest.approx(error, rel=0.25)


def test_a_diagonal_hessian_needs_one_probe() -> None:
    # softmax([0, w_i x]) of separate binary problems: the Hessian in w is diagonal.
    inputs = torch.linspace(0.5, 2, 6, dtype=torch.float64).reshape(1, 6)
    weights = {"w": torch.linspace(-1, 1, 6, dtype=torch.float64)}

    def forward(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        scores = x * chosen["w"]
        return torch.stack([scores, torch.zeros_like(scores)], -1)

    labels = torch.zeros(1, 6, dtype=torch.int64)
    options = HutchinsonOptions(max_probes=2, min_probes=2)
    block = hutchinson_traces(forward, weights, inputs, labels, options)["w"]
    p = (inputs[0] * weights["w"]).sigmoid()
    assert block.trace == pytest.approx(float((inputs[0].square() * p * (1 - p)).mean()), rel=1e-12)
    assert block.standard_error == pytest.approx(0, abs=1e-15)


def test_stops_when_the_error_is_small_enough() -> None:
    module, inputs, labels = _make("gelu")
    loose = _estimate(module, inputs, labels, HutchinsonOptions(max_probes=2000, relative_error=0.1))
    for block in loose.values():
        assert block.draws < 2000
        assert block.standard_error <= 0.1 * abs(block.trace)
    short = _estimate(module, inputs, labels, HutchinsonOptions(max_probes=20, relative_error=0))
    assert {block.draws for block in short.values()} == {20}


def test_draws_of_a_weight_do_not_depend_on_the_others() -> None:
    module, inputs, labels = _make("gelu")
    network = ModuleNetwork(module, torch.float64)
    options = HutchinsonOptions(max_probes=20, relative_error=0)
    both = _estimate(module, inputs, labels, options, seed=5)
    name = "3.weight"
    one = hutchinson_traces(network.with_weights, {name: network.weights[name]}, inputs, labels, options, 5)
    assert one[name].trace == pytest.approx(both[name].trace, rel=1e-12)
    other = _estimate(module, inputs, labels, options, seed=6)
    assert other[name].trace != pytest.approx(both[name].trace, rel=1e-6)


@pytest.mark.parametrize(("probes_at_once", "samples_at_once"), [(1, 64), (7, 64), (5, 3), (20, 1)])
def test_chunks_do_not_matter(probes_at_once: int, samples_at_once: int) -> None:
    module, inputs, labels = _make("softmax")
    whole = _estimate(module, inputs, labels, HutchinsonOptions(20, 16, 0))
    parts = _estimate(module, inputs, labels, HutchinsonOptions(20, 16, 0, probes_at_once, samples_at_once))
    for name, block in whole.items():
        assert parts[name].trace == pytest.approx(block.trace, rel=1e-10)
        assert parts[name].standard_error == pytest.approx(block.standard_error, rel=1e-8)


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


def test_operations_without_a_batched_form_are_run_one_by_one() -> None:
    module, inputs, labels = _make("shared")
    network = ModuleNetwork(module, torch.float64)
    weights = {"out.weight": network.weights["out.weight"]}
    options = HutchinsonOptions(6, 2, 0)

    def through(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = _NoBatchedForm.apply(network.with_weights(x, chosen))  # type: ignore[no-untyped-call] # torch
        return found

    batched, alone = (hutchinson_traces(f, weights, inputs, labels, options) for f in (network.with_weights, through))
    assert alone["out.weight"].trace == pytest.approx(batched["out.weight"].trace, rel=1e-12)
    rounds = 2
    assert _NoBatchedForm.calls == rounds + 1 + options.max_probes  # gradients, one refusal, one product a probe


def test_a_weight_without_influence_has_trace_zero() -> None:
    module, inputs, labels = _make("shared")
    network = ModuleNetwork(module, torch.float64)
    weights = {"unused": torch.ones(2, 2, dtype=torch.float64), "out.weight": network.weights["out.weight"]}

    def forward(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        return network.with_weights(x, {"out.weight": chosen["out.weight"]})

    blocks = hutchinson_traces(forward, weights, inputs, labels, HutchinsonOptions(20, 2, 0.5))
    assert (blocks["unused"].trace, blocks["unused"].standard_error) == (0.0, 0.0)
    assert blocks["out.weight"].trace > 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(10, 2, dtype=torch.int64), "one class index for each"),
        (torch.zeros(9, dtype=torch.int64), "10 samples and 9 labels"),
        (torch.full((10,), 3), "allowed are 0 to 2"),
        (torch.full((10,), -1), "allowed are 0 to 2"),
    ],
)
def test_bad_labels_are_refused(labels: Tensor, message: str) -> None:
    module, inputs, _ = _make("shared")
    with pytest.raises(InputError, match=message):
        _estimate(module, inputs, labels, HutchinsonOptions())


def test_nan_is_refused() -> None:
    module, inputs, labels = _make("gelu")
    inputs[3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        _estimate(module, inputs, labels, HutchinsonOptions())


@pytest.mark.parametrize(
    ("most", "least", "error"), [(1, 1, 0.1), (10, 1, 0.1), (10, 11, 0.1), (10, 2, -1.0), (10, 2, float("nan"))]
)
def test_options_out_of_range_are_refused(most: int, least: int, error: float) -> None:
    with pytest.raises(InputError, match="allowed"):
        HutchinsonOptions(most, least, error)
