"""Shared weights: a variant run through parts of them is the network that is extracted."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codesign.architecture.resnet_space import ResNetChoices, ResNetSpace
from codesign.architecture.shared_weight import SharedWeight
from codesign.architecture.space import ArchitectureSpace, Axis, StagePicture, Variant, largest, variant_at, variants
from codesign.architecture.space import variant_count as count_of
from codesign.architecture.squeezenext_space import SqueezeNextChoices, SqueezeNextSpace
from codesign.architecture.supernet import Supernet
from codesign.errors import InputError
from codesign.testing.space_conformance import SPACE_CHECKS, Check

SQUEEZENEXT = SqueezeNextSpace(
    SqueezeNextChoices(
        depths=((1, 2), (1, 3)),
        widths=((16, 32), (32, 48)),
        strides=(1, 2),
        squeeze=(0.25, 0.5),
        pair_orders=("alternating", "vertical-first", "horizontal-first"),
        groups=(2, 1),
        stem_kernels=(3, 5),
        stem_strides=(2, 1),
        resolutions=(6, 8),
        stem_channels=8,
        tail_channels=16,
        image_channels=1,
    )
)
RESNET = ResNetSpace(
    ResNetChoices(((1, 2), (1, 2), (1,)), ((8, 12), (12, 16), (16, 24)), (8,), stem_channels=8, image_channels=1)
)
SPACES: dict[str, tuple[ArchitectureSpace, Supernet]] = {
    space.name: (space, Supernet(space, seed=3)) for space in (SQUEEZENEXT, RESNET)
}


def _images(space: ArchitectureSpace, variant: Variant) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(5, *space.input_shape(variant)[1:])


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(sorted(SPACES)), place=st.integers(0, 10**6))
def test_gradients_are_those_of_the_extracted_network(name: str, place: int) -> None:
    space, supernet = SPACES[name]
    variant = variant_at(space, place % count_of(space))
    images = _images(space, variant)
    network = supernet.extract(variant).train()
    supernet.zero_grad()
    supernet.run(variant, images).square().sum().backward()  # type: ignore[no-untyped-call]
    network(images).square().sum().backward()
    expected = {name: torch.zeros_like(parameter) for name, parameter in supernet.named_parameters()}
    for own, part in space.shared_weights(variant).items():
        gradient = network.get_parameter(own).grad
        assert gradient is not None
        part.put(expected[supernet.parameter_name(part.name)], gradient)
    for shared, parameter in supernet.named_parameters():
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got, expected[shared])


@pytest.mark.parametrize("check", SPACE_CHECKS)
@pytest.mark.parametrize("name", sorted(SPACES))
def test_shipped_spaces_conform(name: str, check: Check) -> None:
    check(SPACES[name][0])


def test_every_part_of_every_variant_fits() -> None:
    space, supernet = SPACES["resnet"]
    for variant in variants(space):
        shapes = {name: part.shape for name, part in supernet.weights_of(variant).items()}
        assert shapes == {name: parameter.shape for name, parameter in space.network(variant).named_parameters()}


def test_the_largest_variant_starts_from_its_own_fresh_weights_and_the_seed_decides() -> None:
    whole = largest(SQUEEZENEXT)
    again = Supernet(SQUEEZENEXT, seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in SPACES["squeezenext"][1].state_dict().items())
    other = Supernet(SQUEEZENEXT, seed=4).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in again.items())
    for module in SPACES["squeezenext"][1].extract(whole).modules():
        if isinstance(module, nn.Conv2d):  # Kaiming's deviation for the largest fan
            fan = module.weight.shape[0] * module.weight[0, 0].numel() / module.groups
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.5)
        if isinstance(module, nn.BatchNorm2d):
            assert len(set(module.weight.tolist())) == 1


def test_torch_random_numbers_are_left_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    supernet = Supernet(RESNET, seed=0)
    supernet.extract(largest(RESNET))
    supernet.run(largest(RESNET), _images(RESNET, largest(RESNET)).detach())
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_extracted_weights_are_copies() -> None:
    space, supernet = SPACES["resnet"]
    before = copy.deepcopy(supernet.state_dict())
    network = supernet.extract(largest(space))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_separable_kernels_share_nothing_between_directions() -> None:
    parts = [
        SQUEEZENEXT.shared_weights(Variant(replace_choice(largest(SQUEEZENEXT), "pair_order", order)))
        for order in ("vertical-first", "horizontal-first")
    ]
    name = "stages.0.0.separable1.conv.weight"
    assert [part[name].shape[2:] for part in parts] == [(3, 1), (1, 3)]
    assert parts[0][name].name != parts[1][name].name
    assert parts[0]["stages.0.0.separable1.bn.bias"].name != parts[1]["stages.0.0.separable1.bn.bias"].name


def replace_choice(variant: Variant, axis: str, value: str) -> tuple[tuple[str, int | float | str], ...]:
    """Choices with one of them changed."""
    return tuple((name, value if name == axis else old) for name, old in variant.choices)


class _Scaled(nn.Module):
    """A linear layer after a constant factor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(6, width), nn.Linear(width, 3)
        self.register_buffer("factor", torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Classifies `[N, 6]`."""
        logits: Tensor = self.output(torch.relu(self.hidden(x) * self.factor))
        return logits


class _Toy:
    """A space with networks that keep a constant in a buffer, and with whatever parts a test gives."""

    name = "toy"
    axes: tuple[Axis, ...] = (Axis("width", (4, 8)),)

    def network(self, variant: Variant) -> nn.Module:
        """A perceptron."""
        return _Scaled(int(variant.values["width"]))

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """Six features."""
        return (1, 6)

    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Leading neurons."""
        return {name: SharedWeight(name, tuple(p.shape)) for name, p in self.network(variant).named_parameters()}

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        """One part."""
        return (StagePicture("hidden", int(variant.values["width"]), 1, 1),)


class _WrongShape(_Toy):
    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """A wrong claim about one parameter."""
        right = super().shared_weights(variant)
        return {**right, "output.bias": replace(right["output.bias"], shape=(2,))}


class _Crossed(_Toy):
    """Only two axes together make the widest network."""

    axes = (Axis("a", (0, 1)), Axis("b", (0, 1)))

    def network(self, variant: Variant) -> nn.Module:
        """Wide where both are 0."""
        return _Scaled(4 if any(variant.values.values()) else 8)


@pytest.mark.parametrize("check", SPACE_CHECKS)
def test_networks_with_constants_conform(check: Check) -> None:
    check(_Toy())


def test_parts_that_do_not_match_the_network_are_refused() -> None:
    with pytest.raises(InputError, match=r"'output.bias' has shape \(2,\) in shared_weights and \(3,\) in network"):
        Supernet(_WrongShape(), seed=0).run(largest(_WrongShape()), torch.zeros(1, 6))


def test_parts_that_no_shared_parameter_holds_are_refused() -> None:
    supernet = Supernet(_Crossed(), seed=0)
    with pytest.raises(InputError, match=r"variant a=0 b=0 needs shape .* it has shape .* order the values of axes"):
        supernet.weights_of(Variant((("a", 0), ("b", 0))))
