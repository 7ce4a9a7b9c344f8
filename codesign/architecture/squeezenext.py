"""SqueezeNext (Gholami et al., arXiv 1803.10615), from one configuration, for ImageNet and for small images.

Every convolution is followed by BatchNorm and ReLU and has no bias, as in the networks that its authors released. They
also apply ReLU to the sum at the end of a block; a sum of two ReLU outputs is never negative, so it is left out here.
"""

import torch
import torch.nn.functional as F
from torch import nn

from codesign.architecture.squeezenext_config import (
    SqueezeNextConfig,
    Stage,
    Stem,
    imagenet_config,
    squeezed_channels,
)

_BLOCKS_23 = (6, 6, 8, 1)
"""Blocks per stage of the 23 networks as released: 21, and with stem and tail 23."""
_BLOCKS_44 = (12, 12, 16, 2)
"""Blocks per stage of the 44 networks, which are not published. Every stage of 23 doubled gives 42 blocks, and 1.24,
2.57 and 4.43 million parameters at widths 1.0, 1.5 and 2.0, where the paper prints 1.2, 2.6 and 4.4."""
_BLOCKS_34 = (9, 9, 12, 2)
"""Blocks per stage of the 34 networks, which are not published. One and a half times each stage of 23, the last rounded
up, gives 32 blocks, and 1.05, 2.16 and 3.69 million parameters where the paper prints 1.0, 2.1 and 3.8. No choice of 32
blocks over the four stages rounds to all three of those; the closest are 0.08 million off."""


class ConvUnit(nn.Module):
    """relu(bn(conv(x))); padding keeps the size of a kernel's odd sides unless told otherwise."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        same = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding or same, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the three steps.

        Args:
            x: Input, `[N, C_in, H, W]`.

        Returns:
            Output, `[N, C, H', W']`.
        """
        return F.relu(self.bn(self.conv(x)))


class SqueezeNextBlock(nn.Module):
    """Two-stage squeeze, separable pair, expansion, shortcut.

    With C output channels and ratio r: 1x1 to r C, 1x1 to r C / 2, 3x1 (or 1x3) to r C, the other one to r C, 1x1 to C,
    plus shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        vertical_first: bool,
        stride: int = 1,
        groups: int = 1,
        squeeze: float = 0.5,
        project: bool = False,
    ) -> None:
        super().__init__()
        half, quarter = squeezed_channels(width, squeeze, groups)
        first, second = ((3, 1), (1, 3)) if vertical_first else ((1, 3), (3, 1))
        self.shortcut = ConvUnit(in_channels, width, stride=stride) if project else nn.Identity()
        self.squeeze1 = ConvUnit(in_channels, half, stride=stride, groups=groups)
        self.squeeze2 = ConvUnit(half, quarter)
        self.separable1 = ConvUnit(quarter, half, first, groups=groups)
        self.separable2 = ConvUnit(half, half, second, groups=groups)
        self.expand = ConvUnit(half, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block.

        Args:
            x: Input, `[N, C_in, H, W]`.

        Returns:
            Output, `[N, C, H / stride, W / stride]`.
        """
        hidden = self.separable2(self.separable1(self.squeeze2(self.squeeze1(x))))
        output: torch.Tensor = self.expand(hidden) + self.shortcut(x)
        return output


