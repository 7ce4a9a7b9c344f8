"""ResNet spaces."""

import pytest
import torch

from codesign.architecture.damping import DAMPING
from codesign.architecture.resnet_cifar import BasicBlock, resnet20
from codesign.architecture.resnet_space import ResNetChoices, ResNetSpace
from codesign.architecture.space import StagePicture, largest, smallest, variant_count, variants
from codesign.errors import InputError

SPACE = ResNetSpace(
    ResNetChoices(((1, 3), (1, 2, 3), (3,)), ((16,), (24, 32), (48, 64)), (8, 16), stem_channels=16, classes=10)
)


def test_every_variant_runs() -> None:
    assert variant_count(SPACE) == 2 * 3 * 2 * 2 * 2
    for variant in variants(SPACE):
        assert SPACE.network(variant).eval()(torch.zeros(SPACE.input_shape(variant))).shape == (1, 10)


def test_the_largest_variant_has_the_parameters_of_resnet20() -> None:
    ours, published = SPACE.network(largest(SPACE)), resnet20()
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in published.named_parameters()}


def test_shortcuts_keep_channels_in_their_places() -> None:
    block = SPACE.network(smallest(SPACE)).layer2[0]
    assert isinstance(block, BasicBlock)
    x = torch.rand(1, 16, 8, 8)
    assert torch.equal(block.shortcut(x)[:, :16], x[:, :, ::2, ::2])
    assert not bool(block.shortcut(x)[:, 16:].any())


def test_picture() -> None:
    assert SPACE.stages(smallest(SPACE)) == (
        StagePicture("stem 3x3", 16, 1, 1),
        StagePicture("stage 1", 16, 1, 1),
        StagePicture("stage 2", 24, 1, 2),
        StagePicture("stage 3", 48, 3, 2),
    )


def test_impossible_choices_are_refused_by_key() -> None:
    with pytest.raises(InputError, match=r"widths\[1\]: 16 channels follow 24"):
        ResNetChoices(((1,), (1,), (1,)), ((16, 24), (16, 32), (64,)))
    with pytest.raises(InputError, match="depths has 2 stages and widths 3; these networks have 3"):
        ResNetChoices(((1,), (1,)), ((16,), (16,), (16,)))


def test_fresh_blocks_compute_little_beside_their_shortcut() -> None:
    network = SPACE.network(largest(SPACE))
    blocks = [block for block in network.modules() if isinstance(block, BasicBlock)]
    assert all(bool((block.bn2.weight == DAMPING).all()) and bool((block.bn1.weight == 1).all()) for block in blocks)
