"""Operators without a template: element-wise, reductions and movement, written with Relax and legalised by TVM."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from codesign.backend.onnx_graph import Refusal
from codesign.backend.operations import Generic, Tensor

if TYPE_CHECKING:
    from tvm import relax

ELEMENTWISE = frozenset(
    {"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Erf", "LeakyRelu", "Identity", "Add"}
    | {"Sub", "Mul"}
)
"""Operators that treat elements alike and are finite at 0, so that they work on any layout."""
CONSTANT_OPERANDS = {
    "Clip": (1, 2),
    "Reshape": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Expand": (1,),
    "Slice": (1, 2, 3, 4),
    "Gather": (1,),
    "Pad": (1, 2, 3),
    "Split": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "BatchNormalization": (1, 2, 3, 4),
    "LayerNormalization": (1, 2),
    "Where": (0,),
}
"""Operands that must be constant."""

Operands = Sequence[Any]
"""Relax expressions for activations and floating-point constants, arrays for constant operands, None if absent."""
Emitter = Callable[[Generic, Operands], "relax.Expr | tuple[relax.Expr, ...]"]


def refuse_unknown(operation: Generic) -> None:
    """Checks that an operation can be emitted.

    Args:
        operation: The operation.

    Raises:
        Refusal: It cannot.
    """
    if operation.op_type not in _EMITTERS:
        raise Refusal("no kernel for this operator; keep to those that the manual lists")
    for position in CONSTANT_OPERANDS.get(operation.op_type, ()):
        if position < len(operation.operands) and isinstance(operation.operands[position], Tensor):
            raise Refusal(f"operand {position} must be a constant; fold constants first")
    if operation.op_type == "Cast" and operation.attributes["to"] != onnx.TensorProto.FLOAT:
        raise Refusal("only casts to float32 are done")
    if operation.op_type == "Pad" and operation.attributes.get("mode", "constant") != "constant":
        raise Refusal("only padding with a constant is done")


def emit(operation: Generic, operands: Operands) -> "tuple[relax.Expr, ...]":
    """Writes an operation with Relax.

    Args:
        operation: The operation.
        operands: Its operands.

    Returns:
        One expression for each result.
    """
    result = _EMITTERS[operation.op_type](operation, operands)
    return result if isinstance(result, tuple) else (result,)


def _relax() -> Any:  # noqa: ANN401  # a module without type information
    from tvm import relax

    return relax


def _scalar(value: float) -> "relax.Expr":
    return _relax().const(np.float32(value))


def _number(operation: Generic, name: str, default: float) -> float:
    return float(str(operation.attributes.get(name, default)))


def _unary(name: str) -> Emitter:
    return lambda operation, operands: getattr(_relax().op, name)(operands[0])


def _binary(name: str) -> Emitter:
    return lambda operation, operands: getattr(_relax().op, name)(operands[0], operands[1])


def _clip(operation: Generic, operands: Operands) -> "relax.Expr":
    bounds = [float(v.reshape(-1)[0]) if v is not None else None for v in (*operands[1:], None, None)[:2]]
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    return _relax().op.clip(operands[0], float(low), float(high))


def _gelu(operation: Generic, operands: Operands) -> "relax.Expr":
    """By erf or tanh, which a later pass replaces by polynomials; Relax's own Gelu calls the C library's."""
    op, x = _relax().op, operands[0]
    half = op.multiply(x, _scalar(0.5))
    if operation.attributes.get("approximate") == "tanh":
        cubic = op.add(x, op.multiply(_scalar(0.044715), op.multiply(x, op.multiply(x, x))))
        return op.multiply(half, op.add(_scalar(1.0), op.tanh(op.multiply(cubic, _scalar(math.sqrt(2 / math.pi))))))
    return op.multiply(half, op.add(_scalar(1.0), op.erf(op.multiply(x, _scalar(math.sqrt(0.5))))))


def _sigmoid(operation: Generic, operands: Operands) -> "relax.Expr":
    op = _relax().op
    return op.divide(_scalar(1.0), op.add(_scalar(1.0), op.exp(op.negative(operands[0]))))


def _hard_sigmoid(x: "relax.Expr", alpha: float, beta: float) -> "relax.Expr":
    op = _relax().op
    return op.clip(op.add(op.multiply(x, _scalar(alpha)), _scalar(beta)), 0.0, 1.0)


def _hard_swish(operation: Generic, operands: Operands) -> "relax.Expr":
    return _relax().op.multiply(operands[0], _hard_sigmoid(operands[0], 1 / 6, 0.5))


def _leaky_relu(operation: Generic, operands: Operands) -> "relax.Expr":
    return _relax().op.nn.leakyrelu(operands[0], _number(operation, "alpha", 0.01))


def _reshape(operation: Generic, operands: Operands) -> "relax.Expr":
    return _relax().op.reshape(operands[0], operation.outputs[0].shape)


def _transpose(operation: Generic, operands: Operands) -> "relax.Expr":
    order = operation.attributes.get("perm")
    return _relax().op.permute_dims(operands[0], None if order is None else [int(a) for a in _listed(order)])


def _expand(operation: Generic, operands: Operands) -> "relax.Expr":
    return _relax().op.broadcast_to(operands[0], operation.outputs[0].shape)


def _slice(operation: Generic, operands: Operands) -> "relax.Expr":
    x, starts, ends, axes, steps = (*operands, None, None)[:5]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    lists = ([int(v) for v in np.asarray(part).reshape(-1)] for part in (axes, starts, ends, steps))
    axes, starts, ends, steps = lists
    shape = _first(operation).shape
    limits = [shape[axis] for axis in axes]
    ends = [max(-n - 1, min(e, n)) for e, n in zip(ends, limits, strict=True)]
    return _relax().op.strided_slice(x, axes, starts, ends, steps)


def _gather(operation: Generic, operands: Operands) -> "relax.Expr":
    axis = int(_number(operation, "axis", 0))
    size = _first(operation).shape[axis]
    indices = np.asarray(operands[1]).astype(np.int64)
    if indices.size == 1:
        first = int(indices.reshape(())) % size
        part = _relax().op.strided_slice(operands[0], [axis], [first], [first + 1], [1])
        return _relax().op.reshape(part, operation.outputs[0].shape)
    taken = _relax().op.take(operands[0], _relax().const(indices % size), axis=axis)
    return _relax().op.reshape(taken, operation.outputs[0].shape)


def _pad(operation: Generic, operands: Operands) -> "relax.Expr":
    x, pads, fill, axes = (*operands, None, None)[:4]
    rank = len(_first(operation).shape)
    before, after = [0] * rank, [0] * rank
    chosen = [int(a) for a in axes.reshape(-1)] if axes is not None else list(range(rank))
    for i, axis in enumerate(chosen):
        before[axis], after[axis] = int(pads[i]), int(pads[i + len(chosen)])
    if min(before + after) < 0:
        raise Refusal("negative padding is not done")
    widths = [w for pair in zip(before, after, strict=True) for w in pair]
    value = 0.0 if fill is None else float(fill.reshape(-1)[0])
    return _relax().op.nn.pad(x, widths, "constant", value)


def _split(operation: Generic, operands: Operands) -> "tuple[relax.Expr, ...]":
    axis = int(_number(operation, "axis", 0))
    sizes = [output.shape[axis] for output in operation.outputs]
    relax = _relax()
    cuts = [int(c) for c in np.cumsum(sizes)[:-1]]
    if not cuts:
        return (operands[0],)
    starts = [0, *cuts]
    return tuple(
        relax.op.strided_slice(operands[0], [axis], [start], [start + size], [1])
        for start, size in zip(starts, sizes, strict=True)
    )


def _concat(operation: Generic, operands: Operands) -> "relax.Expr":
    return _relax().op.concat(list(operands), axis=int(_number(operation, "axis", 0)))


def _reduce(name: str) -> Emitter:
    def emitter(operation: Generic, operands: Operands) -> "relax.Expr":
        given = operands[1] if len(operands) > 1 else operation.attributes.get("axes")
        axes = [] if given is None else [int(axis) for axis in np.asarray(given).reshape(-1)]
        if not axes and operation.attributes.get("noop_with_empty_axes"):
            return operands[0]
        keep = bool(operation.attributes.get("keepdims", 1))
        return getattr(_relax().op, name)(operands[0], axes or None, keep)

    return emitter


def _softmax(operation: Generic, operands: Operands) -> "relax.Expr":
    return _relax().op.nn.softmax(operands[0], axis=int(_number(operation, "axis", -1)))


def _layer_norm(operation: Generic, operands: Operands) -> "relax.Expr":
    x = operands[0]
    rank = len(_first(operation).shape)
    axes = list(range(int(_number(operation, "axis", -1)) % rank, rank))
    shape = _first(operation).shape[axes[0] :]
    scale, shift = (*operands[1:], None)[:2]
    scale = np.ones(shape) if scale is None else np.broadcast_to(scale, shape)
    shift = np.zeros(shape) if shift is None else np.broadcast_to(shift, shape)
    relax = _relax()
    gamma, beta = (relax.const(np.ascontiguousarray(v, np.float32)) for v in (scale, shift))
    return relax.op.nn.layer_norm(x, gamma, beta, axes, _number(operation, "epsilon", 1e-5))


def _batch_norm(operation: Generic, operands: Operands) -> "relax.Expr":
    x, gamma, beta, mean, variance = operands[:5]
    factor = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + _number(operation, "epsilon", 1e-5))
    offset = beta - mean * factor
    spread = [1, -1] + [1] * (len(_first(operation).shape) - 2)
    relax = _relax()
    factor, offset = (relax.const(v.reshape(spread).astype(np.float32)) for v in (factor, offset))
    return relax.op.add(relax.op.multiply(x, factor), offset)


def _where(operation: Generic, operands: Operands) -> "relax.Expr":
    relax = _relax()
    return relax.op.where(relax.const(np.asarray(operands[0], np.bool_)), operands[1], operands[2])


def _first(operation: Generic) -> Tensor:
    first = operation.operands[0]
    assert isinstance(first, Tensor)
    return first


def _listed(value: object) -> list[int]:
    assert isinstance(value, Sequence)
    return [int(v) for v in value]


_EMITTERS: dict[str, Emitter] = {
    "Relu": lambda operation, operands: _relax().op.nn.relu(operands[0]),
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "HardSigmoid": lambda operation, operands: _hard_sigmoid(
        operands[0], _number(operation, "alpha", 0.2), _number(operation, "beta", 0.5)
    ),
    "HardSwish": _hard_swish,
    "Tanh": _unary("tanh"),
    "Erf": _unary("erf"),
    "Gelu": _gelu,
    "Sqrt": _unary("sqrt"),
    "Identity": lambda operation, operands: operands[0],
    "Cast": lambda operation, operands: operands[0],
    "Add": _binary("add"),
    "Sub": _binary("subtract"),
    "Mul": _binary("multiply"),
    "Div": _binary("divide"),
    "Pow": _binary("power"),
    "MatMul": _binary("matmul"),
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Split": _split,
    "Concat": _concat,
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "Softmax": _softmax,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Where": _where,
}
