"""What every architecture space must keep, as functions that a test calls with one space.

    @pytest.mark.parametrize("check", SPACE_CHECKS)
    def test_my_space(check):
        check(MySpace())

A check raises AssertionError or InputError with the variant that breaks it. It looks at the variants that differ from
the largest or the smallest in one axis, and at some random ones.
"""

import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from codesign.architecture.space import (
    ArchitectureSpace,
    Variant,
    largest,
    smallest,
    variant_at,
    variant_count,
    variant_of,
)
from codesign.architecture.supernet import Supernet

_RANDOM_VARIANTS = 8
_BATCH = 3

Check = Callable[[ArchitectureSpace], None]


def check_networks_take_their_input(space: ArchitectureSpace) -> None:
    """Every variant is a network that computes finite logits from inputs of its shape, and can be drawn.

    Args:
        space: The space.
    """
    for variant in _looked_at(space):
        shape = space.input_shape(variant)
        assert shape[0] == 1, f"{variant}: input_shape is {shape}; it must have a batch of one"
        with torch.no_grad():
            logits = space.network(variant).eval()(_images(space, variant))
        assert logits.shape[0] == _BATCH, f"{variant}: logits of {_BATCH} inputs have shape {list(logits.shape)}"
        assert bool(torch.isfinite(logits).all()), f"{variant}: logits of a fresh network hold NaN or infinity"
        assert space.stages(variant), f"{variant}: stages is empty"


def check_parts_fit(space: ArchitectureSpace) -> None:
    """Every parameter of every variant is a part of a shared one.

    Args:
        space: The space.
    """
    supernet = Supernet(space, seed=0)
    for variant in _looked_at(space):
        supernet.weights_of(variant)


def check_extracted_networks_compute_the_same(space: ArchitectureSpace) -> None:
    """A network of a variant's own computes what its parts of the shared weights compute.

    Args:
        space: The space.
    """
    supernet = Supernet(space, seed=0)
    for variant in _looked_at(space):
        images = _images(space, variant)
        with torch.no_grad():
            torch.manual_seed(0)
            own = supernet.extract(variant).train()(images)
            torch.manual_seed(0)
            shared = supernet.run(variant, images)
        assert torch.equal(own, shared), f"{variant}: the extracted network and the parts compute different logits"


def check_gradients_reach_the_parts_alone(space: ArchitectureSpace) -> None:
    """Training a variant leaves everything that it does not use as it is.

    Args:
        space: The space.
    """
    supernet = Supernet(space, seed=0)
    for variant in _looked_at(space):
        supernet.zero_grad()
        supernet.run(variant, _images(space, variant)).square().sum().backward()  # type: ignore[no-untyped-call]
        used = {name: torch.zeros_like(parameter) for name, parameter in supernet.named_parameters()}
        for part in space.shared_weights(variant).values():
            part.put(used[supernet.parameter_name(part.name)], torch.ones(part.shape))
        for name, parameter in supernet.named_parameters():
            outside = 0.0 if parameter.grad is None else float((parameter.grad * (1 - used[name])).abs().sum())
            assert outside == 0, f"{variant}: changes a part of {name} that is not its own"


SPACE_CHECKS: tuple[Check, ...] = (
    check_networks_take_their_input,
    check_parts_fit,
    check_extracted_networks_compute_the_same,
    check_gradients_reach_the_parts_alone,
)


def _images(space: ArchitectureSpace, variant: Variant) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_BATCH, *space.input_shape(variant)[1:], generator=generator)


def _looked_at(space: ArchitectureSpace) -> Iterator[Variant]:
    for corner in (largest(space), smallest(space)):
        for axis in space.axes:
            for value in axis.values:
                yield variant_of(space, {**corner.values, axis.name: value})
    draw = random.Random(0)
    for _ in range(_RANDOM_VARIANTS):
        yield variant_at(space, draw.randrange(variant_count(space)))
