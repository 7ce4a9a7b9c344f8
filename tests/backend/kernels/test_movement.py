"""Kernels that move elements, against numpy."""

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.backend.kernels.movement import Window, move_window
from codesign.backend.kernels.vectors import spans

TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 1})
CHANNELS = st.integers(1, 5).map(lambda blocks: 16 * blocks)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, int, int], tuple[int, int, int], Window]:
    """An image, what is read of it, and a larger one around that."""
    source = (draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(CHANNELS))
    start, step, size, before, target = [], [], [], [], []
    for extent in source:
        start.append(draw(st.integers(0, extent - 1)))
        step.append(draw(st.integers(1, 3)))
        size.append(draw(st.integers(1, (extent - 1 - start[-1]) // step[-1] + 1)))
        before.append(draw(st.integers(0, 20)))
        target.append(before[-1] + size[-1] + draw(st.integers(0, 3)))
    axes = [(values[0], values[1], values[2]) for values in (start, step, size, before, target)]
    return source, axes[4], Window(*axes[:4])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(windows(), st.sampled_from(["uint8", "float32"]))
def test_slice_with_padding_equals_numpy(
    case: tuple[tuple[int, int, int], tuple[int, int, int], Window], dtype: str
) -> None:
    source, target, window = case
    random = np.random.default_rng(0)
    x = random.integers(0, 200, (1, *source)).astype(dtype)
    expected = np.full((1, *target), 7, dtype)
    read = tuple(
        slice(first, first + step * (size - 1) + 1, step)
        for first, step, size in zip(window.start, window.step, window.size, strict=True)
    )
    written = tuple(slice(first, first + size) for first, size in zip(window.before, window.size, strict=True))
    expected[0][written] = x[0][read]
    built = tvm.compile(move_window(source, target, window, dtype), target=TARGET)
    out = tvm.runtime.tensor(np.zeros((1, *target), dtype))
    built(tvm.runtime.tensor(x), tvm.runtime.tensor(np.full(1, 7, dtype)), out)
    assert np.array_equal(out.numpy(), expected)


@given(st.integers(0, 500), st.sampled_from([1, 16, 64]))
def test_spans_hold_each_element_once(size: int, widest: int) -> None:
    held = [
        element for span in spans(size, widest) for element in range(span.first, span.first + span.count * span.lanes)
    ]
    assert held == list(range(size))
    assert all(span.lanes <= widest for span in spans(size, widest))
