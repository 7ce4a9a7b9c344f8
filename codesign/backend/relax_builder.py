"""From operations to a Relax module: layouts, kernels shared by shape, weights as stored in the artefact."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.backend import float_operators
from codesign.backend.kernel_table import TemplateCall
from codesign.backend.kernels import elementwise, movement, pooling, row_statistics
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.matrix_product import matrix_product
from codesign.backend.kernels.packing import LANES, round_up
from codesign.backend.layers import addition_factors, layer_constants, layer_kernel, runs_on_amx
from codesign.backend.operations import (
    Addition,
    Concatenation,
    Conversion,
    Convolution,
    Crop,
    Generic,
    Operation,
    Pooling,
    Tensor,
)
from codesign.backend.qdq_graph import Network
from codesign.backend.value_store import Layout, ValueStore, image_size, row_count


@dataclass(frozen=True)
class RelaxModule:
    """A network as Relax.

    Attributes:
        module: Function `main` from the input to the logits, and its kernels.
        weight_bytes: Bytes of all weights as stored: packed weights, scales and biases.
        calls: Calls of kernels that templates wrote, in order.
    """

    module: tvm.IRModule
    weight_bytes: int
    calls: tuple[TemplateCall, ...]


def build_module(network: Network, isa: InstructionSet, threads: int) -> RelaxModule:
    """Writes a network as Relax.

    Args:
        network: Operations without problems.
        isa: The processor.
        threads: Threads to schedule for.

    Returns:
        The module.
    """
    builder = ValueStore(isa, threads)
    start = relax.Var("image", relax.TensorType(network.input.shape, "float32"))
    with builder.blocks.function("main", [start]):
        with builder.blocks.dataflow():
            builder.put(network.input, Layout.PLAIN, start)
            for builder.position, operation in enumerate(network.operations):
                _emit(builder, operation)
            result = builder.blocks.emit_output(builder.plain(network.output))
        builder.blocks.emit_func_output(result)
    return RelaxModule(builder.blocks.get(), builder.weight_bytes, tuple(builder.calls))


def _emit(builder: ValueStore, operation: Operation) -> None:
    match operation:
        case Convolution():
            _convolution(builder, operation)
        case Pooling():
            _pooling(builder, operation)
        case Addition():
            _addition(builder, operation)
        case Concatenation():
            _concatenation(builder, operation)
        case Crop():
            _crop(builder, operation)
        case Conversion():
            _conversion(builder, operation)
        case Generic():
            _generic(builder, operation)


def _convolution(builder: ValueStore, layer: Convolution) -> None:
    groups_out = layer.weight.values.shape[0]
    out_channels = round_up(groups_out, LANES)
    if layer.dense:
        stored, height, width = builder.rows(layer.x), 1, row_count(layer.x)
    else:
        needed = round_up(layer.x.shape[1], LANES) if layer.groups > 1 else None
        stored = builder.image(layer.x, needed)
        _, height, width = image_size(layer.x)
    window = layer.window
    shape = ConvolutionShape(
        height,
        width,
        stored.channels,
        out_channels,
        window.kernel,
        window.stride,
        window.dilation,
        window.pads,
        layer.groups,
        layer.weight.values.shape[1],
        groups_out // layer.groups,
    ).flattened()
    in_shape = (1, shape.height, shape.width, stored.channels)
    out_shape = (1, shape.out_height, shape.out_width, out_channels)
    constants = layer_constants(layer, shape, builder.isa)
    builder.weight_bytes += sum(c.nbytes for c in constants.stored)
    arguments = [builder.reshape(stored.value, in_shape), *(relax.const(c) for c in constants.arguments)]
    if layer.residual is not None:
        other = layer.residual.tensor
        added = builder.rows(other) if layer.dense else builder.image(other, out_channels)
        arguments.append(builder.reshape(added.value, out_shape))
    on_amx = runs_on_amx(layer, shape, builder.isa)
    key, make = layer_kernel(layer, shape, builder.isa, builder.threads, on_amx and not builder.asked_for_amx)
    builder.asked_for_amx |= on_amx
    value = builder.call(key, make, arguments, out_shape, layer.output.dtype)
    builder.put(layer.output, Layout.ROWS if layer.dense else Layout.IMAGE, value, out_channels)


def _pooling(builder: ValueStore, layer: Pooling) -> None:
    stored = builder.image(layer.x)
    _, height, width = image_size(layer.x)
    window, channels = layer.window, stored.channels
    shape = ConvolutionShape(
        height, width, channels, channels, window.kernel, window.stride, window.dilation, window.pads
    )
    arguments = [builder.reshape(stored.value, (1, height, width, channels))]
    dtype = layer.x.dtype
    if layer.kind == "average" and layer.x.quantization is not None and layer.output.quantization is not None:
        x, y = layer.x.quantization, layer.output.quantization
        factors = (float(np.float32(x.scale) / np.float32(y.scale)), *y.bounds(layer.clamp))
        arguments += [_integers(x.zero_point, y.zero_point), _reals(*factors)]
    out_shape = (1, shape.out_height, shape.out_width, channels)
    if layer.kind == "max":
        value = builder.call(
            ("max_pool", shape, dtype), lambda: pooling.max_pool(shape, dtype), arguments, out_shape, dtype
        )
    else:
        value = builder.call(
            ("average_pool", shape, layer.count_padding, dtype),
            lambda: pooling.average_pool(shape, layer.count_padding, dtype),
            arguments,
            out_shape,
            dtype,
        )
    layout = Layout.IMAGE if len(layer.output.shape) == 4 else Layout.ROWS
    if layer.kind == "max" or layer.output.quantization is None:
        value = _clamped(builder, value, layer)
    builder.put(layer.output, layout, value, channels)


def _clamped(builder: ValueStore, value: relax.Expr, layer: Pooling) -> relax.Expr:
    low, high = layer.clamp.low, layer.clamp.high
    if low is None and high is None:
        return value
    if layer.output.quantization is not None:
        zero = layer.output.quantization.zero_point
        bounds = [int(np.rint(bound)) + zero for bound in layer.output.quantization.bounds(layer.clamp)]
        ends = [relax.const(np.uint8(bound)) for bound in bounds]
    else:
        ends = [relax.const(np.float32(-np.inf if low is None else low))]
        ends.append(relax.const(np.float32(np.inf if high is None else high)))
    return builder.blocks.emit(relax.op.minimum(relax.op.maximum(value, ends[0]), ends[1]))


def _addition(builder: ValueStore, operation: Addition) -> None:
    a, b, y = operation.a.quantization, operation.b.quantization, operation.output.quantization
    assert a is not None
    assert b is not None
    assert y is not None
    layout, stored = builder.any_layout(operation.a)
    values = [stored.value]
    if layout is Layout.IMAGE:
        values.append(builder.image(operation.b, stored.channels).value)
    elif layout is Layout.ROWS:
        values.append(builder.rows(operation.b).value)
    else:
        values.append(builder.plain(operation.b))
    shape = _shape_of(values[0])
    values[1] = builder.reshape(values[1], shape)
    factors = addition_factors(a, b, y)
    low, high = (bound + y.zero_point for bound in y.bounds(operation.clamp))
    value = builder.call(
        ("add_quantized", shape),
        lambda: elementwise.add_quantized(shape),
        [*values, _reals(*factors, np.rint(low), np.rint(high))],
        shape,
        "uint8",
    )
    builder.put(operation.output, layout, value, stored.channels)


def _concatenation(builder: ValueStore, operation: Concatenation) -> None:
    images = [builder.image(tensor) for tensor in operation.inputs]
    channels, height, width = image_size(operation.output)
    pixels, target, dtype = height * width, round_up(channels, LANES), operation.output.dtype
    logical = tuple(tensor.shape[1] for tensor in operation.inputs)
    physical = tuple(image.channels for image in images)
    value = builder.call(
        ("concatenate", pixels, logical, physical, target, dtype),
        lambda: movement.concatenate(pixels, logical, physical, target, dtype),
        [builder.reshape(image.value, (pixels, image.channels)) for image in images],
        (pixels, target),
        dtype,
    )
    builder.put(operation.output, Layout.IMAGE, value, target)


def _crop(builder: ValueStore, operation: Crop) -> None:
    stored = builder.image(operation.x)
    _, height, width = image_size(operation.x)
    channels, out_height, out_width = image_size(operation.output)
    source, target = (height, width, stored.channels), (out_height, out_width, round_up(channels, LANES))
    by_pixel = movement.Window(
        *((part[1], part[2], part[0]) for part in (operation.start, operation.step, operation.size, operation.before))
    )
    dtype = operation.output.dtype
    value = builder.call(
        ("move_window", source, target, by_pixel, dtype),
        lambda: movement.move_window(source, target, by_pixel, dtype),
        [builder.reshape(stored.value, (1, *source)), relax.const(np.full(1, operation.fill, dtype))],
        (1, *target),
        dtype,
    )
    builder.put(operation.output, Layout.IMAGE, value, target[2])


def _conversion(builder: ValueStore, operation: Conversion) -> None:
    layout, stored = builder.any_layout(operation.x)
    shape = _shape_of(stored.value)
    source, target = operation.x.quantization, operation.output.quantization
    if source is None:
        assert target is not None
        bounds = target.bounds(operation.clamp)
        name, make = "quantize", elementwise.quantize
        constants = [_integers(target.zero_point), _reals(target.scale, *bounds)]
    elif target is None:
        name, make = "dequantize", elementwise.dequantize
        constants = [_integers(source.zero_point), _reals(source.scale)]
    else:
        name, make = "requantize", elementwise.requantize
        bounds = target.bounds(operation.clamp)
        constants = [
            _integers(source.zero_point, target.zero_point),
            _reals(source.scale, target.scale, *bounds),
        ]
    value = builder.call((name, shape), lambda: make(shape), [stored.value, *constants], shape, operation.output.dtype)
    builder.put(operation.output, layout, value, stored.channels)


def _generic(builder: ValueStore, operation: Generic) -> None:
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


def _shape_of(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(size) for size in value.ty.shape.values)


def _integers(*values: int) -> relax.Expr:
    return relax.const(np.array(values, np.int32))


def _reals(*values: float) -> relax.Expr:
    return relax.const(np.array(values, np.float32))
