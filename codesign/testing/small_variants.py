"""24 small networks of one family as hand-made facts: a joint space that can be enumerated."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from codesign.plan.facts import ConvGeometry, GraphFacts, NodeFacts
from codesign.quantization.scheme import BitWidths

CHOICES = (BitWidths(4, 8), BitWidths(8, 8))
WIDTHS, SQUEEZES, STEM_KERNELS, ORDERS = (16, 24, 32), (0.25, 0.5), (3, 5), ("vertical", "horizontal")
IMAGE = 16


def small_variants() -> Iterator[tuple[str, float, GraphFacts]]:
    """A SqueezeNext block of four convolutions between a stem and a classifier, at 24 sizes.

    Yields:
        Name; a made-up loss of the float network, which falls with its size; and facts with made-up losses for
        `CHOICES`: six nodes with a weight, a residual addition and a pooling.
    """
    for index, (width, squeeze, kernel, order) in enumerate(product(WIDTHS, SQUEEZES, STEM_KERNELS, ORDERS)):
        nodes = _nodes(width, squeeze, kernel, order, np.random.default_rng(index))
        size = sum(node.weight_elements for node in nodes)
        yield f"w{width} s{squeeze} k{kernel} {order}", 0.5 * size**-0.25, GraphFacts(nodes, f"variant{index}")


def _nodes(width: int, squeeze: float, kernel: int, order: str, rng: np.random.Generator) -> tuple[NodeFacts, ...]:
    narrow, half = int(width * squeeze), IMAGE // 2
    first, second = ((3, 1), (1, 3)) if order == "vertical" else ((1, 3), (3, 1))
    block = half * half * width
    return (
        _conv("stem", 3, width, (kernel, kernel), 2, IMAGE, ("squeeze", "add"), rng, 0),
        _conv("squeeze", width, narrow, (1, 1), 1, half, ("pair1",), rng, block),
        _conv("pair1", narrow, narrow, first, 1, half, ("pair2",), rng, block),
        _conv("pair2", narrow, narrow, second, 1, half, ("expand",), rng, block),
        _conv("expand", narrow, width, (1, 1), 1, half, ("add",), rng, block),
        _plain("add", "Add", 2 * block, block, 2 * block, ("pool",), "expand"),
        _plain("pool", "GlobalAveragePool", block, width, block + width, ("classifier",), None),
        _conv("classifier", width, 10, (1, 1), 1, 1, (), rng, 0),
    )


def _conv(
    name: str,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    size: int,
    consumers: tuple[str, ...],
    rng: np.random.Generator,
    waiting: int,
) -> NodeFacts:
    """A convolution; `waiting` elements of a residual are alive beside its operand and result."""
    out = size // stride
    geometry = ConvGeometry(1, inputs, outputs, kernel, (stride, stride), (out, out), (size, size), 1)
    weights = inputs * outputs * kernel[0] * kernel[1]
    read, written = inputs * size * size, outputs * out * out
    narrow = float(rng.uniform(0.2, 1.0)) * 1e-2
    losses = {CHOICES[0]: narrow, CHOICES[1]: narrow * float(rng.uniform(0.001, 0.01))}
    alive = read + written + (waiting if name != "squeeze" else 0)
    return NodeFacts(
        name, "Conv", weights * out * out, weights, outputs, read, written, alive, geometry, losses, consumers
    )


def _plain(
    name: str, op_type: str, read: int, written: int, alive: int, consumers: tuple[str, ...], root: str | None
) -> NodeFacts:
    return NodeFacts(name, op_type, 0, 0, 0, read, written, alive, None, {}, consumers, root)
