"""ONNX operators that reduce sliding windows or whole images, over `[N, C, *sizes]`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.attributes import Attributes
from codesign.ir.operators_linear import pad_spatial, window_padding

_MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGES = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_SUMS = (F.conv1d, F.conv2d, F.conv3d)


@dataclass(frozen=True)
class _Windows:
    """Geometry of the windows of one pooling node.

    Attributes:
        kernel: Sizes.
        strides: Steps between windows.
        dilations: Steps inside a window.
        before: Padding before each axis.
        after: Padding after each axis.
        overhang: What `ceil_mode` lets the last window reach beyond the padding.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    overhang: tuple[int, ...]

    @property
    def far(self) -> tuple[int, ...]:
        """Padding after each axis, overhang included."""
        return tuple(a + b for a, b in zip(self.after, self.overhang, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether torch's own padding does it: the same on both sides and at most half a window."""
        return self.before == self.far and all(2 * p <= k for p, k in zip(self.before, self.kernel, strict=True))


def _windows(node: Attributes, sizes: tuple[int, ...]) -> _Windows:
    kernel = node.integers("kernel_shape")
    if kernel is None or not 1 <= len(kernel) <= len(_MAXIMA) or len(kernel) != len(sizes):
        raise InputError(f"{node.where}: kernel_shape is {kernel} for {len(sizes)} spatial axes; 1 to 3 are supported")
    strides = node.integers("strides") or (1,) * len(kernel)
    dilations = node.integers("dilations") or (1,) * len(kernel)
    before, after = window_padding(node, sizes, kernel, strides, dilations)
    overhang = (0,) * len(kernel)
    if node.integer("ceil_mode", 0) and node.text("auto_pad", "NOTSET") == "NOTSET":
        overhang = tuple(
            _overhang(size + low + high, size + low, (width - 1) * dilation + 1, stride)
            for size, low, high, width, dilation, stride in zip(
                sizes, before, after, kernel, dilations, strides, strict=True
            )
        )
    return _Windows(kernel, strides, dilations, before, after, overhang)


def _overhang(padded: int, last_start: int, reach: int, stride: int) -> int:
    # A window that would start in the padding after the image is dropped (ONNX, torch).
    extra_windows = -(-(padded - reach) // stride)
    if extra_windows * stride >= last_start:
        extra_windows -= 1
    return max(extra_windows * stride + reach - padded, 0)


def _max_pool(node: Attributes, x: Tensor) -> Tensor:
    w = _windows(node, tuple(x.shape[2:]))
    pool = _MAXIMA[len(w.kernel) - 1]
    if w.symmetric:
        return pool(x, w.kernel, w.strides, w.before, w.dilations)
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return pool(pad_spatial(x, w.before, w.far, lowest), w.kernel, w.strides, 0, w.dilations)


def _window_sum(x: Tensor, w: _Windows) -> Tensor:
    single = x.flatten(0, 1).unsqueeze(1)
    ones = torch.ones((1, 1, *w.kernel), dtype=x.dtype, device=x.device)
    total = _SUMS[len(w.kernel) - 1](single, ones, None, w.strides, 0, w.dilations)
    return total.reshape(*x.shape[:2], *total.shape[2:])


def _average_pool(node: Attributes, x: Tensor) -> Tensor:
    w = _windows(node, tuple(x.shape[2:]))
    include_pad = bool(node.integer("count_include_pad", 0))
    if w.symmetric and set(w.dilations) == {1}:
        return _AVERAGES[len(w.kernel) - 1](x, w.kernel, w.strides, w.before, count_include_pad=include_pad)
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    nothing = (0,) * len(w.kernel)
    inner = pad_spatial(counted, w.before, w.after, float(include_pad))
    count = _window_sum(pad_spatial(inner, nothing, w.overhang, 0.0), w)
    return _window_sum(pad_spatial(x, w.before, w.far, 0.0), w) / count


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


POOLING: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda _, x: x.mean(_spatial(x), keepdim=True),
    "GlobalMaxPool": lambda _, x: x.amax(_spatial(x), keepdim=True),
    "MaxPool": _max_pool,
})
"""Operators over windows."""
