"""Networks that several test modules lower, each exported once."""

from collections.abc import Callable
from functools import cache

import pytest
from torch import nn

from codesign.architecture.resnet_cifar import resnet20
from codesign.architecture.squeezenext import squeezenext_digits
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program
from codesign.testing.networks import PlainNet, SmallMobileNet, SmallTransformer, randomize

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (1, 3, 32, 32)),
    "squeezenext": (squeezenext_digits, (1, 1, 8, 8)),
    "mobilenet": (SmallMobileNet, (1, 3, 16, 16)),
    "transformer": (SmallTransformer, (1, 3, 16, 16)),
    "plain": (PlainNet, (1, 1, 8, 8)),
}


@cache
def _lowered(name: str) -> Program:
    factory, shape = NETWORKS[name]
    return lower_module(randomize(factory()), shape)


@pytest.fixture(params=list(NETWORKS))
def program(request: pytest.FixtureRequest) -> Program:
    """Each of the networks, lowered; tests must not change it."""
    return _lowered(request.param)


@pytest.fixture
def lowered() -> Callable[[str], Program]:
    """One network by name, lowered; tests must not change it."""
    return _lowered
