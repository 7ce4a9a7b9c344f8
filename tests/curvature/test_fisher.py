import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.fisher import FisherKind, fisher_diagonal
from codesign.curvature.loss import CrossEntropy, Loss, SampleLoss, SquaredError
from codesign.curvature.module_network import ModuleNetwork
from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.progress import Silent


class Positions(nn.Module):
    """Logits `[N, 3, 4]`: one softmax for each of three positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(torch.tanh(self.first(x)))
        return logits


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 4)
    )


def _absolute(output: Tensor, target: Tensor) -> Tensor:
    return F.smooth_l1_loss(output, target, reduction="sum")


@dataclass(frozen=True)
class _Case:
    network: ModuleNetwork
    weights: Mapping[str, Tensor]
    inputs: Tensor
    targets: Tensor
    loss: Loss
    sample_loss: Callable[[Tensor, Tensor], Tensor]  # of one sample [1, ...], written again


def _case(name: str) -> _Case:
    torch.manual_seed(0)
    positions = name == "positions"
    module = (Positions() if positions else _convolutional()).double().eval()
    inputs = torch.randn(7, *((3, 5) if positions else (2, 4, 4)), dtype=torch.float64)
    labels = torch.randint(0, 4, (7, 3) if positions else (7,))
    values = torch.randn(7, 4, dtype=torch.float64)
    network = ModuleNetwork(module, torch.float64)
    weights = dict(network.weights)
    if name == "squared":
        return _Case(network, weights, inputs, values, SquaredError(), F.mse_loss)
    if name == "function":
        loss = SampleLoss(_absolute, "smooth-l1")
        return _Case(network, weights, inputs, values, loss, lambda z, t: _absolute(z[0], t[0]))
    return _Case(
        network, weights, inputs, labels, CrossEntropy(), lambda z, t: F.cross_entropy(z.flatten(0, -2), t.flatten())
    )


def _by_loops(case: _Case, targets: Tensor) -> dict[str, Tensor]:
    """Squared gradients of every sample, `[N, *weight]`."""
    found: dict[str, list[Tensor]] = {name: [] for name in case.weights}
    for sample, target in zip(torch.split(case.inputs, 1), torch.split(targets, 1), strict=True):
        weights = {name: weight.clone().requires_grad_() for name, weight in case.weights.items()}
        loss = case.sample_loss(case.network.with_weights(sample, weights), target)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            found[name].append(gradient.square())
    return {name: torch.stack(squares) for name, squares in found.items()}


def _diagonal(
    case: _Case, kind: FisherKind = "empirical", seed: int = 0, samples_at_once: int | None = None, draws: int = 1
) -> Mapping[str, Tensor]:
    return fisher_diagonal(
        case.network.with_weights, case.weights, case.inputs, case.targets, case.loss, kind, seed, samples_at_once,
        draws=draws,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["classes", "positions", "squared", "function"])
@pytest.mark.parametrize("samples_at_once", [None, 1, 3])
def test_empirical_is_the_mean_of_squared_gradients(name: str, samples_at_once: int | None) -> None:
    case = _case(name)
    found = _diagonal(case, samples_at_once=samples_at_once)
    assert list(found) == list(case.weights)
    for parameter, squares in _by_loops(case, case.targets).items():
        assert found[parameter].dtype == torch.float64
        assert torch.allclose(found[parameter], squares.mean(0), rtol=1e-12, atol=1e-18)


def _gauss_newton_diagonal(case: _Case, parameter: str) -> Tensor:
    """Mean over rows of the diagonal of `J^T (diag(p) - p p^T) J`, from a dense Jacobian."""

    def logits(weight: Tensor) -> Tensor:
        return case.network.with_weights(case.inputs, {parameter: weight}).flatten(0, -2)

    weight = case.weights[parameter]
    jacobian: Tensor = torch.func.jacrev(logits)(weight)
    jacobian = jacobian.flatten(2)
    p = logits(weight).softmax(-1)
    hessian = p.diag_embed() - p[:, :, None] * p[:, None, :]
    return torch.einsum("rcw,rcd,rdw->w", jacobian, hessian, jacobian).reshape(weight.shape) / len(p)


@pytest.mark.parametrize("name", ["classes", "positions"])
def test_expectation_over_labels_is_the_gauss_newton_diagonal(name: str) -> None:
    # All labels of the first sample are enumerated; the labels of its R rows are independent, hence the factor 1 / R.
    case = _case(name)
    rows = case.targets[0].numel()
    one = _Case(case.network, case.weights, case.inputs[:1], case.targets[:1], case.loss, case.sample_loss)
    p = case.network(one.inputs).softmax(-1).reshape(rows, 4)
    expected = {parameter: torch.zeros_like(weight) for parameter, weight in case.weights.items()}
    for labels in itertools.product(range(4), repeat=rows):
        probability = math.prod(float(p[row, label]) for row, label in enumerate(labels))
        targets = torch.tensor(labels).reshape(one.targets.shape)
        found = fisher_diagonal(case.network.with_weights, case.weights, one.inputs, targets)
        for parameter in expected:
            expected[parameter] += probability * found[parameter]
    for parameter, found_mean in expected.items():
        assert torch.allclose(found_mean, _gauss_newton_diagonal(one, parameter) / rows, rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("name", ["classes", "positions"])
def test_sampled_labels_have_the_models_distribution(name: str) -> None:
    case = _case(name)
    draws = 800
    found = _diagonal(case, "sampled", draws=draws)
    rows = case.targets[0].numel()
    for parameter in case.weights:
        wanted = float(_gauss_newton_diagonal(case, parameter).sum()) / rows
        assert float(found[parameter].sum()) == pytest.approx(wanted, rel=0.1)  # about three standard errors


def test_sampled_equals_empirical_where_the_model_is_certain() -> None:
    case = _case("classes")
    weights = {**case.weights, "5.weight": case.weights["5.weight"] * 0}
    weights["5.bias"] = torch.tensor([0.0, -1000, 3, -1000], dtype=torch.float64)
    inputs = case.inputs

    def forward(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        return case.network.with_weights(x, chosen) * 1000

    sampled = fisher_diagonal(forward, weights, inputs, None, kind="sampled")
    empirical = fisher_diagonal(forward, weights, inputs, torch.full((7,), 2))
    for parameter in weights:
        assert torch.equal(sampled[parameter], empirical[parameter])


def test_draws_depend_on_the_sample_only() -> None:
    case = _case("positions")
    whole = _diagonal(case, "sampled", seed=3, draws=2)
    for samples_at_once in (2, 1):
        parts = _diagonal(case, "sampled", 3, samples_at_once, draws=2)
        for parameter in case.weights:
            assert torch.allclose(parts[parameter], whole[parameter], rtol=1e-12, atol=1e-18)
    other = _diagonal(case, "sampled", seed=4, draws=2)
    assert not torch.allclose(other["second.weight"], whole["second.weight"], rtol=1e-3)


class _OneOfTwo(Shard):
    """A process whose sums are not exchanged, so that the parts can be added here."""

    def sum_all(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(values)


@pytest.mark.parametrize("kind", ["empirical", "sampled"])
def test_shards_add_up_to_the_whole(kind: FisherKind) -> None:
    case = _case("classes")
    whole = _diagonal(case, kind)
    parts = [
        fisher_diagonal(
            case.network.with_weights, case.weights, case.inputs, case.targets, kind=kind, shard=_OneOfTwo(rank, 2)
        )
        for rank in range(2)
    ]
    for parameter in case.weights:
        assert torch.allclose(parts[0][parameter] + parts[1][parameter], whole[parameter], rtol=1e-12, atol=1e-18)
        assert not torch.equal(parts[0][parameter], whole[parameter])


class _NoBatchedForm(torch.autograd.Function):
    """The identity, in a form that `torch.func` does not take."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0]


