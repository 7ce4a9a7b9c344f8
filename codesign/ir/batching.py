"""Runs the operators of a graph made for one sample on many samples at once.

A lowered graph has a batch of one baked into it: shapes of reshapes, heads folded into the batch, sequences before the
batch. Samples do not interact, so an operator on N samples is the same operator mapped over them. Where the samples can
share the first axis of the operands the operator runs once, natively; elsewhere `torch.vmap` maps it. Either way each
sample sees exactly the shapes of the graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from codesign.errors import UnsupportedOperatorError
from codesign.ir.attributes import Attributes, integers_in
from codesign.ir.operators import Compute
from codesign.ir.operators_elementwise import BROADCASTING, UNARY
from codesign.ir.operators_normalization import REDUCTIONS, reduced_axes
from codesign.ir.operators_pooling import POOLING


class Layout(Enum):
    """How a value of the graph, of ONNX shape `s`, is held for N samples."""

    CONSTANT = "constant"
    """The same for all samples: `s`."""
    MERGED = "merged"
    """`s` is `[1, ...]`: held as `[N, ...]`."""
    STACKED = "stacked"
    """`s` does not begin with 1: held as `[N, *s]`."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the graph for N samples.

    Attributes:
        data: The numbers.
        layout: Where the samples are in it.
    """

    data: Tensor
    layout: Layout

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The ONNX shape, which is that of one sample."""
        if self.layout is Layout.MERGED:
            return (1, *self.data.shape[1:])
        return tuple(self.data.shape[1:] if self.layout is Layout.STACKED else self.data.shape)


Operands = Sequence[Value | None]

_SHAPE_ONLY = frozenset({"Shape", "Size"})
_SHAPE_OPERANDS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(REDUCTIONS, (1,)),
    **dict.fromkeys(("Expand", "Reshape", "Split", "Squeeze", "Tile", "Trilu", "Unsqueeze"), (1,)),
    "ConstantOfShape": (0,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
}


def apply(compute: Compute, node: Attributes, operands: Operands) -> tuple[Value, ...]:
    """Runs one operator for all samples.

    Args:
        compute: The operator, written for one sample.
        node: Its attributes.
        operands: One value per operand, None where absent.

    Returns:
        The results.

    Raises:
        UnsupportedOperatorError: A shape, axis or bound depends on the data.
    """
    kind = node.node.op_type
    if kind == "CastLike" and operands[1] is not None:  # only the type of its second operand matters
        operands = (operands[0], Value(operands[1].data.new_empty(()), Layout.CONSTANT))
    batched = [value for value in operands if value is not None and value.layout is not Layout.CONSTANT]
    if not batched:
        return tuple(Value(result, Layout.CONSTANT) for result in _compute(compute, node, operands))
    if kind in _SHAPE_ONLY:
        one = Value(batched[0].data.new_empty(batched[0].sample_shape), Layout.CONSTANT)
        return tuple(Value(result, Layout.CONSTANT) for result in _compute(compute, node, (one,)))
    positions = [operands[i] for i in _SHAPE_OPERANDS.get(kind, ()) if i < len(operands)]
    if any(value is not None and value.layout is not Layout.CONSTANT for value in positions):
        raise UnsupportedOperatorError(
            f"{node.where}: its shapes or positions depend on the data; make them constant in the network"
        )
    if runs_natively(node, operands):
        return tuple(Value(result, batched[0].layout) for result in _compute(compute, node, operands))
    return _mapped(compute, node, operands)


def _compute(compute: Compute, node: Attributes, operands: Operands) -> tuple[Tensor, ...]:
    results = compute(node, *(None if value is None else value.data for value in operands))
    return results if isinstance(results, tuple) else (results,)


def _mapped(compute: Compute, node: Attributes, operands: Operands) -> tuple[Value, ...]:
    positions = [i for i, v in enumerate(operands) if v is not None and v.layout is not Layout.CONSTANT]

    def one_sample(*samples: Tensor) -> tuple[Tensor, ...]:
        tensors = [None if value is None else value.data for value in operands]
        for position, sample in zip(positions, samples, strict=True):
            tensors[position] = sample
        results = compute(node, *tensors)
        return results if isinstance(results, tuple) else (results,)

    stacked = [_stacked(operands[i]) for i in positions]
    return tuple(_merged_if_possible(result) for result in torch.vmap(one_sample)(*stacked))


def _stacked(value: Value | None) -> Tensor:
    assert value is not None
    return value.data.unsqueeze(1) if value.layout is Layout.MERGED else value.data


def _merged_if_possible(result: Tensor) -> Value:
    if result.dim() > 1 and result.shape[1] == 1:
        return Value(result.squeeze(1), Layout.MERGED)
    return Value(result, Layout.STACKED)


