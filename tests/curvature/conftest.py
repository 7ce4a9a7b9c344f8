"""Tiny float64 networks, and their dense Hessians by autograd alone."""

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]
DenseJoint = Callable[[nn.Module, Tensor, Tensor], Tensor]
TinyNetwork = Callable[[str], tuple[nn.Module, Tensor, Tensor, str]]


def _dense_block(module: nn.Module, inputs: Tensor, labels: Tensor, parameter: str) -> Tensor:
    """The Hessian `[n, n]` of the mean cross-entropy in one parameter."""
    value = dict(module.named_parameters())[parameter].detach()

    def loss(weight: Tensor) -> Tensor:
        logits = torch.func.functional_call(module, {parameter: weight}, (inputs,))
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten())

    hessian: Tensor = torch.autograd.functional.hessian(loss, value)  # type: ignore[no-untyped-call] # torch has no types
    return hessian.reshape(value.numel(), value.numel())


def _dense_joint(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The Hessian `[n, n]` of the mean cross-entropy in all parameters, flattened in their order."""
    values = {name: value.detach() for name, value in module.named_parameters()}
    sizes = [value.numel() for value in values.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(values.items(), torch.split(flat, sizes), strict=True)
        weights = {name: part.view_as(value) for (name, value), part in parts}
        logits = torch.func.functional_call(module, weights, (inputs,))
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten())

    start = torch.cat([value.flatten() for value in values.values()])
    hessian: Tensor = torch.autograd.functional.hessian(loss, start)  # type: ignore[no-untyped-call] # torch has no types
    return hessian


class _Attention(nn.Module):
    """One head of softmax attention over positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT
        logits: Tensor = self.out((scores.softmax(-1) @ self.v(x)).mean(1))
        return logits


class _Shared(nn.Module):
    """One ReLU layer used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.twice = nn.Linear(width, width)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(F.relu(self.twice(F.relu(self.twice(x)))))
        return logits


def _convolutional(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), activation, nn.MaxPool2d(2), nn.Conv2d(4, 3, 3), activation, nn.Flatten(),
        nn.Linear(3, 3),
    )  # fmt: skip


def _linear(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), activation, nn.Linear(10, 8), activation, nn.Linear(8, 3))


_NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "gelu": (lambda: _convolutional(nn.GELU()), (3, 6, 6), "0.weight"),
    "silu": (lambda: _linear(nn.SiLU()), (6,), "0.weight"),
    "tanh": (lambda: _linear(nn.Tanh()), (6,), "2.weight"),
    "attention": (lambda: _Attention(8), (4, 8), "q.weight"),
    "shared": (lambda: _Shared(9), (9,), "twice.weight"),
}


def _tiny_network(name: str) -> tuple[nn.Module, Tensor, Tensor, str]:
    """A network, ten samples, their labels, and a parameter that the network is not piecewise linear in."""
    build, shape, parameter = _NETWORKS[name]
    torch.manual_seed(0)
    inputs = torch.randn(10, *shape, dtype=torch.float64) * 1.5
    module = build().double().eval()
    return module.requires_grad_(False), inputs, torch.randint(0, 3, (10,)), parameter


@pytest.fixture
def dense_block() -> DenseBlock:
    return _dense_block


@pytest.fixture
def dense_joint() -> DenseJoint:
    return _dense_joint


@pytest.fixture
def tiny_network() -> TinyNetwork:
    return _tiny_network