def test_operations_without_a_batched_form_are_run_one_by_one() -> None:
    case = _case("positions")
    notes: list[str] = []

    def through(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = _NoBatchedForm.apply(case.network.with_weights(x, chosen))  # type: ignore[no-untyped-call] # torch
        return found

    weights = {**case.weights, "unused": torch.ones(2, dtype=torch.float64)}
    alone = fisher_diagonal(
        lambda x, w: through(x, {name: w[name] for name in case.weights}),
        weights, case.inputs, case.targets, samples_at_once=3, progress=Silent(notes.append),
    )  # fmt: skip
    assert len(notes) == 1
    assert "one after the other" in notes[0]
    assert alone["unused"].tolist() == [0, 0]
    for parameter, wanted in _diagonal(case).items():
        assert torch.allclose(alone[parameter], wanted, rtol=1e-12, atol=1e-18)


def test_a_weight_without_influence_is_zero() -> None:
    case = _case("classes")
    weights = {"unused": torch.ones(2, 2, dtype=torch.float64)}
    found = fisher_diagonal(lambda x, _: case.network(x), weights, case.inputs, case.targets)
    assert not found["unused"].any()


def test_float32_squares_are_summed_in_float64() -> None:
    inputs = torch.full(
        (300, 1), 1e-12
    )  # squares of float32 gradients: 1e-24 times a factor; their fourth powers vanish
    found = fisher_diagonal(lambda x, w: torch.cat([x * w["w"] * 1e-12, x * 0], 1), {"w": torch.ones(1)}, inputs,
                            torch.zeros(300, dtype=torch.int64))  # fmt: skip
    assert float(found["w"]) == pytest.approx((0.5e-24) ** 2, rel=1e-6)


def test_mixed_samples_are_refused() -> None:
    case = _case("classes")

    def mixing(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        logits = case.network.with_weights(x, chosen)
        return logits - logits.mean(0)

    with pytest.raises(InputError, match="eval mode"):
        fisher_diagonal(mixing, case.weights, case.inputs, case.targets)


def test_nan_is_refused() -> None:
    case = _case("classes")
    case.inputs[3] = math.nan
    for kind in ("empirical", "sampled"):
        with pytest.raises(InputError, match="NaN or infinite; check the weights and the data"):
            fisher_diagonal(case.network.with_weights, case.weights, case.inputs, case.targets, kind=kind)


def test_an_infinite_gradient_is_refused() -> None:
    inputs, targets = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)

    def forward(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([(x * weights["w"]).abs().sqrt(), x], 1)

    with pytest.raises(InputError, match="gradient of 'w' is NaN"):
        fisher_diagonal(forward, {"w": torch.zeros(1, dtype=torch.float64)}, inputs, targets)


def test_bad_options_are_refused() -> None:
    case = _case("classes")
    forward, weights, inputs, labels = case.network.with_weights, case.weights, case.inputs, case.targets
    with pytest.raises(InputError, match="'squared-error', allowed is 'cross-entropy'"):
        fisher_diagonal(forward, weights, inputs, labels, SquaredError(), "sampled")
    with pytest.raises(InputError, match="needs targets"):
        fisher_diagonal(forward, weights, inputs, None)
    with pytest.raises(InputError, match="got kind 'true', allowed are empirical, sampled"):
        fisher_diagonal(forward, weights, inputs, labels, kind="true")  # type: ignore[arg-type] # what is tested
    with pytest.raises(InputError, match="7 samples and 6 targets"):
        fisher_diagonal(forward, weights, inputs, labels[:6])
    with pytest.raises(InputError, match="allowed are 0 to 3"):
        fisher_diagonal(forward, weights, inputs, labels + 4)
    with pytest.raises(InputError, match="1 or more"):
        fisher_diagonal(forward, weights, inputs, labels, draws=0)
    with pytest.raises(InputError, match="1 or more"):
        fisher_diagonal(forward, weights, inputs, labels, samples_at_once=0)
    with pytest.raises(InputError, match="at least one"):
        fisher_diagonal(forward, weights, inputs[:0], labels[:0])
