"""The AMX tiles that the cost model reckons with are those that the compiler chooses."""

import numpy as np

from codesign.backend.kernels.amx_tiles import amx_applies, amx_tiles, sum_blocks
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.cost.kernel_tiles import tiled_loops
from codesign.hardware.calibration import VectorUnit
from codesign.plan.facts import ConvGeometry

UNIT = VectorUnit(registers=31, lanes=16, dot_channels=4, amx=True)


def _up(channels: int) -> int:
    return -(-channels // 16) * 16


def test_convolutions() -> None:
    random = np.random.default_rng(0)
    used = 0
    for _ in range(300):
        before, after, size = int(random.integers(5, 300)), int(random.integers(5, 300)), int(random.integers(2, 60))
        kernel = tuple(int(side) for side in random.choice([1, 3, 5], 2))
        stride, groups = int(random.choice([1, 2])), before if random.random() < 0.1 else 1
        after = before if groups > 1 else after
        if random.random() < 0.3:
            groups = int(random.choice([2, 3, 8]))
            before, after = groups * -(-before // groups), groups * -(-after // groups)
        pads = (kernel[0] // 2, kernel[1] // 2) * 2
        shape = ConvolutionShape(
            size, size, _up(before), _up(after), (kernel[0], kernel[1]), (stride, stride), (1, 1), pads, groups,
            before // groups, after // groups,
        ).flattened()  # fmt: skip
        out = -(-size // stride)
        geometry = ConvGeometry(
            1, before, after, (kernel[0], kernel[1]), (stride, stride), (out, out), (size, size), groups
        )
        if kernel == (1, 1) and out == 1 and groups == 1:
            continue  # a matrix-vector product
        found = tiled_loops(geometry, True, UNIT).amx
        assert (found is not None) == amx_applies(shape), geometry
        assert tiled_loops(geometry, False, UNIT).amx is None
        if found is None:
            continue
        used += 1
        tiles = amx_tiles(shape, shape.out_height, shape.out_width)
        assert (found.rows, found.pixels, found.channels) == (tiles.rows, tiles.pixels, tiles.channels), geometry
        assert found.depth == sum_blocks(shape).depth
        assert found.steps == shape.kernel[0] * tiles.sums.steps
        in_all = shape.out_height * tiles.in_row
        assert found.groups == -(-in_all // tiles.pixels) * (shape.blocks // tiles.channels)
        assert found.passes == (1 if tiles.pixels_outside else shape.blocks // tiles.channels)
        assert found.weights == shape.blocks * shape.kernel[0] * tiles.sums.weight_rows * 64
    assert used > 150


def test_an_image_of_few_channels_has_no_tiles() -> None:
    stem = ConvGeometry(1, 3, 16, (3, 3), (1, 1), (32, 32), (32, 32), 1)
    assert tiled_loops(stem, True, UNIT).amx is None
    large = ConvGeometry(1, 3, 16, (7, 7), (2, 2), (16, 16), (32, 32), 1)
    assert tiled_loops(large, True, UNIT).amx is not None
