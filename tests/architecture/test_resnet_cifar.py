"""Residual networks for CIFAR-10, against published checkpoints where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from codesign.architecture.resnet_cifar import BasicBlock, CifarResNet, resnet20, resnet56

SHARED = Path(__file__).parents[2] / ".." / "shared"
CHECKPOINTS = {
    resnet20: SHARED / "models/cifar10/resnet20-12fca82f.th",
    resnet56: SHARED / "models/cifar10/resnet56-4bfd9763.th",
}
TEST_DATA = SHARED / "data/cifar10/lossless_test.npz"


def _published(factory: Callable[[], CifarResNet]) -> CifarResNet:
    path = CHECKPOINTS[factory]
    if not path.exists():
        pytest.skip(f"needs ../shared/models/cifar10/{path.name}")
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    module = factory()
    module.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()}, strict=True)
    return module.eval()


@pytest.mark.parametrize(("factory", "parameters"), [(resnet20, 269_722), (resnet56, 853_018)])
def test_parameter_count(factory: Callable[[], CifarResNet], parameters: int) -> None:
    assert sum(p.numel() for p in factory().parameters()) == parameters


def test_shortcut_subsamples_and_pads_with_zero_channels_on_both_sides() -> None:
    x = torch.arange(2 * 4 * 6 * 6, dtype=torch.float32).reshape(2, 4, 6, 6)
    got = BasicBlock(4, 8, stride=2).shortcut(x)
    expected = torch.zeros(2, 8, 3, 3)
    for channel in range(4):
        for row in range(3):
            for column in range(3):
                expected[:, 2 + channel, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(got, expected)
    assert torch.equal(BasicBlock(4, 4, stride=1).shortcut(x), x)


@pytest.mark.parametrize(("factory", "accuracy"), [(resnet20, 0.916), (resnet56, 0.9253)])
def test_published_weights_load_and_reach_their_accuracy(factory: Callable[[], CifarResNet], accuracy: float) -> None:
    module = _published(factory)
    with np.load(TEST_DATA) as data:
        images, labels = data["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255, data["labels"]
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
    std = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]
    with torch.no_grad():
        predicted = module(torch.from_numpy((images - mean) / std)).argmax(1).numpy()
    assert (predicted == labels).mean() == pytest.approx(accuracy, abs=0.003)
