"""ONNX operators that move elements, or make tensors from shapes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.attributes import Attributes, integers_in


def _reshape(node: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers_in(shape)
    if not node.integer("allowzero", 0):
        sizes = tuple(x.shape[i] if size == 0 else size for i, size in enumerate(sizes))
    return x.reshape(sizes)


def _flatten(node: Attributes, x: Tensor) -> Tensor:
    axis = node.integer("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return x.reshape(rows, -1)


def _transpose(node: Attributes, x: Tensor) -> Tensor:
    return x.permute(node.integers("perm") or tuple(reversed(range(x.dim()))))


def _squeeze(_: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    if axes is None:
        return x.reshape([size for size in x.shape if size != 1])
    dropped = {axis % x.dim() for axis in integers_in(axes)}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in dropped])


def _unsqueeze(_: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    positions = integers_in(axes)
    rank = x.dim() + len(positions)
    for axis in sorted(position % rank for position in positions):
        x = x.unsqueeze(axis)
    return x


def _expand(_: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), integers_in(shape)))


def _concat(node: Attributes, *parts: Tensor) -> Tensor:
    return torch.cat(parts, node.integer("axis", 0))


def _split(node: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = node.integer("axis", 0)
    if sizes is not None:
        return torch.split(x, list(integers_in(sizes)), axis)
    parts = node.integer("num_outputs", len(node.node.outputs))
    return torch.split(x, -(-x.shape[axis] // parts), axis)


def _slice(
    _: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = integers_in(starts), integers_in(ends)
    along = tuple(range(len(first))) if axes is None else integers_in(axes)
    stride = (1,) * len(first) if steps is None else integers_in(steps)
    for start, end, axis, step in zip(first, last, along, stride, strict=True):
        chosen = range(*slice(start, end, step).indices(x.shape[axis]))
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(chosen.start, chosen.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x


def _gather(node: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.integer("axis", 0) % x.dim()
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, wrapped.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_elements(node: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.integer("axis", 0) % x.dim()
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(node: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if node.integer("batch_dims", 0):
        raise InputError(f"{node.where}: batch_dims is {node.integer('batch_dims', 0)}; only 0 is supported")
    return x[tuple(indices.movedim(-1, 0))]


def _border(mode: str, size: int, before: int, after: int, where: str) -> list[int]:
    positions = range(-before, size + after)
    if mode == "edge":
        return [min(max(i, 0), size - 1) for i in positions]
    if mode == "wrap":
        return [i % size for i in positions]
    if mode != "reflect":
        raise InputError(f"{where}: mode is {mode!r}; ONNX allows constant, reflect, edge and wrap")
    period = max(2 * (size - 1), 1)
    return [min(i % period, period - i % period) if size > 1 else 0 for i in positions]


def _pad(node: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    widths = integers_in(pads)
    along = tuple(range(x.dim())) if axes is None else tuple(axis % x.dim() for axis in integers_in(axes))
    pairs = dict(zip(along, zip(widths[: len(along)], widths[len(along) :], strict=True), strict=True))
    mode = node.text("mode", "constant")
    if mode == "constant":
        flat = [width for axis in reversed(range(x.dim())) for width in pairs.get(axis, (0, 0))]
        return torch.nn.functional.pad(x, flat, value=0.0 if value is None else value.item())
    for axis, (before, after) in pairs.items():
        if before or after:
            index = _border(mode, x.shape[axis], before, after, node.where)
            x = x.index_select(axis, torch.tensor(index, device=x.device))
    return x


def _depth_to_space(node: Attributes, x: Tensor) -> Tensor:
    block, (batch, channels, height, width) = node.integer("blocksize", 1), x.shape
    inner = channels // block**2
    if node.text("mode", "DCR") == "DCR":
        x = x.reshape(batch, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(batch, inner, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, inner, height * block, width * block)


def _space_to_depth(node: Attributes, x: Tensor) -> Tensor:
    block, (batch, channels, height, width) = node.integer("blocksize", 1), x.shape
    x = x.reshape(batch, channels, height // block, block, width // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block)


def _triangle(node: Attributes, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    offset = 0 if diagonal is None else int(diagonal.item())
    return x.triu(offset) if node.integer("upper", 1) else x.tril(offset)


def _shape(node: Attributes, x: Tensor) -> Tensor:
    end = node.integer("end", x.dim())
    return torch.tensor(list(x.shape)[node.integer("start", 0) : end], dtype=torch.int64, device=x.device)


def _constant(node: Attributes) -> Tensor:
    for name in ("value_int", "value_ints"):
        if name in node.node.attributes:
            return torch.tensor(node.node.attributes[name].value, dtype=torch.int64, device=node.device)
    for name in ("value_float", "value_floats"):
        if name in node.node.attributes:
            return torch.tensor(node.node.attributes[name].value, dtype=node.float_type, device=node.device)
    value = node.tensor("value")
    if value is None:
        raise InputError(
            f"{node.where}: holds neither a tensor nor numbers; strings and sparse tensors are not computed"
        )
    return value


def _constant_of_shape(node: Attributes, shape: Tensor) -> Tensor:
    value = node.tensor("value")
    value = torch.zeros(1, dtype=node.float_type, device=node.device) if value is None else value
    return value.expand(integers_in(shape))


def _range(_: Attributes, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype, device=start.device)


SHAPE: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = MappingProxyType({
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda _, x: torch.tensor(x.numel(), device=x.device),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda _, x, repeats: x.repeat(integers_in(repeats)),
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
})
"""Operators that move elements or make tensors."""
