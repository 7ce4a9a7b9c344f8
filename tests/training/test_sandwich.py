"""What a batch trains."""

import numpy as np

from codesign.architecture.resnet_space import ResNetChoices, ResNetSpace
from codesign.architecture.space import largest, smallest, variants
from codesign.training.sandwich import draw_widths, sandwich

SPACE = ResNetSpace(ResNetChoices(((1, 2), (1,), (1, 2)), ((8,), (8,), (8, 16)), (8,), stem_channels=8))


def test_largest_first_smallest_last_and_every_variant_in_between() -> None:
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        first, *drawn, last = sandwich(SPACE, 3, generator)
        assert (first, last) == (largest(SPACE), smallest(SPACE))
        assert len(drawn) == 3
        seen |= set(drawn)
    assert seen == set(variants(SPACE))


def test_half_of_the_draws_have_one_width_for_all() -> None:
    generator = np.random.default_rng(0)
    names = [f"layer{i}" for i in range(8)]
    draws = [draw_widths(names, (2, 4, 32), generator) for _ in range(400)]
    uniform = [draw for draw in draws if len(draw) in {0, 8} and len(set(draw.values())) <= 1]
    assert 0.4 < len(uniform) / len(draws) < 0.6
    assert {width for draw in draws for width in draw.values()} == {2, 4}
    layers = [draw.get("layer3", 32) for draw in draws]
    assert all(0.25 < layers.count(width) / len(draws) < 0.42 for width in (2, 4, 32))
    assert draw_widths(names, (), generator) == {}
