"""ONNX operators that multiply and accumulate: convolution, matrix products, attention."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.attributes import Attributes

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


def window_padding(
    node: Attributes,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each spatial axis of a convolution or pooling.

    Args:
        node: Attributes `auto_pad` and `pads`.
        sizes: Spatial sizes of the input.
        kernel: Kernel sizes.
        strides: Strides.
        dilations: Dilations.

    Returns:
        Elements added before, and after; SAME pads so that the output has ceil(size / stride) elements, with the odd
        one after (UPPER) or before (LOWER).

    Raises:
        InputError: `auto_pad` is none of ONNX's values.
    """
    mode = node.text("auto_pad", "NOTSET")
    rank = len(sizes)
    if mode == "NOTSET":
        pads = node.integers("pads") or (0,) * (2 * rank)
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    if mode not in {"SAME_UPPER", "SAME_LOWER"}:
        raise InputError(f"{node.where}: auto_pad is {mode!r}; ONNX allows NOTSET, VALID, SAME_UPPER and SAME_LOWER")
    totals = [
        max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    smaller = tuple(total // 2 for total in totals)
    larger = tuple(total - half for total, half in zip(totals, smaller, strict=True))
    return (smaller, larger) if mode == "SAME_UPPER" else (larger, smaller)


def pad_spatial(x: Tensor, before: tuple[int, ...], after: tuple[int, ...], value: float) -> Tensor:
    """Adds constant borders to the spatial axes.

    Args:
        x: Input `[N, C, *sizes]`.
        before: Elements before each spatial axis.
        after: Elements after each spatial axis.
        value: What they hold.

    Returns:
        The padded tensor.
    """
    flat = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    return F.pad(x, flat, value=value)


def _convolution(node: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.dim() - 2
    if not 1 <= rank <= len(_CONVOLUTIONS):
        raise InputError(f"{node.where}: has {rank} spatial axes; 1, 2 and 3 are supported")
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    before, after = window_padding(node, tuple(x.shape[2:]), tuple(weight.shape[2:]), strides, dilations)
    if before != after:
        x = pad_spatial(x, before, after, 0.0)
        before = (0,) * rank
    return _CONVOLUTIONS[rank - 1](x, weight, bias, strides, before, dilations, node.integer("group", 1))


def _gemm(node: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    a = a.transpose(0, 1) if node.integer("transA", 0) else a
    b = b.transpose(0, 1) if node.integer("transB", 0) else b
    product = a @ b
    product = product if alpha == 1.0 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1.0 else beta * c)


def _heads(node: Attributes, x: Tensor, count: str) -> Tensor:
    if x.dim() == 4:
        return x
    return x.reshape(*x.shape[:2], node.integer(count, 1), -1).transpose(1, 2)


def _attention(node: Attributes, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    merged = q.dim() == 3
    q, k, v = _heads(node, q, "q_num_heads"), _heads(node, k, "kv_num_heads"), _heads(node, v, "kv_num_heads")
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = q @ k.transpose(-1, -2) * node.real("scale", 1.0 / math.sqrt(q.shape[-1]))
    if node.integer("is_causal", 0):
        allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf) if mask.dtype == torch.bool else scores + mask
    softcap = node.real("softcap", 0.0)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    result = torch.softmax(scores, -1) @ v
    return result.transpose(1, 2).flatten(2) if merged else result


def _einsum(node: Attributes, *operands: Tensor) -> Tensor:
    return torch.einsum(node.text("equation", ""), *operands)


LINEAR: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "Attention": _attention,
    "Conv": _convolution,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": lambda _, a, b: a @ b,
})
"""Operators that multiply and accumulate."""
