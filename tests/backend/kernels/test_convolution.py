"""Convolution and dense kernels against exact integer arithmetic and against torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codesign.backend.kernel_candidates import candidates
from codesign.backend.kernels import amx_tiles
from codesign.backend.kernels.epilogue import Clamp
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import instruction_set
from codesign.backend.kernels.packing import round_up
from codesign.backend.kernels.parameters import KernelParameters
from codesign.backend.layers import described, kernel_function, layer_constants
from codesign.backend.operations import Convolution, Quantization, Residual, SpatialWindow, Tensor, Weight
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.host import detect_host

PORTABLE = "x86-64-v3"
VNNI = "cascadelake"
HAS_VNNI = "avx512_vnni" in detect_host().flags
NEEDS_VNNI = pytest.mark.skipif(not HAS_VNNI, reason="this processor has no AVX512-VNNI")
NEEDS_AMX = pytest.mark.skipif(not request_amx(), reason="this processor or operating system has no AMX")
Integers = NDArray[np.int64]
Choose = Callable[[tuple[KernelParameters, ...]], KernelParameters]
"""Which candidate is compiled."""


@pytest.fixture(scope="module", autouse=True)
def _amx_and_threads_for_small_layers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amx_tiles, "MINIMUM_AMX_MACS", 0)
        patch.setattr(amx_tiles, "PARALLEL_MACS", 1)
        yield


def _target(mcpu: str | None) -> "tvm.target.Target":
    native = tvm.target.codegen.llvm_get_system_cpu()
    return tvm.target.Target({"kind": "llvm", "mcpu": mcpu or native, "opt-level": 1})


@dataclass(frozen=True)
class Case:
    """A random layer: sizes, quantisation, and whether a residual is added."""

    size: tuple[int, int] = (6, 5)
    group_in: int = 3
    group_out: int = 5
    groups: int = 1
    window: SpatialWindow = field(default_factory=SpatialWindow)
    bits: int = 8
    zeros: tuple[int, int, int, int] = (0, 0, 0, 0)
    residual: bool = False
    first: bool = False
    relu: bool = False
    seed: int = 0


windows = st.builds(
    SpatialWindow,
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1), (2, 2)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    dilation=st.sampled_from([(1, 1), (1, 2)]),
    pads=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0)]),
)
cases = st.builds(
    Case,
    size=st.sampled_from([(6, 5), (5, 8), (9, 7)]),
    group_in=st.sampled_from([1, 3, 4, 16]),
    group_out=st.sampled_from([1, 5, 16]),
    groups=st.sampled_from([1, 1, 2, 20]),
    window=windows,
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    zeros=st.tuples(*[st.integers(0, 255)] * 4),
    residual=st.booleans(),
    first=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)


def _layer(case: Case, quantized: bool) -> Convolution:
    rng = np.random.default_rng(case.seed)
    channels, filters = case.groups * case.group_in, case.groups * case.group_out
    shape = (filters, case.group_in, *case.window.kernel)
    top = (1 << (case.bits - 1)) - 1
    levels = [Quantization(float(s), z) for s, z in zip((0.02, 0.05, 0.03, 0.04), case.zeros, strict=True)]
    x_level, middle_level, residual_level, y_level = levels if quantized else [None] * 4
    if quantized:
        scale = rng.uniform(0.5, 2, filters).astype(np.float32) / np.float32(top * case.group_in)
        weight = Weight(rng.integers(-top, top + 1, shape).astype(np.int8), scale, case.bits)
        bias: NDArray[np.generic] = rng.integers(-2000, 2000, filters).astype(np.int32)
    else:
        weight = Weight(rng.standard_normal(shape).astype(np.float32), None, 32)
        bias = rng.standard_normal(filters).astype(np.float32)
    x = Tensor("x", (1, channels, *case.size), x_level)
    rows, columns = _out_size(case)
    y = Tensor("y", (1, filters, rows, columns), y_level)
    clamp = Clamp(0.0) if case.relu else Clamp()
    if not case.residual:
        return Convolution("c", x, y, weight, bias, case.window, case.groups, False, clamp)
    added, middle = replace(y, name="r", quantization=residual_level), replace(y, quantization=middle_level)
    residual = Residual(added, middle, clamp, case.first)
    return Convolution("c", x, y, weight, bias, case.window, case.groups, False, Clamp(), residual)


def _out_size(case: Case) -> tuple[int, int]:
    w = case.window
    sizes = []
    for axis in (0, 1):
        padded = case.size[axis] + w.pads[axis] + w.pads[axis + 2]
        sizes.append((padded - w.dilation[axis] * (w.kernel[axis] - 1) - 1) // w.stride[axis] + 1)
    return sizes[0], sizes[1]


def _shape(layer: Convolution, channels: int) -> ConvolutionShape:
    w, values = layer.window, layer.weight.values
    sizes = (layer.x.shape[2], layer.x.shape[3], channels, round_up(values.shape[0], 16))
    group = (layer.groups, values.shape[1], values.shape[0] // layer.groups)
    return ConvolutionShape(*sizes, w.kernel, w.stride, w.dilation, w.pads, *group).flattened()


def _by_pixel(image: NDArray[np.generic], channels: int) -> NDArray[Any]:
    """`[1, C, H, W]` as `[1, H, W, channels]`; channels that are only stored hold noise."""
    stored = np.full((1, *image.shape[2:], channels), 7, image.dtype)
    stored[..., : image.shape[1]] = image.transpose(0, 2, 3, 1)
    return stored


def _run(
    layer: Convolution,
    x: NDArray[np.generic],
    residual: NDArray[np.generic],
    mcpu: str | None,
    threads: int = 1,
    choose: Choose = itemgetter(0),
) -> NDArray[Any]:
    target = _target(mcpu)
    isa = instruction_set(target)
    isa = replace(isa, amx=isa.amx and request_amx())
    multiple = 16 if layer.groups > 1 else 4
    shape = _shape(layer, round_up(x.shape[1], multiple))
    out_shape = (1, shape.out_height, shape.out_width, shape.out_channels)
    arguments = [_by_pixel(x, shape.in_channels).reshape(1, shape.height, shape.width, -1)]
    kernel = described(layer, shape)
    parameters = choose(candidates(kernel, isa, threads))
    arguments += layer_constants(layer, shape, isa, parameters).arguments
    if layer.residual is not None:
        arguments.append(_by_pixel(residual, shape.out_channels).reshape(out_shape))
    _, make = kernel_function(kernel, parameters, isa, threads, asks_for_amx=True)
    library = tvm.compile(tvm.IRModule({"main": make()}), target=target)
    out = tvm.runtime.tensor(np.zeros(out_shape, layer.output.dtype))
    library["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments], out)
    filters, rows, columns = layer.output.shape[1:]
    result: NDArray[Any] = out.numpy().reshape(1, rows, columns, -1)[..., :filters].transpose(0, 3, 1, 2)
    return result


def _exact_sum(layer: Convolution, x: Integers) -> Integers:
    """Sum of (x - z_x) w + bias in int64, by definition."""
    w = layer.window
    assert layer.x.quantization is not None
    assert layer.bias is not None
    top, left, bottom, right = w.pads
    centred = np.pad(x - layer.x.quantization.zero_point, ((0, 0), (0, 0), (top, bottom), (left, right)))
    values = layer.weight.values.astype(np.int64)
    filters, group_in = values.shape[:2]
    rows, columns = layer.output.shape[2:]
    total = np.zeros((1, filters, rows, columns), np.int64) + layer.bias.astype(np.int64)[None, :, None, None]
    for o in range(filters):
        first = o // (filters // layer.groups) * group_in
        for i in range(w.kernel[0]):
            for j in range(w.kernel[1]):
                top, left = i * w.dilation[0], j * w.dilation[1]
                part = centred[0, first : first + group_in, top :: w.stride[0], left :: w.stride[1]]
                total[0, o] += np.tensordot(values[o, :, i, j], part[:, :rows, :columns], 1)
    return total


def _requantized(layer: Convolution, total: Integers, residual: Integers) -> Integers:
    """The epilogue in float32 as onnxruntime computes it, additions in float64 where it fuses them."""
    assert layer.weight.scale is not None
    assert layer.x.quantization is not None
    result = layer.output if layer.residual is None else layer.residual.middle
    level, y = result.quantization, layer.output.quantization
    assert level is not None
    assert y is not None
    scale = np.float32(layer.x.quantization.scale) * layer.weight.scale / np.float32(level.scale)
    value = total.astype(np.float32) * scale[None, :, None, None]
    low, high = level.bounds(layer.clamp)
    middle = np.rint(np.clip(value, np.float32(low), np.float32(high))).astype(np.int64) + level.zero_point
    if layer.residual is None:
        return np.asarray(middle)
    added = layer.residual.tensor.quantization
    assert added is not None
    real = (middle - level.zero_point) * (level.scale / y.scale) + (residual - added.zero_point) * (
        added.scale / y.scale
    )
    low, high = (bound + y.zero_point for bound in y.bounds(layer.residual.clamp))
    return np.asarray(np.clip(np.rint(real + y.zero_point), np.rint(low), np.rint(high)), np.int64)


def _check_integers(case: Case, mcpu: str | None, threads: int = 1, choose: Choose = itemgetter(0)) -> None:
    layer = _layer(case, quantized=True)
    rng = np.random.default_rng(case.seed + 1)
    x = rng.integers(0, 256, layer.x.shape)
    residual = rng.integers(0, 256, layer.output.shape)
    got = _run(layer, x.astype(np.uint8), residual.astype(np.uint8), mcpu, threads, choose).astype(np.int64)
    expected = _requantized(layer, _exact_sum(layer, x), residual)
    difference = np.abs(got - expected)
    if layer.residual is None:
        assert difference.max() == 0
    else:  # sums that lie half-way between two integers may round either way
        assert difference.max() <= 1
        assert (difference != 0).mean() < 0.01


@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=cases)
def test_integer_convolution_is_exact(case: Case) -> None:
    _check_integers(case, None)


@NEEDS_VNNI
@settings(max_examples=10, deadline=None, derandomize=True)
@given(case=cases)
def test_integer_convolution_is_exact_without_amx(case: Case) -> None:
    _check_integers(case, VNNI)


amx_cases = st.builds(
    Case,
    size=st.sampled_from([(5, 17), (9, 8), (3, 33), (1, 40), (7, 7)]),
    group_in=st.sampled_from([16, 20, 48, 80, 96, 112, 160]),
    group_out=st.sampled_from([5, 16, 32, 48, 64]),
    window=st.builds(
        SpatialWindow,
        kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1)]),
        stride=st.sampled_from([(1, 1), (2, 2), (2, 1)]),
        dilation=st.sampled_from([(1, 1), (2, 1)]),
        pads=st.sampled_from([(1, 1, 1, 1), (2, 0, 2, 3)]),
    ),
    bits=st.sampled_from([2, 3, 4, 5, 6, 8, 8, 8]),
    zeros=st.tuples(*[st.integers(0, 255)] * 4),
    residual=st.booleans(),
    first=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)


@NEEDS_AMX
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=amx_cases, threads=st.sampled_from([1, 2, 3]))
def test_amx_is_exact(case: Case, threads: int) -> None:
    _check_integers(case, None, threads)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(case=st.one_of(cases, amx_cases), place=st.floats(0, 1, exclude_max=True), threads=st.sampled_from([1, 2]))
def test_every_candidate_computes_the_same_integers(case: Case, place: float, threads: int) -> None:
    _check_integers(case, None, threads, lambda ways: ways[int(place * len(ways))])


@pytest.mark.parametrize(
    ("case", "mcpu"),
    [
        (Case((1, 1), 192, 64, bits=8), None),
        (Case((1, 1), 192, 64, bits=4), None),
        (Case((6, 8), 16, 32, bits=4), None),
        (Case((6, 8), 4, 32, window=SpatialWindow((3, 3), pads=(1, 1, 1, 1)), residual=True), PORTABLE),
    ],
)
def test_all_kinds_of_candidates(case: Case, mcpu: str | None) -> None:
    kinds: dict[object, KernelParameters] = {}

    def listed(ways: tuple[KernelParameters, ...]) -> KernelParameters:
        for way in ways:  # the last one of each kind and each flag
            flags = tuple(value for value in vars(way).values() if isinstance(value, bool | str))
            kinds[flags] = way
        return ways[0]

    _check_integers(case, mcpu, 2, listed)
    for parameters in kinds.values():
        _check_integers(case, mcpu, 2, lambda _, way=parameters: way)  # type: ignore[misc]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(case=cases)
def test_integer_convolution_is_exact_without_vnni(case: Case) -> None:
    _check_integers(case, PORTABLE)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("mcpu", [None, pytest.param(VNNI, marks=NEEDS_VNNI), PORTABLE])
def test_every_width_with_many_channels(bits: int, mcpu: str | None) -> None:
    window = SpatialWindow((3, 3), pads=(1, 1, 1, 1))
    _check_integers(Case((8, 8), 32, 32, window=window, bits=bits, zeros=(9, 0, 0, 3), relu=True), mcpu)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("case", [Case((1, 1), 200, 40), Case((1, 1), 64, 10, residual=True), Case((7, 1), 48, 33)])
def test_dense_layers(case: Case, bits: int) -> None:
    _check_integers(replace(case, bits=bits, zeros=(128, 3, 200, 7)), None)
    _check_integers(replace(case, bits=bits, zeros=(128, 3, 200, 7)), PORTABLE)


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_of_whole_vectors(groups: int) -> None:
    window = SpatialWindow((3, 3), (2, 2), pads=(1, 1, 1, 1))
    _check_integers(Case((9, 9), 8, 16, groups, window, 4, (5, 0, 0, 6)), None)


FEW_CHANNELS = [
    Case((9, 9), 4, 4, 8, SpatialWindow((3, 3), (2, 2), pads=(1, 1, 1, 1)), 8, (5, 0, 0, 6)),
    Case((5, 18), 8, 8, 6, SpatialWindow((3, 3), pads=(1, 1, 1, 1)), 4, (5, 0, 0, 6)),
    Case((4, 6), 24, 24, 2, SpatialWindow((1, 3), pads=(0, 1, 0, 1)), 8, (5, 0, 0, 6)),
    Case((4, 6), 3, 40, 3, SpatialWindow(), 3, (5, 0, 0, 6)),
    Case((4, 17), 80, 32, 3, SpatialWindow((1, 3)), 8, (5, 0, 0, 6), residual=True),
]


@pytest.mark.parametrize("case", FEW_CHANNELS)
def test_groups_of_few_channels(case: Case) -> None:
    for mcpu in (None, VNNI if HAS_VNNI else PORTABLE):
        _check_integers(case, mcpu)
    _check_floats(replace(case, bits=8), None)


@NEEDS_AMX
@pytest.mark.parametrize("threads", [2, 3])
def test_groups_on_several_threads(threads: int) -> None:
    window = SpatialWindow((3, 3), pads=(1, 1, 1, 1))
    _check_integers(Case((5, 18), 16, 16, 6, window), None, threads)
    _check_integers(Case((3, 3), 32, 32, 6, window, 2), None, threads)


@pytest.mark.parametrize("bits", [5, 8])
def test_several_threads_compute_the_same(bits: int) -> None:
    window = SpatialWindow((3, 3), pads=(1, 1, 1, 1))
    few_pixels = Case((5, 4), 64, 64, window=window)
    for case in (
        Case((16, 16), 32, 32, window=window),
        Case((15, 16), 32, 32, window=window),
        Case((32, 32), 32, 48),
        few_pixels,
        replace(few_pixels, residual=True),
        Case((1, 3), 128, 256),
    ):
        for mcpu in (None, VNNI) if HAS_VNNI else (None,):
            _check_integers(replace(case, bits=bits, zeros=(9, 0, 0, 3)), mcpu, threads=2)


def test_depthwise_products_beyond_int8_do_not_overflow() -> None:
    layer = _layer(Case((4, 4), 1, 1, 16, SpatialWindow((3, 3))), quantized=True)
    layer = replace(layer, weight=replace(layer.weight, values=np.full_like(layer.weight.values, -127)))
    x = np.full(layer.x.shape, 255)
    got = _run(layer, x.astype(np.uint8), np.zeros(1), None)
    assert np.array_equal(got, _requantized(layer, _exact_sum(layer, x), x))


def test_float_results_of_integers() -> None:
    layer = _layer(Case(zeros=(4, 0, 0, 0), bits=6), quantized=True)
    layer = replace(layer, output=replace(layer.output, quantization=None), clamp=Clamp(0.0, 1.5))
    x = np.random.default_rng(3).integers(0, 256, layer.x.shape)
    assert layer.weight.scale is not None
    expected = np.clip(_exact_sum(layer, x) * 0.02 * layer.weight.scale[None, :, None, None], 0, 1.5)
    np.testing.assert_allclose(_run(layer, x.astype(np.uint8), x, None), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=cases, mcpu=st.sampled_from([None, PORTABLE]), place=st.floats(0, 1, exclude_max=True))
def test_float_convolution_equals_torch(case: Case, mcpu: str | None, place: float) -> None:
    _check_floats(case, mcpu, place)


def _check_floats(case: Case, mcpu: str | None, place: float = 0.0) -> None:
    layer = _layer(case, quantized=False)
    rng = np.random.default_rng(case.seed)
    x = rng.standard_normal(layer.x.shape).astype(np.float32)
    residual = rng.standard_normal(layer.output.shape).astype(np.float32)
    w = layer.window
    top, left, bottom, right = w.pads
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    weight, bias = (torch.from_numpy(np.asarray(v)).double() for v in (layer.weight.values, layer.bias))
    expected = torch.nn.functional.conv2d(padded, weight, bias, w.stride, 0, w.dilation, layer.groups)
    expected = expected + torch.from_numpy(residual).double() if layer.residual else expected
    expected = torch.relu(expected) if case.relu else expected
    got = _run(layer, x, residual, mcpu, choose=lambda ways: ways[int(place * len(ways))])
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)
