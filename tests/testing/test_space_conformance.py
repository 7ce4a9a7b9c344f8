"""The checks of spaces notice what is wrong."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from codesign.architecture.shared_weight import SharedWeight, same_names
from codesign.architecture.space import Axis, StagePicture, Variant
from codesign.errors import InputError
from codesign.testing.space_conformance import (
    SPACE_CHECKS,
    Check,
    check_extracted_networks_compute_the_same,
    check_gradients_reach_the_parts_alone,
    check_networks_take_their_input,
    check_parts_fit,
)


class _Space:
    """Perceptrons of two widths."""

    name = "perceptrons"
    axes = (Axis("width", (4, 8)), Axis("depth", (1, 2)))

    def network(self, variant: Variant) -> nn.Module:
        """A perceptron."""
        width = int(variant.values["width"])
        hidden = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(int(variant.values["depth"]))]
        return nn.Sequential(nn.Linear(6, width), nn.Sequential(*hidden), nn.Linear(width, 3))

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """Six features."""
        return (1, 6)

    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Leading neurons and layers."""
        return same_names(self.network(variant))

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        """One part."""
        return (StagePicture("hidden", int(variant.values["width"]), int(variant.values["depth"]), 1),)


class _WrongInput(_Space):
    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """No batch."""
        return (6,)


class _Hidden(_Space):
    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Forgets a parameter."""
        return {name: part for name, part in super().shared_weights(variant).items() if name != "0.bias"}


class _Crossed(_Space):
    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Names that only occur where two axes are not the largest."""
        parts = dict(super().shared_weights(variant))
        if variant.values == {"width": 4, "depth": 1}:
            parts["0.bias"] = replace(parts["0.bias"], name="another")
        return parts


class _Noisy(nn.Module):
    """Adds what differs between two networks of the same weights."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        _Noisy.made += 1
        self.noise = float(_Noisy.made)

    def forward(self, x: Tensor) -> Tensor:
        """Adds it."""
        return x + self.noise


class _Different(_Space):
    def network(self, variant: Variant) -> nn.Module:
        """Never the same network twice."""
        return nn.Sequential(*super().network(variant).children(), _Noisy())


@pytest.mark.parametrize("check", SPACE_CHECKS)
def test_a_right_space_passes(check: Check) -> None:
    check(_Space())


def test_mistakes_are_noticed() -> None:
    with pytest.raises(AssertionError, match="must have a batch of one"):
        check_networks_take_their_input(_WrongInput())
    with pytest.raises(InputError, match=r"'0.bias' has shape None in shared_weights"):
        check_parts_fit(_Hidden())
    with pytest.raises(InputError, match=r"variant width=4 depth=1 needs .* 'another', but there is none"):
        check_parts_fit(_Crossed())
    with pytest.raises(AssertionError, match="compute different logits"):
        check_extracted_networks_compute_the_same(_Different())


class _Leaky(SharedWeight):
    def take(self, shared: Tensor) -> Tensor:
        """Reads more than its part."""
        return super().take(shared) + shared.mean()


class _Leaking(_Space):
    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Parts that read everything."""
        return {name: _Leaky(p.name, p.shape, p.groups) for name, p in super().shared_weights(variant).items()}


def test_gradients_outside_of_parts_are_noticed() -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match="changes a part of"):
        check_gradients_reach_the_parts_alone(_Leaking())
