"""Which variants a batch trains, and at which widths."""

import numpy as np

from codesign.architecture.space import ArchitectureSpace, Variant, largest, smallest
from codesign.training.options import FLOAT_BITS


def sandwich(space: ArchitectureSpace, random_variants: int, generator: np.random.Generator) -> list[Variant]:
    """The sandwich rule (Yu and Huang, arXiv 1903.05134): the largest, the smallest and some random variants.

    Args:
        space: What to draw from.
        random_variants: How many are drawn; each value of an axis is as likely as the others.
        generator: Source of the draws.

    Returns:
        The largest variant first. Variants may repeat.
    """
    drawn = [
        Variant(tuple((axis.name, axis.values[int(generator.integers(len(axis.values)))]) for axis in space.axes))
        for _ in range(random_variants)
    ]
    return [largest(space), *drawn, smallest(space)]


def draw_widths(names: list[str], allowed: tuple[int, ...], generator: np.random.Generator) -> dict[str, int]:
    """Widths of layers: every second time one for all, else one for each.

    Layers drawn one by one are seldom all narrow; plans with one width for all would never be seen.

    Args:
        names: Parameter names of weights.
        allowed: Widths to draw from, each as likely as the others; 32 for floating point. May be empty.
        generator: Source of the draws.

    Returns:
        By name; layers in floating point are left out.
    """
    if not allowed:
        return {}
    together = bool(generator.integers(2))
    widths = np.repeat(generator.choice(allowed), len(names)) if together else generator.choice(allowed, len(names))
    return {name: int(width) for name, width in zip(names, widths, strict=True) if width != FLOAT_BITS}
