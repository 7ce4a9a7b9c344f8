"""A space of residual networks for small images."""

from collections.abc import Mapping
from dataclasses import dataclass

from codesign.architecture.damping import damp
from codesign.architecture.resnet_cifar import BasicBlock, CifarResNet
from codesign.architecture.shared_weight import SharedWeight, same_names
from codesign.architecture.space import Axis, StagePicture, Value, Variant
from codesign.errors import InputError


@dataclass(frozen=True)
class ResNetChoices:
    """What each part of a residual network may be. Every tuple of values is in the order of ascending capacity.

    Attributes:
        depths: Numbers of blocks, by stage; there are three.
        widths: Channels, by stage.
        resolutions: Heights and widths of the image.
        stem_channels: Output channels of the stem.
        classes: Number of logits.
        image_channels: Channels of the image.
    """

    depths: tuple[tuple[int, ...], ...]
    widths: tuple[tuple[int, ...], ...]
    resolutions: tuple[int, ...] = (32,)
    stem_channels: int = 16
    classes: int = 10
    image_channels: int = 3

    def __post_init__(self) -> None:
        if not len(self.depths) == len(self.widths) == 3:
            raise InputError(
                f"space: depths has {len(self.depths)} stages and widths {len(self.widths)}; these networks have 3"
            )
        before: tuple[int, ...] = (self.stem_channels,)
        for place, widths in enumerate(self.widths):
            if widths and max(before) > min(widths):
                raise InputError(
                    f"space: widths[{place}]: {min(widths)} channels follow {max(before)}, and shortcuts can only add "
                    f"channels; give {max(before)} or more"
                )
            before = widths or before

    def axes(self) -> tuple[Axis, ...]:
        """Everything as axes: depth and width of each stage, then the resolution."""
        return (
            *(Axis(f"depth{i}", values) for i, values in enumerate(self.depths, 1)),
            *(Axis(f"width{i}", values) for i, values in enumerate(self.widths, 1)),
            Axis("resolution", self.resolutions),
        )


class ResNetSpace:
    """All networks of the given choices. What has one value only is no axis.

    Shared are leading blocks of a stage and leading channels. New channels of a shortcut are zeros behind the others,
    so that a channel means the same in every variant.

    Args:
        choices: What there is to choose from.

    Attributes:
        name: `resnet`.
        axes: What can be chosen.
    """

    name = "resnet"

    def __init__(self, choices: ResNetChoices) -> None:
        self._choices = choices
        everything = choices.axes()
        self._fixed: dict[str, Value] = {axis.name: axis.values[0] for axis in everything}
        self.axes = tuple(axis for axis in everything if len(axis.values) > 1)

    def network(self, variant: Variant) -> CifarResNet:
        """A network with fresh weights, of which every block computes nearly its shortcut alone (`damping`).

        Args:
            variant: Which one.

        Returns:
            The network.
        """
        choices = self._choices
        depths, widths = self._by_stage(variant, "depth"), self._by_stage(variant, "width")
        network = CifarResNet(
            depths, choices.classes, widths, choices.image_channels, choices.stem_channels, zeros_behind=True
        )
        for module in network.modules():
            if isinstance(module, BasicBlock):
                damp(module.bn2)
        return network

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """Shape of one image.

        Args:
            variant: Which network.

        Returns:
            `(1, image_channels, H, H)`.
        """
        side = int({**self._fixed, **variant.values}["resolution"])
        return (1, self._choices.image_channels, side, side)

    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Which part of which shared parameter each parameter is.

        Args:
            variant: Which network.

        Returns:
            By name of each parameter.
        """
        return same_names(self.network(variant))

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        """Stem and stages.

        Args:
            variant: Which network.

        Returns:
            From input to output.
        """
        stages = zip(self._by_stage(variant, "width"), self._by_stage(variant, "depth"), (1, 2, 2), strict=True)
        return (
            StagePicture("stem 3x3", self._choices.stem_channels, 1, 1),
            *(StagePicture(f"stage {i}", width, blocks, stride) for i, (width, blocks, stride) in enumerate(stages, 1)),
        )

    def _by_stage(self, variant: Variant, what: str) -> list[int]:
        values = {**self._fixed, **variant.values}
        return [int(values[f"{what}{i}"]) for i in (1, 2, 3)]
