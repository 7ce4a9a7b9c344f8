"""The float32 kernel of depthwise layers against torch in float64."""

import numpy as np
import pytest
import torch
import tvm

from codesign.backend.kernel_candidates import candidates
from codesign.backend.kernels import depthwise
from codesign.backend.kernels.depthwise import depthwise_applies, depthwise_weights
from codesign.backend.kernels.epilogue import Clamp, FloatEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.layer_kernel import FLOAT_BITS, LayerKernel
from codesign.backend.kernels.packing import block_weights
from codesign.backend.kernels.parameters import DepthwiseTiling
from codesign.backend.layers import kernel_function
from codesign.backend.operations import SpatialWindow

CHANNELS, STORED = 40, 48
ISA = InstructionSet(vnni=False, registers=31)
TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 1})
EPILOGUE = FloatEpilogue(residual=True, outer=Clamp(low=0.0))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "window",
    [
        SpatialWindow((3, 3), pads=(1, 1, 1, 1)),
        SpatialWindow((3, 3), (2, 2), pads=(1, 1, 1, 1)),
        SpatialWindow((5, 5), pads=(2, 2, 2, 2)),
        SpatialWindow((3, 3), dilation=(2, 2), pads=(2, 2, 2, 2)),
        SpatialWindow((2, 3), (1, 2), pads=(1, 0, 2, 1)),
        SpatialWindow((1, 1)),
    ],
)
def test_sums_equal_torch(window: SpatialWindow, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "MINIMUM_PARALLEL_MACS", 0)
    shape = ConvolutionShape(
        9, 11, STORED, STORED, window.kernel, window.stride, window.dilation, window.pads, CHANNELS, 1, 1
    )
    assert depthwise_applies(shape)
    random = np.random.default_rng(0)
    out_shape = (1, shape.out_height, shape.out_width, STORED)
    x, residual = (random.standard_normal(size).astype(np.float32) for size in ((1, 9, 11, STORED), out_shape))
    weight = random.standard_normal((CHANNELS, 1, *window.kernel)).astype(np.float32)
    bias = random.standard_normal(STORED).astype(np.float32)
    top, left, bottom, right = window.pads
    image = torch.from_numpy(x).double().permute(0, 3, 1, 2)[:, :CHANNELS]
    expected = torch.nn.functional.conv2d(
        torch.nn.functional.pad(image, (left, right, top, bottom)),
        torch.from_numpy(weight).double(),
        torch.from_numpy(bias[:CHANNELS]).double(),
        window.stride,
        0,
        window.dilation,
        CHANNELS,
    )
    expected = torch.relu(expected + torch.from_numpy(residual).double().permute(0, 3, 1, 2)[:, :CHANNELS])
    kernel = LayerKernel(shape, FLOAT_BITS, EPILOGUE)
    ways = candidates(kernel, ISA, threads)
    assert isinstance(ways[0], DepthwiseTiling)
    for way in (ways[0], ways[threads], ways[-1]):  # the rules', another tile, the general convolution
        is_direct = isinstance(way, DepthwiseTiling)
        stored = depthwise_weights(weight) if is_direct else block_weights(weight, 1)[..., 0]
        _, make = kernel_function(kernel, way, ISA, threads)
        library = tvm.compile(tvm.IRModule({"main": make()}), target=TARGET)
        out = tvm.runtime.tensor(np.zeros(out_shape, np.float32))
        library["main"](*(tvm.runtime.tensor(a) for a in (x, stored, bias, residual)), out)
        got = out.numpy()[..., :CHANNELS].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)