class SqueezeNext(nn.Module):
    """The network of a configuration: stem, stages, 1x1 tail, mean over positions, linear classifier."""

    def __init__(self, config: SqueezeNextConfig) -> None:
        super().__init__()
        self.config = config
        stem = config.stem
        kernel, padding = (stem.kernel, stem.kernel), (stem.padding, stem.padding)
        self.stem = ConvUnit(config.image_channels, stem.channels, kernel, stem.stride, padding)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True) if stem.pool else nn.Identity()
        widths = [stem.channels, *(stage.width for stage in config.stages)]
        self.stages = nn.Sequential(
            *(_stage(in_channels, stage, config) for in_channels, stage in zip(widths[:-1], config.stages, strict=True))
        )
        self.tail = ConvUnit(widths[-1], config.tail_channels)
        self.classifier = nn.Linear(config.tail_channels, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            x: Images, `[N, image_channels, H, W]`.

        Returns:
            Logits, `[N, classes]`.
        """
        x = self.tail(self.stages(self.pool(self.stem(x))))
        logits: torch.Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def squeezenext_23() -> SqueezeNext:
    """1.0-SqNxt-23: 706,728 weights and 278.0 million multiply-accumulates for a 227x227 image."""
    return SqueezeNext(imagenet_config(_BLOCKS_23, 7, "parallel"))


def squeezenext_23_v2() -> SqueezeNext:
    """1.0-SqNxt-23v2: the stem shrinks to 5x5.

    How stages of v2, v3 and v4 begin is not published. The single entrance is taken because it alone gives the three of
    them, and v5, the same number of multiply-accumulates, as the paper's table has it.
    """
    return SqueezeNext(imagenet_config(_BLOCKS_23, 5, "single"))


def squeezenext_23_v3() -> SqueezeNext:
    """1.0-SqNxt-23v3: two blocks moved from the first stage to the second; see v2."""
    return SqueezeNext(imagenet_config((4, 8, 8, 1), 5, "single"))


def squeezenext_23_v4() -> SqueezeNext:
    """1.0-SqNxt-23v4: two more blocks moved from the first stage to the second; see v2."""
    return SqueezeNext(imagenet_config((2, 10, 8, 1), 5, "single"))


def squeezenext_23_v5() -> SqueezeNext:
    """1.0-SqNxt-23v5: most blocks in the third stage; 916,648 weights, 224.9 million multiply-accumulates."""
    return SqueezeNext(imagenet_config((2, 4, 14, 1), 5, "single"))


def squeezenext_23_g() -> SqueezeNext:
    """1.0-G-SqNxt-23: groups of 2 in three convolutions of every block; 532,520 weights."""
    return SqueezeNext(imagenet_config(_BLOCKS_23, 7, "parallel", groups=2))


def squeezenext_23_x1_5() -> SqueezeNext:
    """1.5-SqNxt-23: stages 1.5 times as wide; 1,390,248 weights."""
    return SqueezeNext(imagenet_config(_BLOCKS_23, 7, "parallel", 1.5))


def squeezenext_23_x2() -> SqueezeNext:
    """2.0-SqNxt-23: stages twice as wide; 2,340,008 weights."""
    return SqueezeNext(imagenet_config(_BLOCKS_23, 7, "parallel", 2))


def squeezenext_23_v5_x2() -> SqueezeNext:
    """2.0-SqNxt-23v5: stages twice as wide; 3,195,560 weights."""
    return SqueezeNext(imagenet_config((2, 4, 14, 1), 5, "single", 2))


def squeezenext_34() -> SqueezeNext:
    """1.0-SqNxt-34; see `_BLOCKS_34` for what is known of its depth."""
    return SqueezeNext(imagenet_config(_BLOCKS_34, 7, "parallel"))


def squeezenext_34_x1_5() -> SqueezeNext:
    """1.5-SqNxt-34; see `_BLOCKS_34`."""
    return SqueezeNext(imagenet_config(_BLOCKS_34, 7, "parallel", 1.5))


def squeezenext_34_x2() -> SqueezeNext:
    """2.0-SqNxt-34; see `_BLOCKS_34`."""
    return SqueezeNext(imagenet_config(_BLOCKS_34, 7, "parallel", 2))


def squeezenext_44() -> SqueezeNext:
    """1.0-SqNxt-44; see `_BLOCKS_44` for how its depth was found."""
    return SqueezeNext(imagenet_config(_BLOCKS_44, 7, "parallel"))


def squeezenext_44_x1_5() -> SqueezeNext:
    """1.5-SqNxt-44; see `_BLOCKS_44`."""
    return SqueezeNext(imagenet_config(_BLOCKS_44, 7, "parallel", 1.5))


def squeezenext_44_x2() -> SqueezeNext:
    """2.0-SqNxt-44; see `_BLOCKS_44`."""
    return SqueezeNext(imagenet_config(_BLOCKS_44, 7, "parallel", 2))


def squeezenext_cifar() -> SqueezeNext:
    """For 32x32 colour images and ten classes: the stages of 1.0-SqNxt-23 behind a 3x3 stem that keeps the size."""
    stages = (Stage(32, 6, stride=1), Stage(64, 6), Stage(128, 8), Stage(256, 1))
    return SqueezeNext(SqueezeNextConfig(Stem(64, 3, padding=1), stages, classes=10))


def squeezenext_digits() -> SqueezeNext:
    """For 8x8 grey images and ten classes."""
    return SqueezeNext(
        SqueezeNextConfig(
            Stem(32, 3, padding=1),
            (Stage(32, 2, stride=1), Stage(64, 4), Stage(128, 1)),
            tail_channels=128,
            classes=10,
            image_channels=1,
        )
    )


def _stage(in_channels: int, stage: Stage, config: SqueezeNextConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    stride, project = stage.stride, True
    if config.entrance == "single":
        layers.append(ConvUnit(in_channels, stage.width, stride=stride))
        in_channels, stride, project = stage.width, 1, False
    for index in range(stage.blocks):
        layers.append(
            SqueezeNextBlock(
                in_channels,
                stage.width,
                vertical_first=config.vertical_first(index),
                stride=stride,
                groups=config.groups,
                squeeze=config.squeeze,
                project=project,
            )
        )
        in_channels, stride, project = stage.width, 1, False
    return nn.Sequential(*layers)
