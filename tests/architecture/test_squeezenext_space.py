"""SqueezeNext spaces: every combination is the network that its values say."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codesign.architecture.damping import DAMPING
from codesign.architecture.space import StagePicture, largest, variant_at, variant_count, variant_of
from codesign.architecture.squeezenext import SqueezeNextBlock, squeezenext_digits
from codesign.architecture.squeezenext_space import SqueezeNextChoices, SqueezeNextSpace
from codesign.errors import InputError

CHOICES = SqueezeNextChoices(
    depths=((1, 2), (2, 4), (1,)),
    widths=((16, 32), (64,), (64, 128)),
    strides=(1, 2, 2),
    squeeze=(0.25, 0.5),
    pair_orders=("alternating", "vertical-first", "horizontal-first"),
    groups=(2, 1),
    stem_kernels=(3, 5),
    stem_strides=(2, 1),
    resolutions=(6, 8),
    stem_channels=32,
    image_channels=1,
)
SPACE = SqueezeNextSpace(CHOICES)


def test_axes_are_what_has_several_values() -> None:
    assert [axis.name for axis in SPACE.axes] == [
        "depth1",
        "depth2",
        "width1",
        "width3",
        "squeeze",
        "pair_order",
        "groups",
        "stem_kernel",
        "stem_stride",
        "resolution",
    ]
    assert variant_count(SPACE) == 2**9 * 3


def test_the_largest_variant_is_the_shipped_network_where_the_values_are_its_own() -> None:
    values = {**largest(SPACE).values, "stem_kernel": 3, "pair_order": "alternating"}
    ours = SPACE.network(variant_of(SPACE, values))
    shipped = squeezenext_digits()
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in shipped.named_parameters()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, variant_count(SPACE) - 1), st.sampled_from(["parallel", "single"]))
def test_every_variant_runs_and_is_what_its_values_say(place: int, entrance: str) -> None:
    space = SqueezeNextSpace(replace(CHOICES, entrance="single")) if entrance == "single" else SPACE
    variant = variant_at(space, place)
    values = variant.values
    network = space.network(variant).eval()
    assert network(torch.zeros(space.input_shape(variant))).shape == (1, 10)
    assert space.input_shape(variant) == (1, 1, values["resolution"], values["resolution"])
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions[0].kernel_size[0] == values["stem_kernel"]
    assert convolutions[0].stride[0] == values["stem_stride"]
    assert {conv.groups for conv in convolutions} == {1, values["groups"]}
    config = space.config(variant)
    blocks = sum(stage.blocks for stage in config.stages)
    assert len([conv for conv in convolutions if max(conv.kernel_size) == 3 > min(conv.kernel_size)]) == 2 * blocks
    if values["pair_order"] != "alternating":
        first = [m.kernel_size for n, m in network.named_modules() if n.endswith("separable1.conv")]
        assert set(first) == {(3, 1) if values["pair_order"] == "vertical-first" else (1, 3)}
    drawn = space.stages(variant)
    assert drawn[1] == StagePicture("stage 1", int(values["width1"]), int(values["depth1"]), 1)
    assert [part.label for part in drawn][1:] == ["stage 1", "stage 2", "stage 3", "tail"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": ((16, 20), (64,), (64,))}, r"widths\[0\].*width of 20 with squeeze ratio 0.25.*multiple of 16"),
        ({"groups": (3, 1)}, r"widths\[0\].*multiple of 24"),
        ({"stem_channels": 33}, r"widths\[0\].*33 channels enter a first squeeze with groups = 2"),
        ({"squeeze": (0.3,)}, r"widths\[0\].*squeeze ratio 0.3"),
        ({"strides": (1, 2)}, "depths has 3 stages, widths 3 and strides 2"),
        ({"stem_kernels": (4,)}, "stem_kernels: got 4"),
        ({"stem_kernels": (9,), "stem_padding": False}, "stem_kernels: 9 is larger than resolution 6"),
        ({"depths": ((), (2,), (1,))}, "axis 'depth1' has no values, so the space is empty"),
    ],
)
def test_impossible_choices_are_refused_by_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SqueezeNextSpace(replace(CHOICES, **change))  # type: ignore[arg-type]  # wrong on purpose


def test_widths_that_only_the_given_ratios_allow() -> None:
    space = SqueezeNextSpace(SqueezeNextChoices(((1,),), ((6, 10),), (1,), squeeze=(1.0,), stem_channels=4))
    assert space.network(largest(space)).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_fresh_blocks_compute_little_beside_their_shortcut() -> None:
    for block in SPACE.network(largest(SPACE)).modules():
        if isinstance(block, SqueezeNextBlock):
            assert bool((block.expand.bn.weight == DAMPING).all())
            assert bool((block.separable2.bn.weight == 1).all())
