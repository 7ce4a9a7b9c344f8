"""SqueezeNext (Gholami et al., arXiv 1803.10615), from one configuration, for ImageNet and for small images.

Every convolution is followed by BatchNorm and ReLU and has no bias, as in the networks that its authors released. They
also apply ReLU to the sum at the end of a block; a sum of two ReLU outputs is never negative, so it is left out here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from codesign.errors import InputError

Entrance = Literal["parallel", "single"]
"""How a stage begins. `parallel`: the first block's shortcut and first squeeze are two strided 1x1 convolutions of the
stage's input. `single`: one strided 1x1 convolution to the stage's width comes first, and all blocks are alike."""


@dataclass(frozen=True)
class Stem:
    """The convolution that sees the image.

    Attributes:
        channels: Output channels.
        kernel: Side of the square kernel.
        stride: Step of the convolution.
        padding: Zeros on each side.
        pool: Whether a 3x3 max pool with stride 2 follows (sizes rounded up).
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: bool = False


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        width: Output channels C of every block; a multiple of 4.
        blocks: Number of blocks.
        stride: Step of the stage's first convolutions.
    """

    width: int
    blocks: int
    stride: int = 2


@dataclass(frozen=True)
class SqueezeNextConfig:
    """All that defines a SqueezeNext network.

    Attributes:
        stem: First convolution.
        stages: The stages, in order.
        tail_channels: Width of the 1x1 convolution before the mean over positions: a bottleneck that keeps the
            classifier small.
        classes: Number of logits.
        image_channels: Channels of the input.
        groups: Groups of the first squeeze and of both separable convolutions.
        entrance: How a stage begins.
    """

    stem: Stem
    stages: tuple[Stage, ...]
    tail_channels: int = 128
    classes: int = 1000
    image_channels: int = 3
    groups: int = 1
    entrance: Entrance = "parallel"

    def __post_init__(self) -> None:
        sizes = [self.stem.channels, self.stem.kernel, self.stem.stride, self.tail_channels, self.classes]
        sizes += [self.image_channels, self.groups]
        sizes += [size for stage in self.stages for size in (stage.width, stage.blocks, stage.stride)]
        if min(sizes) < 1 or not self.stages:
            raise InputError(
                f"SqueezeNext: needs a stage and sizes of at least 1, got {self}; correct the configuration"
            )
        for stage in self.stages:
            if stage.width % 4 or (stage.width // 4) % self.groups:
                raise InputError(
                    f"SqueezeNext: a stage width must be a multiple of 4 * groups = {4 * self.groups}, "
                    f"got {stage.width}; choose another width"
                )


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

    With C output channels: 1x1 to C/2, 1x1 to C/4, 3x1 (or 1x3) to C/2, the other one to C/2, 1x1 to C, plus shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        vertical_first: bool,
        stride: int = 1,
        groups: int = 1,
        project: bool = False,
    ) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
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


def imagenet_config(
    blocks: tuple[int, int, int, int], stem_kernel: int, entrance: Entrance, width_multiplier: int = 1, groups: int = 1
) -> SqueezeNextConfig:
    """The published family for 227x227 images: stages 32, 64, 128, 256 behind a strided stem of 64 channels.

    Args:
        blocks: Blocks of each stage.
        stem_kernel: Side of the stem's kernel: 7, or 5 in the networks redesigned for hardware.
        entrance: How a stage begins.
        width_multiplier: Widens the stages; stem and tail stay as they are.
        groups: 2 in the published `G` networks.

    Returns:
        The configuration.
    """
    widths = tuple(width_multiplier * width for width in (32, 64, 128, 256))
    strides = (1, 2, 2, 2)
    stages = tuple(Stage(*sizes) for sizes in zip(widths, blocks, strides, strict=True))
    return SqueezeNextConfig(Stem(64, stem_kernel, stride=2, pool=True), stages, groups=groups, entrance=entrance)


def squeezenext_23() -> SqueezeNext:
    """1.0-SqNxt-23: 706,728 weights and 278.0 million multiply-accumulates for a 227x227 image."""
    return SqueezeNext(imagenet_config((6, 6, 8, 1), 7, "parallel"))


def squeezenext_23_v2() -> SqueezeNext:
    """1.0-SqNxt-23v2: the stem shrinks to 5x5.

    How stages of v2, v3 and v4 begin is not published. The single entrance is taken because it alone gives the three of
    them, and v5, the same number of multiply-accumulates, as the paper's table has it.
    """
    return SqueezeNext(imagenet_config((6, 6, 8, 1), 5, "single"))


def squeezenext_23_v3() -> SqueezeNext:
    """1.0-SqNxt-23v3: two blocks moved from the first stage to the second; see v2."""
    return SqueezeNext(imagenet_config((4, 8, 8, 1), 5, "single"))


def squeezenext_23_v4() -> SqueezeNext:
    """1.0-SqNxt-23v4: two more blocks moved from the first stage to the second; see v2."""
    return SqueezeNext(imagenet_config((2, 10, 8, 1), 5, "single"))


def squeezenext_23_v5() -> SqueezeNext:
    """1.0-SqNxt-23v5: most blocks in the third stage; 916,648 weights, 224.9 million multiply-accumulates."""
    return SqueezeNext(imagenet_config((2, 4, 14, 1), 5, "single"))


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
                vertical_first=index % 2 == 0,
                stride=stride,
                groups=config.groups,
                project=project,
            )
        )
        in_channels, stride, project = stage.width, 1, False
    return nn.Sequential(*layers)
