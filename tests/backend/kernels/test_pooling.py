"""Pooling kernels against numpy, for images whose channels fill vectors or do not, on one thread and several."""

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray

from codesign.backend.kernels import pooling
from codesign.backend.kernels.geometry import ConvolutionShape

TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 1})
WINDOW, STRIDE = 3, 2


def _windows(x: NDArray[np.generic], pad: int, fill: float) -> NDArray[np.generic]:
    """`[taps, 1, OH, OW, C]`."""
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    last = [(size - WINDOW) // STRIDE * STRIDE + 1 for size in padded.shape[1:3]]
    return np.stack([
        padded[:, row : row + last[0] : STRIDE, column : column + last[1] : STRIDE]
        for row in range(WINDOW)
        for column in range(WINDOW)
    ])


def _run(function: tvm.tirx.PrimFunc, x: NDArray[np.generic], like: NDArray[np.generic]) -> NDArray[np.generic]:
    library = tvm.compile(tvm.IRModule({"main": function}), target=TARGET)
    out = tvm.runtime.tensor(np.zeros_like(like))
    library["main"](tvm.runtime.tensor(x), out)
    result: NDArray[np.generic] = out.numpy()
    return result


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("channels", "pad"), [(64, 0), (48, 1), (16, 0), (5, 1)])
def test_pooling(channels: int, pad: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "MINIMUM_PARALLEL_READS", 0)
    shape = ConvolutionShape(11, 9, channels, channels, (WINDOW, WINDOW), (STRIDE, STRIDE), pads=(pad, pad, pad, pad))
    random = np.random.default_rng(channels)
    size = (1, 11, 9, channels)
    integers, reals = random.integers(0, 256, size).astype(np.uint8), random.standard_normal(size).astype(np.float32)
    for x, fill in ((integers, 0.0), (reals, -np.inf)):
        expected = _windows(x, pad, fill).max(0)
        assert np.array_equal(_run(pooling.max_pool(shape, str(x.dtype), threads), x, expected), expected)
    expected = _windows(reals, pad, 0.0).mean(0)
    got = _run(pooling.average_pool(shape, True, "float32", threads), reals, expected)
    assert np.allclose(got, expected, atol=1e-6)
