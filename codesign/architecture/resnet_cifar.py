"""Residual networks for small images with parameter-free shortcuts (He et al., arXiv 1512.03385, section 4.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

STAGE_WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)).

    Where the width grows, the shortcut is option A of He et al.: every second row and column, and the new channels are
    zeros: half of them on each side, as in the published checkpoints, or all behind (`zeros_behind`), so that channels
    keep their places.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, *, zeros_behind: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        added = channels - in_channels
        self.zero_channels = (0, added) if zeros_behind else (added // 2, added - added // 2)

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The path around the convolutions.

        Args:
            x: Input, `[N, C_in, H, W]`.

        Returns:
            `[N, C, H / stride, W / stride]`.
        """
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if sum(self.zero_channels):
            x = F.pad(x, (0, 0, 0, 0, *self.zero_channels))
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
    """A 3x3 stem, three stages of blocks, the mean over positions, a linear layer.

    Names of parameters are those of the widely used checkpoints: `conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`.

    Args:
        blocks: Blocks of each stage, or one number for all; with a number n the depth is 6 n + 2.
        classes: Number of logits.
        widths: Channels of each stage; never less than those of the stage before.
        image_channels: Channels of the input.
        stem_channels: Outputs of the stem, None for as many as the first stage has.
        zeros_behind: Where shortcuts put new channels, see `BasicBlock`.
    """

    def __init__(
        self,
        blocks: int | Sequence[int],
        classes: int = 10,
        widths: Sequence[int] = STAGE_WIDTHS,
        image_channels: int = 3,
        stem_channels: int | None = None,
        *,
        zeros_behind: bool = False,
    ) -> None:
        super().__init__()
        stem = widths[0] if stem_channels is None else stem_channels
        first, second, third = (blocks,) * 3 if isinstance(blocks, int) else blocks
        self.conv1 = nn.Conv2d(image_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, widths[0], first, 1, zeros_behind)
        self.layer2 = _stage(widths[0], widths[1], second, 2, zeros_behind)
        self.layer3 = _stage(widths[1], widths[2], third, 2, zeros_behind)
        self.linear = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            x: Images, `[N, image_channels, H, W]`.

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


def _stage(in_channels: int, channels: int, blocks: int, stride: int, zeros_behind: bool) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, zeros_behind=zeros_behind)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
