import weakref
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codesign.curvature.hessian_operator import HessianOperator
from codesign.curvature.loss import SampleLoss, SquaredError
from codesign.curvature.module_network import ModuleNetwork
from codesign.errors import InputError

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]
DenseJoint = Callable[[nn.Module, Tensor, Tensor], Tensor]
TinyNetwork = Callable[[str], tuple[nn.Module, Tensor, Tensor, str]]

NETWORKS = ["gelu", "silu", "tanh", "attention", "shared"]


def _dense(operator: HessianOperator) -> Tensor:
    return operator @ torch.eye(operator.dimension, dtype=operator.dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_dense_hessian(name: str, tiny_network: TinyNetwork, dense_joint: DenseJoint) -> None:
    module, inputs, labels, _ = tiny_network(name)
    network = ModuleNetwork(module, torch.float64)
    expected = dense_joint(module, inputs, labels)
    for samples in (None, 3):
        operator = HessianOperator(network.with_weights, network.weights, inputs, labels, samples_at_once=samples)
        found = _dense(operator)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(found, found.mT, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_weight_is_one_block(name: str, tiny_network: TinyNetwork, dense_block: DenseBlock) -> None:
    module, inputs, labels, parameter = tiny_network(name)
    network = ModuleNetwork(module, torch.float64)
    weights = {parameter: network.weights[parameter]}
    operator = HessianOperator(network.with_weights, weights, inputs, labels, vectors_at_once=50)
    torch.testing.assert_close(_dense(operator), dense_block(module, inputs, labels, parameter), rtol=1e-10, atol=1e-13)


def _perceptron(seed: int) -> tuple[Callable[[Tensor, Mapping[str, Tensor]], Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "first": torch.randn(4, 3, generator=generator, dtype=torch.float64),
        "second": torch.randn(2, 4, generator=generator, dtype=torch.float64),
    }
    return lambda x, w: (x @ w["first"].mT).tanh() @ w["second"].mT, weights


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 5))
def test_is_linear_and_symmetric_whatever_the_chunks(seed: int, samples: int, at_once: int | None, count: int) -> None:
    forward, weights = _perceptron(seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (samples,), generator=generator)
    operator = HessianOperator(forward, weights, inputs, labels, samples_at_once=at_once, vectors_at_once=2)
    one, other = torch.randn(2, operator.dimension, count, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(one.mT @ (operator @ other), (operator @ one).mT @ other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(operator @ (one - 2 * other), operator @ one - 2 * (operator @ other))
    restored = operator.flatten(operator.unflatten(one))
    assert torch.equal(restored, one)


def test_other_losses() -> None:
    forward, weights = _perceptron(0)
    inputs, targets = torch.randn(2, 5, 3, dtype=torch.float64).unbind()
    targets = targets[:, :2]
    squared = HessianOperator(forward, weights, inputs, targets, SquaredError())
    same = SampleLoss(lambda output, target: (output - target).square().mean())
    by_function = HessianOperator(forward, weights, inputs, targets, same, samples_at_once=2)
    torch.testing.assert_close(_dense(squared), _dense(by_function), rtol=1e-12, atol=1e-14)

    def loss(first: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(forward(inputs, {**weights, "first": first}), targets)

    expected: Tensor = torch.autograd.functional.hessian(loss, weights["first"])  # type: ignore[no-untyped-call] # torch
    torch.testing.assert_close(_dense(squared)[:12, :12], expected.reshape(12, 12))


def test_positions_are_rows(dense_joint: DenseJoint) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    inputs, labels = torch.randn(5, 6, 3, dtype=torch.float64), torch.randint(0, 2, (5, 6))
    network = ModuleNetwork(module, torch.float64)
    operator = HessianOperator(network.with_weights, network.weights, inputs, labels, samples_at_once=2)
    torch.testing.assert_close(_dense(operator), dense_joint(module, inputs, labels), rtol=1e-10, atol=1e-13)


def test_passes_over_data_are_counted() -> None:
    forward, weights = _perceptron(0)
    inputs, labels = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    kept = HessianOperator(forward, weights, inputs, labels)
    rebuilt = HessianOperator(forward, weights, inputs, labels, samples_at_once=1)
    for operator in (kept, rebuilt):
        assert operator.passes_over_data == 0
        for _ in range(2):
            assert (operator @ torch.ones(20, 3, dtype=torch.float64)).shape == (20, 3)
    assert kept.passes_over_data == 2 + 2 * 2 * 3
    assert rebuilt.passes_over_data == 2 * (2 + 2 * 3)


def test_memory_does_not_grow_with_the_number_of_parts() -> None:
    forward, weights = _perceptron(0)
    hooks: list[weakref.ref[Callable[[Tensor], None]]] = []  # each lives as long as the graph that it is tied to
    alive: list[int] = []

    def watched(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        def hook(gradient: Tensor) -> None:
            assert gradient.shape[-1] == 2

        outputs = forward(x, chosen)
        outputs.register_hook(hook)  # type: ignore[no-untyped-call] # torch has no types
        alive.append(sum(earlier() is not None for earlier in hooks))
        hooks.append(weakref.ref(hook))
        return outputs

    inputs, labels = torch.ones(20, 3, dtype=torch.float64), torch.zeros(20, dtype=torch.int64)
    operator = HessianOperator(watched, weights, inputs, labels, samples_at_once=1)
    assert torch.isfinite(operator @ torch.ones(20, 1, dtype=torch.float64)).all()
    assert len(alive) == 20
    assert max(alive) <= 1  # the graph in use may live until its successor is there
    assert hooks[-1]() is None
    kept = HessianOperator(watched, weights, inputs, labels)
    assert torch.isfinite(kept @ torch.ones(20, 1, dtype=torch.float64)).all()
    assert hooks[-1]() is not None


def test_weights_without_influence_give_zeros() -> None:
    forward, weights = _perceptron(0)
    inputs, labels = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    more = {"unused": torch.ones(2, dtype=torch.float64), **weights}
    dense = _dense(HessianOperator(forward, more, inputs, labels))
    assert not dense[:2].any() and not dense[:, :2].any()
    torch.testing.assert_close(dense[2:, 2:], _dense(HessianOperator(forward, weights, inputs, labels)))
    alone = HessianOperator(lambda x, _: forward(x, weights), {"unused": more["unused"]}, inputs, labels)
    assert not _dense(alone).any()


def test_fused_attention_is_differentiated_twice() -> None:
    weights = {"w": torch.randn(4, 4, dtype=torch.float64)}

    def forward(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x @ chosen["w"], x, x).mean(-2)

    def explicit(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        return ((x @ chosen["w"] @ x.mT / 2).softmax(-1) @ x).mean(-2)

    inputs, labels = torch.randn(3, 5, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    fused, plain = (_dense(HessianOperator(f, weights, inputs, labels)) for f in (forward, explicit))
    torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-13)


def test_float32_sums_over_parts_do_not_lose_digits() -> None:
    forward, weights = _perceptron(1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (2000,), generator=generator)
    exact = _dense(HessianOperator(forward, weights, inputs, labels, samples_at_once=None))
    single = {name: weight.float() for name, weight in weights.items()}
    found = _dense(HessianOperator(forward, single, inputs.float(), labels, samples_at_once=50, vectors_at_once=20))
    assert found.dtype == torch.float32
    assert float((found.double() - exact).norm() / exact.norm()) < 2e-7


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w, x, y: ({}, x, y), "no weights"),
        (lambda w, x, y: ({**w, "second": w["second"].float()}, x, y), "one floating type"),
        (lambda w, x, y: (w, x[:0], y[:0]), "at least one"),
        (lambda w, x, y: (w, x, y[:3]), "as many"),
        (lambda w, x, y: (w, x * float("nan"), y), "loss is NaN"),
        (lambda w, x, y: (w, x, y + 2), "allowed are 0 to 1"),
        (lambda w, x, y: (w, x, y.unsqueeze(1)), "one class index for each"),
    ],
)
def test_bad_data_is_refused(
    spoil: Callable[[dict[str, Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor, Tensor]],
    message: str,
    at_once: int | None,
) -> None:
    forward, weights = _perceptron(0)
    inputs, labels = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    weights, inputs, labels = spoil(weights, inputs, labels)
    with pytest.raises(InputError, match=message):
        operator = HessianOperator(forward, weights, inputs, labels, samples_at_once=at_once)
        operator @ torch.ones(20, 1, dtype=torch.float64)


def test_bad_sizes_and_shapes_are_refused() -> None:
    forward, weights = _perceptron(0)
    inputs, labels = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    operator = HessianOperator(forward, weights, inputs, labels)
    for vectors in (torch.ones(20), torch.ones(19, 1)):
        with pytest.raises(InputError, match=r"allowed is \[20, B\]"):
            operator @ vectors
    with pytest.raises(InputError, match="'second': got shape None"):
        operator.flatten({"first": torch.ones(1, 4, 3)})
    with pytest.raises(InputError, match="'first': got shape"):
        operator.flatten({"first": torch.ones(1, 3, 4), "second": torch.ones(1, 2, 4)})
    for samples, vectors_at_once in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match="allowed are 1 or more"):
            HessianOperator(forward, weights, inputs, labels, None, samples, vectors_at_once=vectors_at_once)
    whole = HessianOperator(lambda x, w: forward(x, w).sum(0), weights, inputs, labels)
    with pytest.raises(InputError, match="4 on the first axis"):
        whole @ torch.ones(20, 1, dtype=torch.float64)


def test_no_second_derivative_is_refused() -> None:
    forward, weights = _perceptron(0)
    inputs, targets = torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)
    vector = torch.ones(20, 1, dtype=torch.float64)
    flat = HessianOperator(forward, weights, inputs, targets, SampleLoss(lambda o, t: o.detach().sum()))
    with pytest.raises(InputError, match="not differentiable"):
        flat @ vector
    infinite = HessianOperator(
        lambda x, w: forward(x, w) * 0, weights, inputs, targets, SampleLoss(lambda o, t: o.square().sum().sqrt())
    )
    with pytest.raises(InputError, match="NaN or infinite in weight 'first'"):
        infinite @ vector

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
            return gradients[0]

    def once(x: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = Once.apply(forward(x, chosen))  # type: ignore[no-untyped-call] # torch has no types
        return found

    with pytest.raises(InputError, match="cannot be differentiated twice"):
        HessianOperator(once, weights, inputs, torch.zeros(4, dtype=torch.int64)) @ vector
