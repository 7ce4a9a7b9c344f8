"""A network of ResNet-50's shape with random weights, and random images for it."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width of the 3x3 convolution and number of blocks."""
SIDE = 224
SAMPLES = 64
BRANCH_SCALE = 0.25
"""Gain of each block's last BatchNorm: logits of moderate size, so that no softmax is saturated."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with BatchNorm, and a shortcut (He et al., arXiv 1512.03385, figure 5)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        nn.init.constant_(self.bn3.weight, BRANCH_SCALE)
        projected = stride != 1 or in_channels != channels
        layers = (nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.shortcut = nn.Sequential(*(layers if projected else ()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block.

        Args:
            x: `[N, C_in, H, W]`.

        Returns:
            `[N, C, H / stride, W / stride]`.
        """
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.relu(self.bn3(self.conv3(hidden)) + self.shortcut(x))


class BottleneckResNet(nn.Module):
    """ResNet-50 for 1,000 classes: 25.6 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        channels = 64
        for stage, (width, count) in enumerate(STAGES):
            for index in range(count):
                blocks.append(Bottleneck(channels, width, 2 if stage and not index else 1))
                channels = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            x: `[N, 3, 224, 224]`.

        Returns:
            Logits `[N, 1000]`.
        """
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.blocks(x)
        logits: torch.Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet50() -> BottleneckResNet:
    """The network, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BottleneckResNet().eval()


def images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Random images `[64, 224, 224, 3]` and labels `[64]`."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (SAMPLES, SIDE, SIDE, 3), dtype=np.uint8)
    return pixels, generator.integers(0, 1000, SAMPLES)
