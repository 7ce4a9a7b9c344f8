"""The loops that the cost model reckons with for windows are those that the compiler writes."""

import numpy as np
import pytest

from codesign.backend.kernels import depthwise, pooling
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.vectors import spans
from codesign.backend.kernels.window_parts import window_parts
from codesign.cost.depthwise_terms import depthwise_applies, depthwise_terms
from codesign.cost.pooling_terms import pooling_loops
from codesign.plan.facts import ConvGeometry


def _pairs(count: int) -> list[tuple[ConvolutionShape, ConvGeometry]]:
    """Layers of one filter a channel, as the compiler and as the cost model see them."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        channels, height, width = int(random.integers(5, 300)), int(random.integers(3, 40)), int(random.integers(3, 40))
        side, stride = int(random.choice([1, 2, 3, 5, 7])), int(random.choice([1, 2]))
        pad = int(random.integers(0, side // 2 + 1))
        if side > min(height, width) + 2 * pad:
            continue
        stored = -(-channels // 16) * 16
        shape = ConvolutionShape(
            height, width, stored, stored, (side, side), (stride, stride), (1, 1), (pad,) * 4, channels, 1, 1
        )
        out = (shape.out_height, shape.out_width)
        geometry = ConvGeometry(1, channels, channels, (side, side), (stride, stride), out, (height, width), channels)
        found.append((shape, geometry))
    return found


def _taps(shape: ConvolutionShape) -> int:
    rows, columns = (sum(part.count * len(part.taps) for part in window_parts(shape, axis)) for axis in (0, 1))
    return rows * columns


def test_depthwise_layers() -> None:
    applied = 0
    for shape, geometry in _pairs(200):
        assert depthwise_applies(geometry) == depthwise.depthwise_applies(shape), geometry
        if depthwise_applies(geometry):
            applied += 1
            terms = depthwise_terms(geometry)
            assert terms["products"] == _taps(shape) * shape.blocks
            assert terms["epilogues"] == shape.out_height * shape.out_width * shape.blocks
            columns = [part.count for part in window_parts(shape, 1)]
            groups = sum(-(-count // depthwise.PIXELS) for count in columns)
            assert terms["groups"] == shape.out_height * -(-shape.blocks // depthwise.BLOCKS) * groups
    assert applied > 100


def _vectors(shape: ConvolutionShape, widest: int) -> tuple[int, int]:
    """Vectors that the kernel writes, and loops over vectors of one width."""
    stores = loops = 0
    for part in window_parts(shape, 1):
        turns, pixels = (1, part.count) if shape.stride[1] == 1 else (part.count, 1)
        found = spans(pixels * shape.in_channels, widest)
        stores += turns * sum(span.count for span in found)
        loops += turns * len(found)
    return shape.out_height * stores, shape.out_height * loops


@pytest.mark.parametrize(("element_bytes", "widest"), [(1, 64), (4, 16)])
def test_pooling(element_bytes: int, widest: int) -> None:
    direct = 0
    for shape, geometry in _pairs(200):
        loops = pooling_loops(geometry, element_bytes)
        assert loops.is_direct == (pooling._parts(shape) is not None), geometry
        if loops.is_direct:
            direct += 1
            assert sum(size * count for size, count in loops.reads.items()) == (
                _taps(shape) * shape.in_channels * element_bytes
            )
            assert (loops.stores, loops.loops) == _vectors(shape, widest)
    assert direct > 100
