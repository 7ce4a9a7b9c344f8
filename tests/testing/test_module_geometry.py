import torch
from torch import nn

from codesign.plan.facts import ConvGeometry
from codesign.testing.module_geometry import geometries_of


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=1, dilation=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def test_layers_in_the_order_in_which_they_run() -> None:
    first, grouped, dense = geometries_of(_network, (2, 3, 9, 12))
    height, width = _network()[0](torch.zeros(2, 3, 9, 12)).shape[2:]
    assert first == ConvGeometry(2, 3, 8, (3, 5), (2, 1), (height, width), (9, 12), 1, (1, 2))
    assert grouped == ConvGeometry(2, 8, 16, (1, 1), (1, 1), (height, width), (height, width), 4)
    assert dense == ConvGeometry(2, 16, 10, (1, 1), (1, 1), (1, 1), (1, 1), 1)
