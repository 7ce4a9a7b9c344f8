"""Kernels whose products are of bfloat16, against sums in float64 and against the order in which AMX adds."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codesign.backend.kernel_candidates import candidates
from codesign.backend.kernels import amx_shares
from codesign.backend.kernels.amx_convolution import bfloat16_convolution, bfloat16_tiling
from codesign.backend.kernels.amx_shares import parts, shares
from codesign.backend.kernels.amx_tiles import (
    bfloat16_applies,
    bfloat16_weights,
    shape_in_bytes,
    sum_blocks,
    worth_bfloat16,
)
from codesign.backend.kernels.bfloat16 import to_bfloat16
from codesign.backend.kernels.epilogue import Clamp, FloatEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet, instruction_set
from codesign.backend.kernels.layer_kernel import LayerKernel
from codesign.backend.kernels.parameters import AmxTiling
from codesign.errors import CompileError
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.host import detect_host

NEEDS_AMX = pytest.mark.skipif(
    not request_amx() or "amx_bf16" not in detect_host().flags,
    reason="this processor or operating system has no AMX-BF16",
)
UNIT = 2.0**-24
"""Unit roundoff of float32."""
Reals = NDArray[np.float32]


def _rounded(values: Reals) -> Reals:
    """What a number is after rounding, as float32."""
    return (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class Operands:
    """Of one layer: input `[1, H, W, C]`, weight `[C_out, C, KH, KW]`, bias, residual as the output."""

    x: Reals
    weight: Reals
    bias: Reals
    residual: Reals


def _operands(shape: ConvolutionShape, seed: int) -> Operands:
    rng = np.random.default_rng(seed)
    out = (1, shape.out_height, shape.out_width, shape.out_channels)
    weight = (shape.out_channels, shape.in_channels, *shape.kernel)
    sizes = ((1, shape.height, shape.width, shape.in_channels), weight, (shape.out_channels,), out)
    return Operands(*(rng.standard_normal(size).astype(np.float32) for size in sizes))


def _run(shape: ConvolutionShape, epilogue: FloatEpilogue, given: Operands, threads: int = 1) -> Reals:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codesign.backend.kernels.amx_tiles.PARALLEL_MACS", 1)  # any work is worth threads
        return _run_with(shape, epilogue, given, bfloat16_tiling(shape, threads))


def _run_with(shape: ConvolutionShape, epilogue: FloatEpilogue, given: Operands, tiling: AmxTiling) -> Reals:
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "opt-level": 1})
    kernel = bfloat16_convolution(shape, epilogue, tiling, asks=True)
    library = tvm.compile(tvm.IRModule({"main": kernel}), target=target)
    arguments = [given.x, bfloat16_weights(given.weight, shape), given.bias]
    arguments += [given.residual] if epilogue.residual else []
    out = tvm.runtime.tensor(np.zeros(given.residual.shape, np.float32))
    library["main"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments), out)
    result: Reals = out.numpy()
    return result


def _windows(shape: ConvolutionShape, x: NDArray[np.floating]) -> NDArray[np.floating]:
    """What each output sums over: `[pixels, KH, KW C]`."""
    top, left, bottom, right = shape.pads
    padded = np.pad(x[0], ((top, bottom), (left, right), (0, 0)))
    found = [
        [
            padded[y * shape.stride[0] + i * shape.dilation[0], z * shape.stride[1] : z * shape.stride[1] + columns]
            for i in range(shape.kernel[0])
        ]
        for y in range(shape.out_height)
        for z in range(shape.out_width)
        for columns in [shape.kernel[1]]
    ]
    return np.asarray(found).reshape(len(found), shape.kernel[0], -1)


def _check_bound(shape: ConvolutionShape, epilogue: FloatEpilogue, threads: int, seed: int) -> None:
    given = _operands(shape, seed)
    rows = _windows(shape, _rounded(given.x)).astype(np.float64)
    taps = _rounded(given.weight).astype(np.float64).transpose(2, 3, 1, 0).reshape(shape.kernel[0], -1, given.bias.size)
    total = np.einsum("pik,ikc->pc", rows, taps) + given.bias
    size = np.einsum("pik,ikc->pc", np.abs(rows), np.abs(taps)) + np.abs(given.bias)
    bound = (taps.shape[0] * taps.shape[1] + 1) * UNIT * size
    expected = _clamped(total, epilogue.inner)
    if epilogue.residual:
        expected = expected + given.residual.reshape(total.shape)
        bound += UNIT * np.abs(expected)
    expected = _clamped(expected, epilogue.outer)
    got = _run(shape, epilogue, given, threads).reshape(total.shape)
    assert np.all(np.abs(got - expected) <= bound)


def _clamped(values: NDArray[np.float64], clamp: Clamp) -> NDArray[np.float64]:
    low, high = clamp.low, clamp.high
    values = values if low is None else np.maximum(values, np.float32(low))
    return values if high is None else np.minimum(values, np.float32(high))


shapes = st.builds(
    ConvolutionShape,
    height=st.sampled_from([1, 5, 9]),
    width=st.sampled_from([7, 8, 17, 33]),
    in_channels=st.sampled_from([4, 8, 16, 20, 48, 112]),
    out_channels=st.sampled_from([16, 32, 48, 64]),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1), (7, 7)]),
    stride=st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    dilation=st.sampled_from([(1, 1), (2, 1)]),
    pads=st.sampled_from([(0, 0, 0, 0), (3, 3, 3, 3), (2, 0, 4, 3)]),
).map(ConvolutionShape.flattened)
clamps = st.sampled_from([Clamp(), Clamp(0.0), Clamp(0.0, 6.0), Clamp(-1.0, None)])
epilogues = st.builds(FloatEpilogue, inner=clamps, residual=st.booleans(), outer=clamps)


@NEEDS_AMX
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=shapes,
    epilogue=epilogues,
    threads=st.sampled_from([1, 1, 2, 3]),
    rounded_bytes=st.sampled_from([256, 2048, 32_768]),
    seed=st.integers(0, 1000),
)
def test_sums_are_within_the_bound_of_float32(
    shape: ConvolutionShape, epilogue: FloatEpilogue, threads: int, rounded_bytes: int, seed: int
) -> None:
    if min(shape.out_height, shape.out_width) < 1 or shape.padded_width <= shape.pads[1]:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amx_shares, "ROUNDED_BYTES", rounded_bytes)
        patch.setattr("codesign.backend.kernels.amx_tiles.MINIMUM_BFLOAT16_MACS", 0)
        if bfloat16_applies(shape):
            _check_bound(shape, epilogue, threads, seed)


def _in_order_of_the_tiles(shape: ConvolutionShape, given: Operands) -> Reals:
    """Sums as Intel's manual defines TDPBF16PS: even and odd elements apart, then both, then what was there."""
    rows = _windows(shape, _rounded(given.x)).astype(np.float32)
    taps = _rounded(given.weight).transpose(2, 3, 1, 0).reshape(shape.kernel[0], -1, given.bias.size)
    sums = sum_blocks(shape_in_bytes(shape))
    total: Reals = np.broadcast_to(given.bias, (len(rows), given.bias.size)).copy()
    for tap in range(shape.kernel[0]):
        done = 0
        for start in (byte // 2 for byte in sums.starts):
            halves = np.zeros((2, *total.shape), np.float32)
            for k in range(start, start + sums.depth // 2):
                if k >= done:  # an earlier block holds it too
                    halves[k % 2] += rows[:, tap, k, None] * taps[tap, k]
            total += halves[0] + halves[1]
            done = start + sums.depth // 2
    return total


@NEEDS_AMX
@pytest.mark.parametrize(
    "shape",
    [
        ConvolutionShape(5, 17, 16, 32, (3, 3), pads=(1, 1, 1, 1)),
        ConvolutionShape(9, 9, 20, 16, (3, 3), (2, 2)),
        ConvolutionShape(1, 40, 112, 48),
    ],
)
def test_sums_are_those_of_the_manual_bit_for_bit(shape: ConvolutionShape) -> None:
    given = _operands(shape, 1)
    got = _run(shape, FloatEpilogue(), given)
    assert np.array_equal(got.reshape(-1, shape.out_channels), _in_order_of_the_tiles(shape, given))


@NEEDS_AMX
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape",
    [
        ConvolutionShape(19, 33, 16, 16, (3, 3), pads=(1, 1, 1, 1)),
        ConvolutionShape(1, 300, 48, 16),
        ConvolutionShape(19, 33, 32, 16, (1, 1), (2, 2)),
    ],
)
def test_parts_compute_the_same(shape: ConvolutionShape, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given, epilogue = _operands(shape, 3), FloatEpilogue(Clamp(0.0), residual=True)
    assert parts(shape, shares(shape, threads)).count <= 2
    whole = _run(shape, epilogue, given)
    monkeypatch.setattr(amx_shares, "ROUNDED_BYTES", 3000)
    assert parts(shape, shares(shape, threads)).count > 1
    assert np.array_equal(_run(shape, epilogue, given, threads), whole)


@NEEDS_AMX
@pytest.mark.parametrize("rounded_bytes", [3000, 32_768])
def test_all_loops_compute_the_same_bits(rounded_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx_shares, "ROUNDED_BYTES", rounded_bytes)
    shape, epilogue = ConvolutionShape(9, 18, 16, 64, (3, 3), pads=(1, 1, 1, 1)), FloatEpilogue(Clamp(0.0))
    rounding = InstructionSet(True, 31, amx=True, bfloat16=True)
    ways = [way for way in candidates(LayerKernel(shape, 32, epilogue), rounding, 2) if isinstance(way, AmxTiling)]
    assert len({(way.threads, way.shares_channels) for way in ways}) == 3
    given = _operands(shape, 4)
    first = _run_with(shape, epilogue, given, ways[0])
    assert all(np.array_equal(_run_with(shape, epilogue, given, way), first) for way in ways[1:])


@NEEDS_AMX
def test_infinities_and_nan_stay_in_their_windows_and_denormals_are_zeros() -> None:
    shape = ConvolutionShape(5, 17, 16, 16, (3, 3), pads=(1, 1, 1, 1))
    given = _operands(shape, 2)
    given.x[0, 0, 0, 3], given.x[0, 4, 16, 5] = np.inf, np.nan
    given.x[0, 2, 8] = 1e-39
    got = _run(shape, FloatEpilogue(), given)
    finite = np.isfinite(got[0]).all(axis=-1)
    expected = np.ones((5, 17), bool)
    expected[:2, :2] = expected[3:, 15:] = False
    assert np.array_equal(finite, expected)
    zero = replace(given, x=np.where(np.abs(given.x) < 1e-38, np.float32(0), given.x))
    assert np.array_equal(got[0][expected], _run(shape, FloatEpilogue(), zero)[0][expected])


def test_rounding_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 1 << 32, 100_000, np.uint32)
    ties = (numbers[:1000] & np.uint32(0xFFFF_0000)) | np.uint32(0x8000)
    values = np.concatenate([numbers, ties]).view(np.float32)
    values = values[(np.abs(values) >= 2.0**-126) | (values == 0)]
    rounded = torch.from_numpy(values).bfloat16().float().numpy()
    got = _rounded(values)
    assert np.array_equal(np.isnan(got), np.isnan(values))
    assert np.array_equal(got[~np.isnan(got)], rounded[~np.isnan(got)])
    assert to_bfloat16(np.array([-1e-40], np.float32)).item() == 0x8000
    assert not _rounded(np.array([1.17e-38, -1e-40, 1e-45], np.float32)).any()


def test_layers_that_stay_in_float32() -> None:
    assert bfloat16_applies(ConvolutionShape(20, 20, 16, 16, (3, 3), pads=(1, 1, 1, 1)))
    assert bfloat16_applies(ConvolutionShape(227, 227, 4, 64, (7, 7), (2, 2)))
    assert not bfloat16_applies(ConvolutionShape(20, 20, 3, 16, (3, 3)))
    assert not bfloat16_applies(ConvolutionShape(4, 4, 16, 16))
    assert not worth_bfloat16(ConvolutionShape(96, 96, 1, 64, (3, 3)))
    assert not bfloat16_applies(ConvolutionShape(20, 20, 16, 16, (3, 3), groups=16, group_in=1, group_out=1))
    assert not bfloat16_applies(ConvolutionShape(20, 20, 16, 16, (3, 3), dilation=(1, 2)))


@settings(max_examples=200, deadline=None)
@given(shape=shapes, threads=st.integers(1, 4), rounded_bytes=st.sampled_from([256, 2048, 32_768]))
def test_parts_cover_a_share(shape: ConvolutionShape, threads: int, rounded_bytes: int) -> None:
    if min(shape.out_height, shape.out_width) < 1:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amx_shares, "ROUNDED_BYTES", rounded_bytes)
        share = shares(shape, threads)
        part = parts(shape, share)
    assert part.blocks == share.blocks
    covered = np.zeros((share.rows, share.columns), bool)
    for number in range(part.count):
        row, column = (
            min(number * size, whole - size) for size, whole in ((part.rows, share.rows), (part.columns, share.columns))
        )
        covered[row : row + part.rows, column : column + part.columns] = True
    assert covered.all()


def test_a_processor_without_amx_is_refused_by_name() -> None:
    for mcpu in ("cascadelake", "x86-64-v3"):
        target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
        with pytest.raises(CompileError, match=f"'bfloat16' needs AMX-BF16, which processor {mcpu}.*sapphirerapids"):
            instruction_set(target, "bfloat16")
        assert not instruction_set(target).bfloat16
    assert instruction_set(tvm.target.Target({"kind": "llvm", "mcpu": "sapphirerapids"}), "bfloat16").bfloat16
