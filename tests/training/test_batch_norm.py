"""BatchNorm statistics of given weights."""

import copy

import pytest
import torch
from torch import nn

from codesign.quantization.straight_through import fake_quantize_weight
from codesign.training.batch_norm import recalibrate


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize("bits", [{}, {"0.weight": 2}])
def test_statistics_are_the_mean_over_batches(bits: dict[str, int]) -> None:
    network, images = _network(), torch.randn(12, 2, 6, 6)
    recalibrate(network, torch.randn(8, 2, 6, 6) * 9, {})  # earlier statistics do not count
    recalibrate(network, images, bits, batch_size=5)
    conv, norm = network[0], network[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    weight = fake_quantize_weight(conv.weight, 2) if bits else conv.weight
    outputs = [nn.functional.conv2d(batch, weight).transpose(0, 1).flatten(1) for batch in images.chunk(3)]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([out.mean(1) for out in outputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([out.var(1) for out in outputs]).mean(0))
    assert norm.momentum == pytest.approx(0.1)
    assert not any(module.training for module in network.modules())


def test_weights_stay_and_networks_without_batch_norm_too() -> None:
    network = _network()
    before = copy.deepcopy(dict(network.named_parameters()))
    recalibrate(network, torch.randn(6, 2, 6, 6), {"4.weight": 4})
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    plain = nn.Linear(2, 2)
    state = copy.deepcopy(plain.state_dict())
    recalibrate(plain, torch.randn(6, 2))
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
