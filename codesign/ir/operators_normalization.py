"""ONNX operators that normalise or reduce along axes."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.ir.attributes import Attributes, integers_in


def _batch_norm(node: Attributes, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=node.real("epsilon", 1e-5))


def _instance_norm(node: Attributes, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=shift, eps=node.real("epsilon", 1e-5))


def _group_norm(node: Attributes, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    groups = node.integer("num_groups", 1)
    if scale.shape[0] != x.shape[1]:  # before opset 21 there was one scale per group
        repeats = x.shape[1] // scale.shape[0]
        scale, shift = scale.repeat_interleave(repeats), shift.repeat_interleave(repeats)
    return F.group_norm(x, groups, scale, shift, node.real("epsilon", 1e-5))


def _layer_norm(node: Attributes, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    axes = x.shape[node.integer("axis", -1) % x.dim() :]
    normalized = F.layer_norm(x, axes, eps=node.real("epsilon", 1e-5)) * scale
    return normalized if shift is None else normalized + shift


def _rms_norm(node: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(node.integer("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + node.real("epsilon", 1e-5)) * scale


def reduced_axes(node: Attributes, axes: Tensor | None, rank: int) -> tuple[int, ...]:
    """Axes that a reduction runs over.

    Args:
        node: Attributes `axes` (before opset 18) and `noop_with_empty_axes`.
        axes: The operand (from opset 18, for ReduceSum from 13), if given.
        rank: Rank of the input.

    Returns:
        Axes from 0 to rank - 1; none if the reduction does nothing.
    """
    given = node.integers("axes") if axes is None else integers_in(axes)
    if not given:
        return () if node.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in given))


def _reduce(
    function: Callable[[Tensor, tuple[int, ...], bool], Tensor],
    node: Attributes,
    x: Tensor,
    axes: Tensor | None = None,
) -> Tensor:
    over = reduced_axes(node, axes, x.dim())
    return function(x, over, bool(node.integer("keepdims", 1))) if over else x


def _product(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _mean(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.mean(axes, keepdim=keepdim)


def _sum(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.sum(axes, keepdim=keepdim, dtype=x.dtype)


REDUCTIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "ReduceL1": partial(_reduce, lambda x, axes, keep: torch.linalg.vector_norm(x, 1, axes, keep)),
    "ReduceL2": partial(_reduce, lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceMax": partial(_reduce, lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": partial(_reduce, _mean),
    "ReduceMin": partial(_reduce, lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": partial(_reduce, _product),
    "ReduceSum": partial(_reduce, _sum),
    "ReduceSumSquare": partial(_reduce, lambda x, axes, keep: _sum(x * x, axes, keep)),
})
"""Operators that sum up along axes."""

NORMALIZATION: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": lambda node, x: torch.log_softmax(x, node.integer("axis", -1)),
    "RMSNormalization": _rms_norm,
    "Softmax": lambda node, x: torch.softmax(x, node.integer("axis", -1)),
})
"""Operators that scale by statistics."""
