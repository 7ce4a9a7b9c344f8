"""The space as a run file describes it: `[space]`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from codesign.architecture.space import ArchitectureSpace
from codesign.config import StrictModel
from codesign.errors import InputError
from codesign.factory import call_factory

Count = Annotated[int, Field(gt=0)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Ratio = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]

_METHODS = ("network", "input_shape", "shared_weights", "stages")
_SQUEEZENEXT_ONLY = (
    "strides",
    "squeeze",
    "pair_orders",
    "groups",
    "stem_kernels",
    "stem_strides",
    "stem_padding",
    "stem_pool",
    "entrance",
    "tail_channels",
)


class SpaceSection(StrictModel):
    """`[space]`: the networks that a search chooses from: `kind` with the values of its axes, or `source`.

    What is left out has one value and is not searched. Values may come in any order.

    Attributes:
        kind: Family of networks.
        source: `package.module:factory` or `path/to/file.py:factory` that returns another space.
        depths: Numbers of blocks that each stage may have.
        widths: Channels that each stage may have.
        strides: Step of each stage; by default 1 for the first and 2 for the others.
        squeeze: Squeeze ratios of blocks.
        pair_orders: Orders of the separable pair of 3x1 and 1x3 convolutions.
        groups: Groups of the first squeeze and of both separable convolutions.
        stem_kernels: Sides of the first convolution's kernel.
        stem_strides: Steps of the first convolution.
        stem_channels: Channels of the first convolution; by default 64, for `resnet` 16.
        stem_padding: Whether the first convolution keeps the size of the image.
        stem_pool: Whether a 3x3 max pool with stride 2 follows the first convolution.
        entrance: How a stage begins: `parallel` as in 1.0-SqNxt-23, `single` as in 1.0-SqNxt-23v5.
        tail_channels: Channels of the 1x1 convolution before the classifier.
        resolutions: Heights and widths of the image.
        classes: Number of classes.
        image_channels: Channels of the image.
    """

    kind: Literal["squeezenext", "resnet"] | None = None
    source: str | None = None
    depths: tuple[Counts, ...] = ()
    widths: tuple[Counts, ...] = ()
    strides: tuple[Count, ...] | None = None
    squeeze: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.5,)
    pair_orders: Annotated[
        tuple[Literal["alternating", "vertical-first", "horizontal-first"], ...], Field(min_length=1)
    ] = ("alternating",)
    groups: Counts = (1,)
    stem_kernels: Counts = (3,)
    stem_strides: Counts = (1,)
    stem_channels: Count | None = None
    stem_padding: bool = True
    stem_pool: bool = False
    entrance: Literal["parallel", "single"] = "parallel"
    tail_channels: Count = 128
    resolutions: Counts = (32,)
    classes: Annotated[int, Field(ge=2)] = 10
    image_channels: Count = 3

    @model_validator(mode="after")
    def _keys_belong_together(self) -> "SpaceSection":
        given = self.model_fields_set - {"kind", "source"}
        if (self.kind is None) == (self.source is None):
            raise ValueError("give either kind, such as 'squeezenext', or source")
        if self.source is not None and given:
            raise ValueError(f"{sorted(given)} mean nothing beside source; remove them")
        if self.kind is not None and not (self.depths and self.widths):
            raise ValueError("the space is empty; give depths and widths, one list of values for each stage")
        strange = sorted(given & set(_SQUEEZENEXT_ONLY))
        if self.kind == "resnet" and strange:
            raise ValueError(f"{strange} mean nothing for kind 'resnet'; remove them")
        return self


def space_of(section: SpaceSection, base: Path) -> ArchitectureSpace:
    """Builds the space that a run file describes.

    Args:
        section: `[space]`.
        base: Folder that relative paths start from.

    Returns:
        The space; every combination of its values is a network.

    Raises:
        InputError: Some combination is no network, or the factory returns no space.
    """
    if section.source is not None:
        return _space_from_factory(section.source, base)
    if section.kind == "resnet":
        return _resnet(section)
    return _squeezenext(section)


def _squeezenext(section: SpaceSection) -> ArchitectureSpace:
    from codesign.architecture.squeezenext_space import SqueezeNextChoices, SqueezeNextSpace

    strides = section.strides
    return SqueezeNextSpace(
        SqueezeNextChoices(
            depths=tuple(map(_ascending, section.depths)),
            widths=tuple(map(_ascending, section.widths)),
            strides=strides if strides is not None else (1, *(2,) * (len(section.depths) - 1)),
            squeeze=tuple(sorted(section.squeeze)),
            pair_orders=section.pair_orders,
            groups=_ascending(section.groups)[::-1],
            stem_kernels=_ascending(section.stem_kernels),
            stem_strides=_ascending(section.stem_strides)[::-1],
            resolutions=_ascending(section.resolutions),
            stem_channels=64 if section.stem_channels is None else section.stem_channels,
            stem_padding=section.stem_padding,
            stem_pool=section.stem_pool,
            entrance=section.entrance,
            tail_channels=section.tail_channels,
            classes=section.classes,
            image_channels=section.image_channels,
        )
    )


def _resnet(section: SpaceSection) -> ArchitectureSpace:
    from codesign.architecture.resnet_space import ResNetChoices, ResNetSpace

    return ResNetSpace(
        ResNetChoices(
            depths=tuple(map(_ascending, section.depths)),
            widths=tuple(map(_ascending, section.widths)),
            resolutions=_ascending(section.resolutions),
            stem_channels=16 if section.stem_channels is None else section.stem_channels,
            classes=section.classes,
            image_channels=section.image_channels,
        )
    )


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(values))


def _space_from_factory(reference: str, base: Path) -> ArchitectureSpace:
    space = call_factory(reference, base)
    missing = [method for method in _METHODS if not callable(getattr(space, method, None))]
    missing += [field for field in ("name", "axes") if not hasattr(space, field)]
    if missing:
        raise InputError(
            f"{reference}: returned {type(space).__name__}, which lacks {missing}; return an ArchitectureSpace"
        )
    found: ArchitectureSpace = space  # type: ignore[assignment]  # checked by name just now
    names = [axis.name for axis in found.axes]
    if len(set(names)) < len(names):
        raise InputError(f"{reference}: axes are named {names}; give each its own name")
    return found