def runs_natively(node: Attributes, operands: Operands) -> bool:
    """Whether an operator computes every sample rightly when the samples share the first axis.

    Args:
        node: Attributes of the operator.
        operands: At least one of them batched.

    Returns:
        False where that is not known; then it has to be mapped.
    """
    kind = node.node.op_type
    first = operands[0]
    only_first_batched = first is not None and all(
        value is None or value.layout is Layout.CONSTANT for value in operands[1:]
    )
    if kind in UNARY:
        return only_first_batched and all(value is None or value.data.numel() == 1 for value in operands[1:])
    if any(value is not None and value.layout is Layout.STACKED for value in operands):
        return False
    if kind in BROADCASTING:
        return _broadcasts(operands)
    if kind == "MatMul":
        return _matmul(operands)
    if kind == "Concat":
        return all(value is not None and value.layout is Layout.MERGED for value in operands) and _leaves_first(
            (node.integer("axis", 0),), len(_shape(first))
        )
    rule = _FIRST_BATCHED.get(kind)
    return rule is not None and only_first_batched and rule(node, operands)


def _shape(value: Value | None) -> tuple[int, ...]:
    return () if value is None else value.sample_shape


def _leaves_first(axes: Sequence[int], rank: int) -> bool:
    return all(axis % rank != 0 for axis in axes)


def _broadcasts(operands: Operands) -> bool:
    shapes = [_shape(value) for value in operands if value is not None]
    rank = max(len(shape) for shape in shapes)
    return all(
        len(shape) == rank and shape[0] == 1 if value.layout is Layout.MERGED else len(shape) < rank or shape[0] == 1
        for value, shape in zip([v for v in operands if v is not None], shapes, strict=True)
    )


def _matmul(operands: Operands) -> bool:
    left, right = operands
    assert left is not None
    assert right is not None
    a, b = left.sample_shape, right.sample_shape
    if right.layout is Layout.CONSTANT:
        return len(a) >= 2 and (len(b) == 2 or (len(b) < len(a)) or (len(b) == len(a) and b[0] == 1 and len(a) > 2))
    if left.layout is Layout.CONSTANT:
        return len(b) >= 3 and (len(a) < len(b) or (len(a) == len(b) and a[0] == 1))
    return len(a) == len(b) >= 3


def _axis_rule(default: int) -> Callable[[Attributes, Operands], bool]:
    return lambda node, operands: _leaves_first((node.integer("axis", default),), len(_shape(operands[0])))


def _always(_: Attributes, __: Operands) -> bool:
    return True


def _gemm(node: Attributes, operands: Operands) -> bool:
    bias = _shape(operands[2]) if len(operands) > 2 else ()
    return not node.integer("transA", 0) and (len(bias) < 2 or bias[0] == 1)


def _reduction(node: Attributes, operands: Operands) -> bool:
    axes = operands[1] if len(operands) > 1 else None
    rank = len(_shape(operands[0]))
    return 0 not in reduced_axes(node, None if axes is None else axes.data, rank)


def _transpose(node: Attributes, _: Operands) -> bool:
    order = node.integers("perm")
    return order is not None and order[0] == 0


def _positions(index: int) -> Callable[[Attributes, Operands], bool]:
    def rule(_: Attributes, operands: Operands) -> bool:
        axes = operands[index] if len(operands) > index else None
        return axes is not None and _leaves_first(integers_in(axes.data), len(_shape(operands[0])))

    return rule


def _unsqueeze(_: Attributes, operands: Operands) -> bool:
    axes = operands[1]
    assert axes is not None
    positions = integers_in(axes.data)
    return _leaves_first(positions, len(_shape(operands[0])) + len(positions))


def _pad(_: Attributes, operands: Operands) -> bool:
    pads, axes = operands[1], operands[3] if len(operands) > 3 else None
    assert pads is not None
    rank = len(_shape(operands[0]))
    along = range(rank) if axes is None else [axis % rank for axis in integers_in(axes.data)]
    widths = integers_in(pads.data)
    return all(axis or not (widths[i] or widths[i + len(along)]) for i, axis in enumerate(along))


def _quantization(node: Attributes, operands: Operands) -> bool:
    scale = operands[1]
    return (scale is not None and scale.data.numel() == 1) or _axis_rule(1)(node, operands)


_FIRST_BATCHED: Mapping[str, Callable[[Attributes, Operands], bool]] = {
    **dict.fromkeys(POOLING, _always),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("BatchNormalization", "Conv", "DepthToSpace", "GroupNormalization"), _always),
    **dict.fromkeys(("InstanceNormalization", "SpaceToDepth"), _always),
    **dict.fromkeys(("LayerNormalization", "LogSoftmax", "RMSNormalization", "Softmax"), _axis_rule(-1)),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _quantization),
    **dict.fromkeys(("Gather", "Split"), _axis_rule(0)),
    "Flatten": lambda node, _: node.integer("axis", 1) == 1,
    "Gemm": _gemm,
    "Pad": _pad,
    "Slice": _positions(3),
    "Squeeze": _positions(1),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
