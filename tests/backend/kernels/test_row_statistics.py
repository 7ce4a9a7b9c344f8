"""Softmax and layer normalisation against float64."""

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray

from codesign.backend.kernels import row_statistics

SIZES = [(3, 128), (5, 33), (1, 10), (40, 24)]


def _run(function: "tvm.tirx.PrimFunc", *arrays: NDArray[np.float32]) -> NDArray[np.float64]:
    library = tvm.compile(tvm.IRModule({"main": function}), target={"kind": "llvm", "opt-level": 1})
    out = tvm.runtime.tensor(np.zeros_like(arrays[0]))
    library["main"](*(tvm.runtime.tensor(array) for array in arrays), out)
    result: NDArray[np.float64] = out.numpy().astype(np.float64)
    return result


@pytest.mark.parametrize(("rows", "size"), SIZES)
@pytest.mark.parametrize("threads", [1, 3])
def test_softmax(rows: int, size: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_statistics, "MINIMUM_PARALLEL_ELEMENTS", 0)
    x = (np.random.default_rng(0).standard_normal((rows, size)) * 20).astype(np.float32)
    x[0, 0] = -1e30
    exact = np.exp(x - x.max(axis=1, keepdims=True).astype(np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(_run(row_statistics.softmax(rows, size, threads), x), exact, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(("rows", "size"), SIZES)
@pytest.mark.parametrize("threads", [1, 3])
def test_layer_norm(rows: int, size: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_statistics, "MINIMUM_PARALLEL_ELEMENTS", 0)
    random = np.random.default_rng(0)
    x = (random.standard_normal((rows, size)) * 3 + 10).astype(np.float32)
    scale, shift = random.standard_normal((2, size)).astype(np.float32)
    deviation = np.sqrt(x.astype(np.float64).var(axis=1, keepdims=True) + 1e-5)
    exact = (x - x.mean(axis=1, keepdims=True, dtype=np.float64)) / deviation * scale + shift
    found = _run(row_statistics.layer_norm(rows, size, 1e-5, threads), x, scale, shift)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)
