"""A space of SqueezeNext networks."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from codesign.architecture.damping import damp
from codesign.architecture.shared_weight import SharedWeight, same_names
from codesign.architecture.space import Axis, StagePicture, Value, Variant
from codesign.architecture.squeezenext import SqueezeNext, SqueezeNextBlock
from codesign.architecture.squeezenext_config import (
    Entrance,
    PairOrder,
    SqueezeNextConfig,
    Stage,
    Stem,
    check_groups,
    squeezed_channels,
)
from codesign.errors import InputError


@dataclass(frozen=True)
class SqueezeNextChoices:
    """What each part of a SqueezeNext may be. Every tuple of values is in the order of ascending capacity.

    Attributes:
        depths: Numbers of blocks, by stage.
        widths: Output channels, by stage.
        strides: Step of each stage.
        squeeze: Squeeze ratios.
        pair_orders: Orders of the separable pair.
        groups: Groups; more groups have fewer weights, so the largest number comes first.
        stem_kernels: Sides of the stem's kernel.
        stem_strides: Steps of the stem; a smaller one sees more, so the largest comes first.
        resolutions: Heights and widths of the image.
        stem_channels: Output channels of the stem.
        stem_padding: Whether the stem keeps the size of its input (kernel // 2 zeros on each side), or has none.
        stem_pool: Whether a 3x3 max pool with stride 2 follows the stem.
        entrance: How a stage begins.
        tail_channels: Width before the classifier.
        classes: Number of logits.
        image_channels: Channels of the image.
    """

    depths: tuple[tuple[int, ...], ...]
    widths: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    squeeze: tuple[float, ...] = (0.5,)
    pair_orders: tuple[PairOrder, ...] = ("alternating",)
    groups: tuple[int, ...] = (1,)
    stem_kernels: tuple[int, ...] = (3,)
    stem_strides: tuple[int, ...] = (1,)
    resolutions: tuple[int, ...] = (32,)
    stem_channels: int = 64
    stem_padding: bool = True
    stem_pool: bool = False
    entrance: Entrance = "parallel"
    tail_channels: int = 128
    classes: int = 10
    image_channels: int = 3

    def axes(self) -> tuple[Axis, ...]:
        """Everything as axes: depth and width of each stage, then what holds for the whole network."""
        return (
            *(Axis(f"depth{i}", values) for i, values in enumerate(self.depths, 1)),
            *(Axis(f"width{i}", values) for i, values in enumerate(self.widths, 1)),
            Axis("squeeze", self.squeeze),
            Axis("pair_order", self.pair_orders),
            Axis("groups", self.groups),
            Axis("stem_kernel", self.stem_kernels),
            Axis("stem_stride", self.stem_strides),
            Axis("resolution", self.resolutions),
        )


class SqueezeNextSpace:
    """All networks of the given choices. What has one value only is no axis.

    Shared are: leading blocks of a stage, leading channels, the centre of the stem's kernel. Separable kernels that
    stand and those that lie, with their BatchNorm, are different parameters. Grouped convolutions share the diagonal
    blocks of the weight without groups.

    Args:
        choices: What there is to choose from.

    Attributes:
        name: `squeezenext`.
        axes: What can be chosen.

    Raises:
        InputError: Some combination of values is no network.
    """

    name = "squeezenext"

    def __init__(self, choices: SqueezeNextChoices) -> None:
        self._choices = choices
        everything = choices.axes()
        _check(choices)
        self._fixed: dict[str, Value] = {axis.name: axis.values[0] for axis in everything}
        self.axes = tuple(axis for axis in everything if len(axis.values) > 1)

    def config(self, variant: Variant) -> SqueezeNextConfig:
        """The configuration of a variant.

        Args:
            variant: Which one.

        Returns:
            The configuration.
        """
        values = self._values(variant)
        choices = self._choices
        kernel = int(values["stem_kernel"])
        stem = Stem(
            choices.stem_channels,
            kernel,
            int(values["stem_stride"]),
            kernel // 2 if choices.stem_padding else 0,
            choices.stem_pool,
        )
        stages = tuple(
            Stage(int(values[f"width{i}"]), int(values[f"depth{i}"]), stride)
            for i, stride in enumerate(choices.strides, 1)
        )
        return SqueezeNextConfig(
            stem,
            stages,
            choices.tail_channels,
            choices.classes,
            choices.image_channels,
            groups=int(values["groups"]),
            entrance=choices.entrance,
            squeeze=float(values["squeeze"]),
            pair_order=next(order for order in choices.pair_orders if order == values["pair_order"]),
        )

    def network(self, variant: Variant) -> SqueezeNext:
        """A network with fresh weights, of which every block computes nearly its shortcut alone (`damping`).

        Args:
            variant: Which one.

        Returns:
            The network.
        """
        network = SqueezeNext(self.config(variant))
        for module in network.modules():
            if isinstance(module, SqueezeNextBlock):
                damp(module.expand.bn)
        return network

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """Shape of one image.

        Args:
            variant: Which network.

        Returns:
            `(1, image_channels, H, H)`.
        """
        side = int(self._values(variant)["resolution"])
        return (1, self._choices.image_channels, side, side)

    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Which part of which shared parameter each parameter is.

        Args:
            variant: Which network.

        Returns:
            By name of each parameter.
        """
        network = self.network(variant)
        parts = same_names(network)
        for name, module in network.named_modules():
            if isinstance(module, SqueezeNextBlock):
                for unit in ("separable1", "separable2"):
                    _name_by_kernel(f"{name}.{unit}", getattr(module, unit).conv, parts)
        return parts

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        """Stem, stages and tail.

        Args:
            variant: Which network.

        Returns:
            From input to output.
        """
        config = self.config(variant)
        stem = config.stem
        return (
            StagePicture(f"stem {stem.kernel}x{stem.kernel}", stem.channels, 1, stem.stride * (2 if stem.pool else 1)),
            *(
                StagePicture(f"stage {i}", stage.width, stage.blocks, stage.stride)
                for i, stage in enumerate(config.stages, 1)
            ),
            StagePicture("tail", config.tail_channels, 1, 1),
        )

    def _values(self, variant: Variant) -> Mapping[str, Value]:
        return {**self._fixed, **variant.values}


def _name_by_kernel(unit: str, conv: nn.Conv2d, parts: dict[str, SharedWeight]) -> None:
    direction = "vertical" if conv.kernel_size[0] > 1 else "horizontal"
    for name in (f"{unit}.conv.weight", f"{unit}.bn.weight", f"{unit}.bn.bias"):
        parts[name] = replace(parts[name], name=name.replace(unit, f"{unit}.{direction}"))


def _check(choices: SqueezeNextChoices) -> None:
    """Refuses choices of which some combination is no network."""
    if not len(choices.depths) == len(choices.widths) == len(choices.strides) > 0:
        raise InputError(
            f"space: depths has {len(choices.depths)} stages, widths {len(choices.widths)} and strides "
            f"{len(choices.strides)}; give all three for each stage"
        )
    for place, widths in enumerate(choices.widths):
        entering = choices.widths[place - 1] if place else (choices.stem_channels,)
        for width, squeeze, groups in itertools.product(widths, choices.squeeze, choices.groups):
            try:
                squeezed_channels(width, squeeze, groups)
                for before in (width,) if choices.entrance == "single" else entering:
                    check_groups(before, groups)
            except InputError as error:
                raise InputError(f"space: widths[{place}]: {error}") from None
    for kernel, side in itertools.product(choices.stem_kernels, choices.resolutions):
        if choices.stem_padding and kernel % 2 == 0:
            raise InputError(f"space: stem_kernels: got {kernel}, which cannot be padded evenly; give odd sizes")
        if not choices.stem_padding and kernel > side:
            raise InputError(
                f"space: stem_kernels: {kernel} is larger than resolution {side}; drop it, or set stem_padding = true"
            )
