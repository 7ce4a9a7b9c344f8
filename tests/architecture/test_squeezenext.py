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
    squeezenext_23_v2,
    squeezenext_23_v3,
    squeezenext_23_v4,
    squeezenext_23_v5,
    squeezenext_cifar,
    squeezenext_digits,
)
from codesign.architecture.squeezenext_config import Entrance, SqueezeNextConfig, Stage, Stem, imagenet_config
from codesign.errors import InputError

BASELINE, V5 = (6, 6, 8, 1), (2, 4, 14, 1)


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
    ("config", "weights", "norm", "million_macs"),
    [
        (imagenet_config(BASELINE, 7, "parallel"), 706_728, 11_552, 278.0),
        (imagenet_config(BASELINE, 7, "parallel", groups=2), 532_520, 11_552, 224.2),
        (imagenet_config(V5, 5, "single"), 916_648, 14_368, 224.9),
        (imagenet_config(BASELINE, 7, "parallel", width_multiplier=2), 2_340_008, 22_720, 742.1),
        (imagenet_config(V5, 5, "single", width_multiplier=2), 3_195_560, 28_352, 702.6),
    ],
    ids=["1.0-23", "1.0-G-23", "1.0-23v5", "2.0-23", "2.0-23v5"],
)
def test_counts_of_the_released_networks(
    config: SqueezeNextConfig, weights: int, norm: int, million_macs: float
) -> None:
    network = SqueezeNext(config)
    assert _parameters(network) == (weights, norm)
    assert round(_macs(network, 227) / 1e6, 1) == million_macs


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
    network = SqueezeNext(imagenet_config(BASELINE, 7, "parallel", groups=2))
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
    widths=st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3),
    blocks=st.integers(1, 3),
    entrance=st.sampled_from(["parallel", "single"]),
    groups=st.sampled_from([1, 2]),
)
def test_every_configuration_builds_a_network(widths: list[int], blocks: int, entrance: Entrance, groups: int) -> None:
    stages = tuple(Stage(width, blocks) for width in widths)
    config = SqueezeNextConfig(Stem(8, 3, padding=1), stages, 16, 5, 2, groups, entrance)
    logits = SqueezeNext(config).eval()(torch.randn(3, 2, 16, 16))
    assert logits.shape == (3, 5)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("stage", [Stage(30, 2), Stage(32, 0), Stage(36, 1)])
def test_impossible_configurations_are_refused(stage: Stage) -> None:
    with pytest.raises(InputError, match="SqueezeNext"):
        SqueezeNextConfig(Stem(8, 3), (stage,), groups=2)
