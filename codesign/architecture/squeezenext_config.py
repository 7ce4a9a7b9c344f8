"""What defines a SqueezeNext network (Gholami et al., arXiv 1803.10615), as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from codesign.errors import InputError

Entrance = Literal["parallel", "single"]
"""How a stage begins. `parallel`: the first block's shortcut and first squeeze are two strided 1x1 convolutions of the
stage's input. `single`: one strided 1x1 convolution to the stage's width comes first, and all blocks are alike."""

PairOrder = Literal["alternating", "vertical-first", "horizontal-first"]
"""Order of the separable pair. `alternating`: 3x1 then 1x3 in the first block of a stage, the other way in the second,
and so on. Otherwise all blocks have 3x1 first, or all have 1x3 first."""


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
        width: Output channels C of every block.
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
        squeeze: Share r of a block's width C that its first squeeze and separable convolutions have: r C channels; the
            second squeeze has r C / 2. The paper has 1/2.
        pair_order: Order of the separable pair.
    """

    stem: Stem
    stages: tuple[Stage, ...]
    tail_channels: int = 128
    classes: int = 1000
    image_channels: int = 3
    groups: int = 1
    entrance: Entrance = "parallel"
    squeeze: float = 0.5
    pair_order: PairOrder = "alternating"

    def __post_init__(self) -> None:
        sizes = [self.stem.channels, self.stem.kernel, self.stem.stride, self.tail_channels, self.classes]
        sizes += [self.image_channels, self.groups]
        sizes += [size for stage in self.stages for size in (stage.width, stage.blocks, stage.stride)]
        if min(sizes) < 1 or not self.stages:
            raise InputError(
                f"SqueezeNext: needs a stage and sizes of at least 1, got {self}; correct the configuration"
            )
        widths = [self.stem.channels, *(stage.width for stage in self.stages)]
        for place, stage in enumerate(self.stages):
            squeezed_channels(stage.width, self.squeeze, self.groups)
            check_groups(stage.width if self.entrance == "single" else widths[place], self.groups)

    def vertical_first(self, block: int) -> bool:
        """Whether a block's separable pair is 3x1 then 1x3.

        Args:
            block: Place of the block in its stage, from 0.

        Returns:
            False for 1x3 then 3x1.
        """
        if self.pair_order == "alternating":
            return block % 2 == 0
        return self.pair_order == "vertical-first"


def squeezed_channels(width: int, squeeze: float, groups: int) -> tuple[int, int]:
    """Channels inside of a block.

    Args:
        width: Output channels C of the block.
        squeeze: Share r.
        groups: Groups of the first squeeze and of both separable convolutions.

    Returns:
        Outputs of the first and of the second squeeze: r C and r C / 2.

    Raises:
        InputError: They are not whole, or groups do not divide them.
    """
    half = round(width * squeeze)
    if half < 2 or half != width * squeeze or half % 2 or (half // 2) % groups:
        raise InputError(
            f"SqueezeNext: a stage width of {width} with squeeze ratio {squeeze:g} gives {width * squeeze:g} and "
            f"{width * squeeze / 2:g} squeezed channels, which must be positive multiples of groups = {groups}; "
            f"choose a width that is a multiple of {_step(squeeze, groups)}"
        )
    return half, half // 2


def check_groups(in_channels: int, groups: int) -> None:
    """Refuses groups that do not divide what enters a block.

    Args:
        in_channels: Channels that enter the first squeeze.
        groups: Its groups.

    Raises:
        InputError: They do not.
    """
    if in_channels % groups:
        raise InputError(
            f"SqueezeNext: {in_channels} channels enter a first squeeze with groups = {groups}, which must divide "
            "them; change the groups, the stem's channels or the stage's width"
        )


def _step(squeeze: float, groups: int) -> int | str:
    """Smallest width that a ratio and groups allow; all others are multiples of it."""
    for width in range(1, 4097):
        half = round(width * squeeze)
        if half >= 2 and half == width * squeeze and half % (2 * groups) == 0:
            return width
    return "a number that no width up to 4096 reaches (change the squeeze ratio)"


def imagenet_config(
    blocks: Sequence[int],
    stem_kernel: int,
    entrance: Entrance,
    width_multiplier: float = 1,
    groups: int = 1,
) -> SqueezeNextConfig:
    """The published family for 227x227 images: stages 32, 64, 128, 256 behind a strided stem of 64 channels.

    Args:
        blocks: Blocks of each of the four stages.
        stem_kernel: Side of the stem's kernel: 7, or 5 in the networks redesigned for hardware.
        entrance: How a stage begins.
        width_multiplier: Widens the stages; stem and tail stay as they are.
        groups: 2 in the published `G` networks.

    Returns:
        The configuration.
    """
    widths = tuple(round(width_multiplier * width) for width in (32, 64, 128, 256))
    strides = (1, 2, 2, 2)
    stages = tuple(Stage(*sizes) for sizes in zip(widths, blocks, strides, strict=True))
    return SqueezeNextConfig(Stem(64, stem_kernel, stride=2, pool=True), stages, groups=groups, entrance=entrance)
