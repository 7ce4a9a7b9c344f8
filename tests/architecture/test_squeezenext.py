"""SqueezeNext against the counts of the released networks."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codesign.architecture.squeezenext import (
    SqueezeNext,
    SqueezeNextBlock,
    squeezenext_23,
    squeezenext_23_g,
    squeezenext_23_v2,
    squeezenext_23_v3,
    squeezenext_23_v4,
    squeezenext_23_v5,
    squeezenext_23_v5_x2,
    squeezenext_23_x1_5,
    squeezenext_23_x2,
    squeezenext_34,
    squeezenext_34_x1_5,
    squeezenext_34_x2,
    squeezenext_44,
    squeezenext_44_x1_5,
    squeezenext_44_x2,
    squeezenext_cifar,
    squeezenext_digits,
)
from codesign.architecture.squeezenext_config import Entrance, PairOrder, SqueezeNextConfig, Stage, Stem
from codesign.errors import InputError


def _parameters(network: nn.Module) -> tuple[int, int]:
    """Of convolutions and classifier, and of BatchNorm."""
    norm = sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    return sum(p.numel() for p in network.parameters()) - norm, norm


def _macs(network: SqueezeNext, size: int) -> int:
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    for module in network.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, network.config.image_channels, size, size))
    return total


@pytest.mark.parametrize(
    ("factory", "weights", "norm", "million_macs"),
    [
        (squeezenext_23, 706_728, 11_552, 278.0),
        (squeezenext_23_g, 532_520, 11_552, 224.2),
        (squeezenext_23_v5, 916_648, 14_368, 224.9),
        (squeezenext_23_x2, 2_340_008, 22_720, 742.1),
        (squeezenext_23_v5_x2, 3_195_560, 28_352, 702.6),
    ],
)
def test_counts_of_the_released_networks(
    factory: Callable[[], SqueezeNext], weights: int, norm: int, million_macs: float
) -> None:
    network = factory()
    assert _parameters(network) == (weights, norm)
    assert round(_macs(network, 227) / 1e6, 1) == million_macs


@pytest.mark.parametrize(
    ("factory", "blocks", "published", "tolerance"),
    [
        (squeezenext_23_x1_5, 21, 1.4, 0.05),
        (squeezenext_34, 32, 1.0, 0.12),  # how the depth of 34 is spread over stages is a guess, see its docstring
        (squeezenext_34_x1_5, 32, 2.1, 0.12),
        (squeezenext_34_x2, 32, 3.8, 0.12),
        (squeezenext_44, 42, 1.2, 0.05),
        (squeezenext_44_x1_5, 42, 2.6, 0.05),
        (squeezenext_44_x2, 42, 4.4, 0.05),
    ],
)
def test_sizes_of_networks_that_were_not_released(
    factory: Callable[[], SqueezeNext], blocks: int, published: float, tolerance: float
) -> None:
    network = factory()
    assert len([block for block in network.modules() if isinstance(block, SqueezeNextBlock)]) == blocks
    assert sum(_parameters(network)) / 1e6 == pytest.approx(published, abs=tolerance)


def test_redesigned_networks_move_blocks_at_equal_work() -> None:
    factories = (squeezenext_23_v2, squeezenext_23_v3, squeezenext_23_v4, squeezenext_23_v5)
    networks = [factory() for factory in factories]
    blocks = [[stage.blocks for stage in network.config.stages] for network in networks]
    assert blocks == [[6, 6, 8, 1], [4, 8, 8, 1], [2, 10, 8, 1], [2, 4, 14, 1]]
    assert len({_macs(network, 227) for network in networks}) == 1
    assert _macs(squeezenext_23(), 227) > _macs(networks[0], 227)


def test_kernel_order_alternates_and_restarts_in_each_stage() -> None:
    network = squeezenext_23()
    for stage in network.stages:
        blocks = [block for block in stage.modules() if isinstance(block, SqueezeNextBlock)]
        for index, block in enumerate(blocks):
            pair = [block.separable1.conv, block.separable2.conv]
            expected = [(3, 1), (1, 3)] if index % 2 == 0 else [(1, 3), (3, 1)]
            assert [conv.kernel_size for conv in pair] == expected
            assert [conv.padding for conv in pair] == [(k[0] // 2, k[1] // 2) for k in expected]
            assert isinstance(block.shortcut, nn.Identity) == (index > 0)


def test_grouped_variant_groups_three_convolutions_of_every_block() -> None:
    network = squeezenext_23_g()
    grouped = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 2]
    assert len(grouped) == 63


@pytest.mark.parametrize(
    ("factory", "shape", "weights"),
    [(squeezenext_cifar, (2, 3, 32, 32), 571_338), (squeezenext_digits, (2, 1, 8, 8), 102_442)],
)
def test_small_image_networks(factory: Callable[[], SqueezeNext], shape: tuple[int, ...], weights: int) -> None:
    network = factory()
    assert _parameters(network)[0] == weights
    assert network.eval()(torch.zeros(shape)).shape == (2, 10)


@settings(max_examples=20, deadline=None)
@given(
    widths=st.lists(st.sampled_from([16, 32]), min_size=1, max_size=3),
    blocks=st.integers(1, 3),
    entrance=st.sampled_from(["parallel", "single"]),
    groups=st.sampled_from([1, 2]),
    squeeze=st.sampled_from([0.25, 0.5, 1.0]),
    pair_order=st.sampled_from(["alternating", "vertical-first", "horizontal-first"]),
)
def test_every_configuration_builds_a_network(
    widths: list[int], blocks: int, entrance: Entrance, groups: int, squeeze: float, pair_order: PairOrder
) -> None:
    stages = tuple(Stage(width, blocks) for width in widths)
    config = SqueezeNextConfig(Stem(8, 3, padding=1), stages, 16, 5, 2, groups, entrance, squeeze, pair_order)
    logits = SqueezeNext(config).eval()(torch.randn(3, 2, 16, 16))
    assert logits.shape == (3, 5)
    assert bool(torch.isfinite(logits).all())


def test_squeezed_channels_follow_the_ratio() -> None:
    block = SqueezeNextBlock(16, 32, vertical_first=False, squeeze=0.25)
    units = (block.squeeze1, block.squeeze2, block.separable1, block.separable2, block.expand)
    assert [unit.conv.out_channels for unit in units] == [8, 4, 8, 8, 32]
    assert block.separable1.conv.kernel_size == (1, 3)


def test_groups_must_divide_what_enters() -> None:
    with pytest.raises(InputError, match="9 channels enter a first squeeze with groups = 2"):
        SqueezeNextConfig(Stem(9, 3), (Stage(32, 1),), groups=2)


@pytest.mark.parametrize("stage", [Stage(30, 2), Stage(32, 0), Stage(36, 1)])
def test_impossible_configurations_are_refused(stage: Stage) -> None:
    with pytest.raises(InputError, match="SqueezeNext"):
        SqueezeNextConfig(Stem(8, 3), (stage,), groups=2)
