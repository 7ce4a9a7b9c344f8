"""Dense float64 Hessians of tiny networks, by autograd alone."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]


def _dense_block(module: nn.Module, inputs: Tensor, labels: Tensor, parameter: str) -> Tensor:
    """The Hessian `[n, n]` of the mean cross-entropy in one parameter."""
    value = dict(module.named_parameters())[parameter].detach()

    def loss(weight: Tensor) -> Tensor:
        logits = torch.func.functional_call(module, {parameter: weight}, (inputs,))
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten())

    hessian: Tensor = torch.autograd.functional.hessian(loss, value)  # type: ignore[no-untyped-call] # torch has no types
    return hessian.reshape(value.numel(), value.numel())


@pytest.fixture
def dense_block() -> DenseBlock:
    return _dense_block
