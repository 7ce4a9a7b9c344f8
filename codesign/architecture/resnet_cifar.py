"""Residual networks for 32x32 images with parameter-free shortcuts (He et al., arXiv 1512.03385, section 4.2)."""

import torch
import torch.nn.functional as F
from torch import nn

STAGE_WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)).

    Where the width grows, the shortcut is option A of He et al.: every second row and column, and half of the new
    channels as zeros on each side.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.zero_channels = (channels - in_channels) // 2

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The path around the convolutions.

        Args:
            x: Input, `[N, C_in, H, W]`.

        Returns:
            `[N, C, H / stride, W / stride]`.
        """
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.zero_channels > 0:
            x = F.pad(x, (0, 0, 0, 0, self.zero_channels, self.zero_channels))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block.

        Args:
            x: Input, `[N, C_in, H, W]`.

        Returns:
            Output, `[N, C, H / stride, W / stride]`.
        """
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of `blocks` blocks at 16, 32 and 64 channels, the mean over positions, a linear layer.

    The depth is 6 * blocks + 2. Names of parameters are those of the widely used checkpoints: `conv1`, `bn1`,
    `layer1.0.conv1`, ..., `linear`.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        stem, second, third = STAGE_WIDTHS
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, stem, blocks, stride=1)
        self.layer2 = _stage(stem, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.linear = nn.Linear(third, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            x: Images, `[N, 3, 32, 32]`.

        Returns:
            Logits, `[N, classes]`.
        """
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet20() -> CifarResNet:
    """ResNet-20 for CIFAR-10: 269,722 weights without BatchNorm's running statistics."""
    return CifarResNet(blocks=3)


def resnet56() -> CifarResNet:
    """ResNet-56 for CIFAR-10: 853,018 weights without BatchNorm's running statistics."""
    return CifarResNet(blocks=9)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
