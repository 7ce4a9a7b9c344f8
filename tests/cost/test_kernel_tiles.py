"""The tiles that the cost model reckons with are those that the compiler chooses."""

import numpy as np
import pytest

from codesign.backend.kernels.float_convolution import skips_padding
from codesign.backend.kernels.geometry import ConvolutionShape, choose_tile
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.matrix_vector import _parts
from codesign.cost.kernel_tiles import tiled_loops
from codesign.hardware.calibration import VectorUnit
from codesign.plan.facts import ConvGeometry

UNITS = (VectorUnit(registers=31, lanes=16, dot_channels=4), VectorUnit(registers=7, lanes=16, dot_channels=1))


def _up(channels: int) -> int:
    return -(-channels // 16) * 16


@pytest.mark.parametrize("unit", UNITS)
def test_convolutions(unit: VectorUnit) -> None:
    random = np.random.default_rng(0)
    for _ in range(150):
        before, after, size = int(random.integers(5, 300)), int(random.integers(5, 300)), int(random.integers(1, 60))
        side, stride, depthwise = int(random.choice([1, 3, 5])), int(random.choice([1, 2])), random.random() < 0.2
        groups, after = (before, before) if depthwise else (1, after)
        if random.random() < 0.3:
            groups = int(random.choice([2, 3, 8]))
            before, after = groups * -(-before // groups), groups * -(-after // groups)
        pad = side // 2
        shape = ConvolutionShape(
            size, size, _up(before), _up(after), (side, side), (stride, stride), (1, 1), (pad,) * 4, groups,
            before // groups, after // groups,
        )  # fmt: skip
        flat = shape.flattened()
        out = (shape.out_height, shape.out_width)
        geometry = ConvGeometry(1, before, after, (side, side), (stride, stride), out, (size, size), groups)
        if out == (1, 1) and side == 1 and groups == 1:
            continue  # a matrix-vector product
        loops, tile = tiled_loops(geometry, True, unit), choose_tile(flat, unit.registers)
        assert (loops.columns, loops.blocks) == (tile.columns, tile.blocks), geometry
        assert loops.tiles == flat.out_height * flat.out_width // tile.columns * (flat.blocks // tile.blocks)
        assert loops.steps * loops.inner == side * side * shape.reduction_channels
        read_padding = shape.padded_height > size or shape.padded_width > size
        assert loops.padded == (shape.padded_height * shape.padded_width * _up(before) if read_padding else 0)
        assert loops.tiles * loops.steps * loops.sums * 16 * loops.inner == flat.macs


@pytest.mark.parametrize(("kernel", "copied"), [((3, 1), False), ((1, 3), True), ((5, 3), True), ((5, 1), False)])
def test_rows_of_padding_are_left_out_in_float32(kernel: tuple[int, int], copied: bool) -> None:
    rows, columns = kernel[0] // 2, kernel[1] // 2
    shape = ConvolutionShape(20, 20, 32, 32, kernel, pads=(rows, columns, rows, columns))
    geometry = ConvGeometry(1, 32, 32, kernel, (1, 1), (20, 20), (20, 20), 1)
    assert skips_padding(shape) == (not copied)
    assert (tiled_loops(geometry, False, UNITS[0]).padded > 0) == copied
    assert tiled_loops(geometry, True, UNITS[0]).padded > 0


@pytest.mark.parametrize("unit", UNITS)
def test_dense_layers(unit: VectorUnit) -> None:
    random = np.random.default_rng(0)
    isa = InstructionSet(vnni=unit.dot_channels > 1, registers=unit.registers)
    for _ in range(60):
        before, after = int(random.integers(5, 2000)), int(random.integers(5, 2000))
        geometry = ConvGeometry(1, before, after, (1, 1), (1, 1), (1, 1), (1, 1), 1)
        for integers in (False, True):
            loops = tiled_loops(geometry, integers, unit)
            inner = unit.dot_channels if integers else 1
            assert (loops.columns, loops.blocks) == _parts(_up(before) // inner, _up(after) // 16, isa)
            assert loops.tiles * loops.steps * loops.sums * inner * 16 == _up(before) * _up(after)
