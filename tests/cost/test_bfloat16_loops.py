"""The tiles that the cost model reckons with for products of bfloat16 are those that the compiler chooses."""

from dataclasses import replace

import numpy as np

from codesign.backend.kernels.amx_input import copy_size
from codesign.backend.kernels.amx_shares import parts, shares
from codesign.backend.kernels.amx_tiles import amx_tiles, bfloat16_applies, shape_in_bytes, worth_bfloat16
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.cost.kernel_terms import arithmetic_of
from codesign.cost.kernel_tiles import tiled_loops
from codesign.hardware.calibration import VectorUnit
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import Widths

UNIT = VectorUnit(registers=31, lanes=16, dot_channels=4, amx=True, bfloat16=True)
FLOAT = Widths(32, 32)


def _up(channels: int) -> int:
    return -(-channels // 16) * 16 if channels > 4 else 4


def _stored(channels: int) -> int:
    """In float32."""
    return _up(channels) if channels > 4 else channels


def test_convolutions() -> None:
    random = np.random.default_rng(0)
    used = divided = 0
    for _ in range(300):
        before, size = int(random.integers(1, 300)), int(random.integers(8, 80))
        after = int(random.integers(5, 300))
        kernel = tuple(int(side) for side in random.choice([1, 3, 5, 7], 2))
        stride = int(random.choice([1, 2]))
        pads = (kernel[0] // 2, kernel[1] // 2) * 2
        shape = ConvolutionShape(
            size, size, _up(before), -(-after // 16) * 16, (kernel[0], kernel[1]), (stride, stride), (1, 1), pads, 1,
            before, after,
        ).flattened()  # fmt: skip
        out = -(-size // stride)
        geometry = ConvGeometry(1, before, after, (kernel[0], kernel[1]), (stride, stride), (out, out), (size, size), 1)
        loops = tiled_loops(geometry, False, UNIT)
        expected = bfloat16_applies(shape) and worth_bfloat16(replace(shape, in_channels=_stored(before)))
        assert (loops.amx is not None) == expected, geometry
        assert tiled_loops(geometry, True, UNIT).rounded == 0
        if loops.amx is None:
            continue
        used += 1
        part = parts(shape, shares(shape, 1))
        divided += part.count > 1
        tiles = amx_tiles(shape_in_bytes(shape), part.rows, part.columns)
        found = loops.amx
        assert (found.rows, found.pixels, found.channels) == (tiles.rows, tiles.pixels, tiles.channels), geometry
        assert found.depth == tiles.sums.depth
        assert found.steps == shape.kernel[0] * len(tiles.sums.starts)
        in_part = -(-part.rows * tiles.in_row // tiles.pixels) * (shape.blocks // tiles.channels)
        assert found.groups == part.count * in_part, geometry
        height, width = copy_size(shape, part.rows, part.columns)
        assert loops.rounded == part.count * height * width * shape.in_channels, geometry
    assert used > 150
    assert divided > 40


def test_products_of_bfloat16_are_an_arithmetic_of_their_own() -> None:
    assert arithmetic_of("convolution", FLOAT, UNIT) == "bfloat16"
    assert arithmetic_of("dense", FLOAT, UNIT) == "float32"
    assert arithmetic_of("convolution", FLOAT, UNIT.model_copy(update={"bfloat16": False})) == "float32"
    assert arithmetic_of("convolution", Widths(8, 8), UNIT) == "int8"
