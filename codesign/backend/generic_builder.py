"""Operations in float32: by templates where there are some, else with Relax's operators; little is moved."""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from codesign.backend import float_operators
from codesign.backend.kernels import row_statistics
from codesign.backend.kernels.matrix_product import matrix_product
from codesign.backend.kernels.packing import LANES, round_up
from codesign.backend.operations import Generic, Tensor
from codesign.backend.value_store import Layout, ValueStore, row_count


def emit_generic(builder: ValueStore, operation: Generic) -> None:
    """Writes an operation: as no work at all, by a template, or with Relax's own operators.

    Args:
        builder: Where kernels and values are kept.
        operation: The operation.
    """
    if _keeps_vector(builder, operation) or _keeps_order(builder, operation):
        return
    if _emit_by_pixel(builder, operation) or _matrix_product(builder, operation) or _rows(builder, operation):
        return
    constant_positions = float_operators.CONSTANT_OPERANDS.get(operation.op_type, ())
    operands: list[relax.Expr | NDArray[np.generic] | None] = []
    for position, operand in enumerate(operation.operands):
        if isinstance(operand, Tensor):
            operands.append(builder.plain(operand))
        elif operand is None or position in constant_positions:
            operands.append(operand)
        else:
            operands.append(relax.const(np.ascontiguousarray(operand, np.float32)))
    results = float_operators.emit(operation, operands)
    for tensor, result in zip(operation.outputs, results, strict=True):
        builder.put(tensor, Layout.PLAIN, builder.blocks.emit(result))


def _matrix_product(builder: ValueStore, operation: Generic) -> bool:
    """Multiplies two activations with a template, where both have the same leading axes."""
    if operation.op_type != "MatMul":
        return False
    a, b = operation.operands
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape[:-2] != b.shape[:-2] or len(a.shape) < 2:
        return False
    batch, rows, depth, columns = prod(a.shape[:-2]), a.shape[-2], a.shape[-1], b.shape[-1]
    value = builder.call(
        ("matrix_product", batch, rows, columns, depth),
        lambda: matrix_product(batch, rows, columns, depth, builder.isa),
        [
            builder.reshape(builder.plain(a), (batch, rows, depth)),
            builder.reshape(builder.plain(b), (batch, depth, columns)),
        ],
        (batch, rows, columns),
        "float32",
    )
    output = operation.outputs[0]
    builder.put(output, Layout.PLAIN, builder.reshape(value, output.shape))
    return True


def _rows(builder: ValueStore, operation: Generic) -> bool:
    """Softmax and layer normalisation over the last axis, by templates."""
    x = operation.operands[0]
    if operation.op_type not in {"Softmax", "LayerNormalization"} or not isinstance(x, Tensor):
        return False
    rank, size = len(x.shape), x.shape[-1]
    if int(str(operation.attributes.get("axis", -1))) not in {-1, rank - 1}:
        return False
    rows = row_count(x)
    source = builder.reshape(builder.plain(x), (rows, size))
    output, threads = operation.outputs[0], builder.threads
    if operation.op_type == "Softmax":
        value = builder.call(
            ("softmax", rows, size),
            lambda: row_statistics.softmax(rows, size, threads),
            [source],
            (rows, size),
            "float32",
        )
    else:
        epsilon = float(str(operation.attributes.get("epsilon", 1e-5)))
        scale, shift = (*operation.operands[1:], None)[:2]
        value = builder.call(
            ("layer_norm", rows, size, epsilon),
            lambda: row_statistics.layer_norm(rows, size, epsilon, threads),
            [source, _spread(scale, size, 1.0), _spread(shift, size, 0.0)],
            (rows, size),
            "float32",
        )
    builder.put(output, Layout.PLAIN, builder.reshape(value, output.shape))
    return True


def _spread(constant: Tensor | NDArray[np.generic] | None, size: int, default: float) -> relax.Expr:
    """A constant for each element of a row."""
    assert not isinstance(constant, Tensor)
    value = np.float32(default) if constant is None else constant
    return relax.const(np.ascontiguousarray(np.broadcast_to(value, (size,)), np.float32))


def _keeps_vector(builder: ValueStore, operation: Generic) -> bool:
    """A reshape between `[1, C, 1, 1]` by pixel and `[1, C]` as a row moves nothing."""
    source, target = operation.operands[0], operation.outputs[0]
    if operation.op_type not in {"Reshape", "Flatten", "Squeeze"} or not isinstance(source, Tensor):
        return False
    if prod(source.shape) != source.shape[1] or target.shape[-1] != source.shape[1] or len(source.shape) != 4:
        return False
    if not builder.has(source, Layout.IMAGE):
        return False
    stored = builder.values[source.name, Layout.IMAGE]
    if stored.channels % LANES:
        return False
    builder.put(target, Layout.ROWS, stored.value, stored.channels)
    return True


def _keeps_order(builder: ValueStore, operation: Generic) -> bool:
    """A reshape, or a transpose of axes that but one are 1 long, moves nothing."""
    source, target = operation.operands[0], operation.outputs[0]
    if not isinstance(source, Tensor):
        return False
    if operation.op_type == "Transpose":
        order = operation.attributes.get("perm")
        if not isinstance(order, Sequence):
            return False
        moved = [int(axis) for axis in order if source.shape[int(axis)] != 1]
        if moved != sorted(moved):
            return False
    elif operation.op_type not in {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}:
        return False
    builder.put(target, Layout.PLAIN, builder.reshape(builder.plain(source), target.shape))
    return True


def _emit_by_pixel(builder: ValueStore, operation: Generic) -> bool:
    """Runs an element-wise operation on images as they are stored, so that no layout changes."""
    if operation.op_type not in float_operators.ELEMENTWISE or len(operation.outputs[0].shape) != 4:
        return False
    tensors = [t for t in operation.operands if isinstance(t, Tensor)]
    if not any(builder.has(t, Layout.IMAGE) for t in tensors):
        return False
    channels = operation.outputs[0].shape[1]
    stored = round_up(channels, LANES)
    operands: list[relax.Expr | NDArray[np.generic] | None] = []
    for position, operand in enumerate(operation.operands):
        if isinstance(operand, Tensor):
            if len(operand.shape) != 4 or operand.shape[1] != channels:
                return False
            image = builder.image(operand, stored)
            operands.append(builder.reshape(image.value, (1, *operand.shape[2:], stored)))
        elif operand is None or position in float_operators.CONSTANT_OPERANDS.get(operation.op_type, ()):
            operands.append(operand)
        else:
            spread = _constant_by_pixel(operand, channels, stored)
            if spread is None:
                return False
            operands.append(relax.const(spread))
    (result,) = float_operators.emit(operation, operands)
    builder.put(operation.outputs[0], Layout.IMAGE, builder.blocks.emit(result), stored)
    return True


def _constant_by_pixel(constant: NDArray[np.generic], channels: int, stored: int) -> NDArray[np.float32] | None:
    if constant.size == 1:
        return constant.astype(np.float32).reshape(())
    shape = (1,) * (4 - constant.ndim) + constant.shape
    if len(shape) != 4 or shape != (1, channels, 1, 1):
        return None
    result = np.ones(stored, np.float32)
    result[:channels] = constant.reshape(-1)
    return result.reshape(1, 1, 1, stored)
