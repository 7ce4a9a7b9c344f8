"""How work is cut into AMX tiles, and what happens where the tiles may not be used."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.backend.kernels import amx_instructions
from codesign.backend.kernels.amx_convolution import amx_convolution, amx_tiling
from codesign.backend.kernels.amx_shares import shares
from codesign.backend.kernels.amx_tiles import ACCUMULATORS, amx_applies, amx_tiles, amx_weights, run_bytes, sum_blocks
from codesign.backend.kernels.epilogue import IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import block_weights
from codesign.hardware.amx_permission import request_amx

shapes = st.builds(
    ConvolutionShape,
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    in_channels=st.integers(1, 80).map(lambda n: 4 * n),
    out_channels=st.integers(1, 12).map(lambda n: 16 * n),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1)]),
    stride=st.sampled_from([(1, 1), (2, 2)]),
)


@settings(max_examples=200, deadline=None)
@given(shape=shapes)
def test_blocks_stay_inside_a_kernel_row_and_hold_each_weight_once(shape: ConvolutionShape) -> None:
    sums = sum_blocks(shape)
    assert sums.depth % 4 == 0
    assert sums.depth <= 64
    assert min(sums.starts) == 0
    assert max(sums.starts) + sums.depth == run_bytes(shape)
    weights = np.random.default_rng(0).integers(1, 100, (16, shape.in_channels, *shape.kernel)).astype(np.int8)
    blocks = block_weights(weights, 4)
    tiled = amx_weights(blocks, sums)
    found = np.zeros((*tiled.shape[:2], run_bytes(shape) // 4, 64), np.int64)
    for number, start in enumerate(sums.starts):
        rows = sums.depth // 4
        found[:, :, start // 4 : start // 4 + rows] += tiled[:, :, number * rows : (number + 1) * rows]
    assert np.array_equal(found.reshape(-1), blocks.reshape(-1))


@settings(max_examples=200, deadline=None)
@given(shape=shapes, threads=st.integers(1, 4))
def test_tiles_cover_every_output(shape: ConvolutionShape, threads: int) -> None:
    flat = shape.flattened()
    share = shares(flat, threads)
    part = replace(flat, out_channels=share.blocks * 16)
    tiles = amx_tiles(part, share.rows, share.columns)
    assert tiles.pixels * tiles.channels <= ACCUMULATORS
    assert part.blocks % tiles.channels == 0
    assert tiles.pixels <= share.rows * tiles.in_row
    assert tiles.rows <= min(16, share.columns)
    assert tiles.rows * tiles.in_row >= share.columns
    if share.blocks < flat.blocks:
        assert share.blocks * share.count == flat.blocks
        assert (share.rows, share.columns) == (flat.out_height, flat.out_width)
        return
    covered = np.zeros((flat.out_height, flat.out_width), bool)
    for number in range(share.count):
        row = min(number * share.rows, flat.out_height - share.rows)
        column = min(number * share.columns, flat.out_width - share.columns)
        covered[row : row + share.rows, column : column + share.columns] = True
    assert covered.all()


def test_layers_that_other_kernels_compute() -> None:
    assert amx_applies(ConvolutionShape(20, 20, 16, 16))
    assert not amx_applies(ConvolutionShape(19, 20, 16, 16))
    assert not amx_applies(ConvolutionShape(32, 32, 4, 16, (3, 3)))
    assert not amx_applies(ConvolutionShape(20, 20, 16, 16, (3, 3), groups=16, group_in=1, group_out=1))
    assert not amx_applies(ConvolutionShape(20, 20, 16, 16, (3, 3), dilation=(1, 2)))
    assert amx_applies(ConvolutionShape(20, 20, 64, 64, (3, 3), groups=16, group_in=4, group_out=4))
    assert not amx_applies(ConvolutionShape(20, 20, 64, 128, (3, 3), groups=16, group_in=4, group_out=16))


def test_no_permission_is_an_error_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    native = tvm.target.codegen.llvm_get_system_cpu()
    target = tvm.target.Target({"kind": "llvm", "mcpu": native})
    if not tvm.target.codegen.target_has_features("amx-int8", target):
        pytest.skip("LLVM compiles no AMX for this processor")
    monkeypatch.setattr(amx_instructions, "TILE_DATA", 63)  # no such feature: what a machine without AMX answers
    shape = ConvolutionShape(1, 16, 16, 16)
    function = amx_convolution(shape, 8, IntegerEpilogue(), amx_tiling(shape, 1), asks=True)
    library = tvm.compile(tvm.IRModule({"main": function}), target=target)
    image, dtypes = (1, 1, 16, 16), ("int8", "int32", "float32", "int32", "float32", "uint8")
    sizes = ((1, 1, 4, 64), (16,), (16,), (4,), (7,), image)
    arrays = [np.zeros(size, dtype) for size, dtype in zip((image, *sizes), ("uint8", *dtypes), strict=True)]
    with pytest.raises(RuntimeError, match="needs AMX"):
        library["main"](*(tvm.runtime.tensor(array) for array in arrays))


def test_permission_is_for_linux_on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    assert request_amx() == request_amx()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not request_amx()
