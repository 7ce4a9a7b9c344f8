"""From operations to a Relax module: layouts, kernels shared by shape, weights as stored in the artefact."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import tvm
from tvm import relax, tirx

from codesign.backend.generic_builder import emit_generic
from codesign.backend.kernel_table import TemplateCall
from codesign.backend.kernels import elementwise, movement, pooling
from codesign.backend.kernels.amx_tiles import worth_bfloat16
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.packing import LANES, round_up
from codesign.backend.kernels.parameters import AmxTiling, KernelParameters, VectorTiling
from codesign.backend.layers import (
    addition_factors,
    default_parameters,
    described,
    kernel_function,
    layer_constants,
)
from codesign.backend.operations import (
    Addition,
    Concatenation,
    Conversion,
    Convolution,
    Crop,
    Generic,
    Operation,
    Pooling,
)
from codesign.backend.qdq_graph import Network
from codesign.backend.row_streams import Stream, Turn, are_aligned, buffer_bytes, steps_of, turns
from codesign.backend.value_store import Layout, RowKernels, ValueStore, image_size, row_count

IMAGE_CHANNELS = 4
"""A network's input in float32 is stored with a multiple of so many channels for kernels in bfloat16."""


@dataclass(frozen=True)
class RelaxModule:
    """A network as Relax.

    Attributes:
        module: Function `main` from the input to the logits, and its kernels.
        weight_bytes: Bytes of all weights as stored: packed weights, scales and biases.
        calls: Calls of kernels that templates wrote, in order.
        bfloat16_layers: Layers that multiply operands rounded to bfloat16.
        streams: Convolutions and poolings of their results that can be computed in turns.
        row_kernels: Kernels of the streams by name, which are not in the module.
    """

    module: tvm.IRModule
    weight_bytes: int
    calls: tuple[TemplateCall, ...]
    bfloat16_layers: int
    streams: tuple[Stream, ...]
    row_kernels: Mapping[str, tirx.PrimFunc]


def build_module(
    network: Network, isa: InstructionSet, threads: int, choices: Mapping[str, KernelParameters] | None = None
) -> RelaxModule:
    """Writes a network as Relax.

    Args:
        network: Operations without problems.
        isa: The processor.
        threads: Threads to schedule for.
        choices: Loops by the identity of a kernel; the rules choose those of all others.

    Returns:
        The module.
    """
    builder = ValueStore(isa, threads, choices or {})
    start = relax.Var("image", relax.TensorType(network.input.shape, "float32"))
    with builder.blocks.function("main", [start]):
        with builder.blocks.dataflow():
            builder.put(network.input, Layout.PLAIN, start)
            for builder.position, operation in enumerate(network.operations):
                _emit(builder, operation)
            result = builder.blocks.emit_output(builder.plain(network.output))
        builder.blocks.emit_func_output(result)
    return RelaxModule(
        builder.blocks.get(),
        builder.weight_bytes,
        tuple(builder.calls),
        builder.bfloat16_layers,
        tuple(builder.streams),
        dict(builder.row_kernels.values()),
    )


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
            emit_generic(builder, operation)


def _convolution(builder: ValueStore, layer: Convolution) -> None:
    if layer.dense:
        stored, height, width = builder.rows(layer.x), 1, row_count(layer.x)
    else:
        _, height, width = image_size(layer.x)
        stored = builder.image(layer.x, _needed_channels(builder, layer))
    bounds = _bounds(layer, height, width, stored.channels)
    shape = bounds.flattened()
    out_channels = shape.out_channels
    in_shape = (1, shape.height, shape.width, stored.channels)
    out_shape = (1, shape.out_height, shape.out_width, out_channels)
    kernel = described(layer, shape)
    parameters = builder.choices.get(kernel.identity) or default_parameters(kernel, builder.isa, builder.threads)
    constants = layer_constants(layer, shape, builder.isa, parameters)
    builder.weight_bytes += sum(c.nbytes for c in constants.stored)
    arguments = [builder.reshape(stored.value, in_shape), *(relax.const(c) for c in constants.arguments)]
    if layer.residual is not None:
        other = layer.residual.tensor
        added = builder.rows(other) if layer.dense else builder.image(other, out_channels)
        arguments.append(builder.reshape(added.value, out_shape))
    on_amx = isinstance(parameters, AmxTiling)
    asks = on_amx and not builder.asked_for_amx
    key, make = kernel_function(kernel, parameters, builder.isa, builder.threads, asks)
    builder.asked_for_amx |= on_amx
    builder.bfloat16_layers += on_amx and layer.weight.scale is None
    value = builder.call(key, make, arguments, out_shape, layer.output.dtype, kernel.identity)
    if layer.residual is None and not layer.dense and kernel.identity not in builder.choices:  # runs as it was tuned

        def of_rows(rows: ConvolutionShape) -> str | None:
            part = described(layer, rows.flattened())
            chosen = default_parameters(part, builder.isa, builder.threads)
            if type(chosen) is not type(parameters):  # other kernels order weights otherwise
                return None
            return builder.row_kernel(*kernel_function(part, chosen, builder.isa, builder.threads, asks))

        name, size = builder.calls[-1].kernel, _bytes_of(layer.x.dtype)
        few = isinstance(parameters, VectorTiling) and shape.in_channels < LANES
        builder.convolved[value.name] = RowKernels(bounds, name, size, few, of_rows)
    builder.put(layer.output, Layout.ROWS if layer.dense else Layout.IMAGE, value, out_channels)


def _needed_channels(builder: ValueStore, layer: Convolution) -> int | None:
    """Stored channels that a convolution's input must have; None for any number."""
    channels, height, width = image_size(layer.x)
    if layer.groups > 1:
        return round_up(channels, LANES)
    if channels >= LANES or layer.weight.scale is not None or builder.has(layer.x, Layout.IMAGE):
        return None
    if not worth_bfloat16(_bounds(layer, height, width, channels).flattened()):
        return None
    few = round_up(channels, IMAGE_CHANNELS)
    kernel = described(layer, _bounds(layer, height, width, few).flattened())
    return few if isinstance(default_parameters(kernel, builder.isa, 1), AmxTiling) else None


def _bounds(layer: Convolution, height: int, width: int, channels: int) -> ConvolutionShape:
    """Loop bounds of a layer, whose input has so many rows, columns and stored channels."""
    window, filters = layer.window, layer.weight.values.shape[0]
    return ConvolutionShape(
        height,
        width,
        channels,
        round_up(filters, LANES),
        window.kernel,
        window.stride,
        window.dilation,
        window.pads,
        layer.groups,
        layer.weight.values.shape[1],
        filters // layer.groups,
    )


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
    value = builder.call(*_pooling_kernel(builder, layer, shape), arguments, out_shape, dtype)
    if isinstance(stored.value, relax.Var) and stored.value.name in builder.convolved:
        _stream(builder, layer, shape, builder.convolved[stored.value.name])
    layout = Layout.IMAGE if len(layer.output.shape) == 4 else Layout.ROWS
    if layer.kind == "max" or layer.output.quantization is None:
        value = _clamped(builder, value, layer)
    builder.put(layer.output, layout, value, channels)


def _pooling_kernel(
    builder: ValueStore, layer: Pooling, shape: ConvolutionShape
) -> tuple[tuple[object, ...], Callable[[], tirx.PrimFunc]]:
    """What identifies the kernel of a pooling, and how to write it."""
    dtype, threads = layer.x.dtype, builder.threads
    if layer.kind == "max":
        return ("max_pool", shape, dtype), lambda: pooling.max_pool(shape, dtype, threads)
    key = ("average_pool", shape, layer.count_padding, dtype)
    return key, lambda: pooling.average_pool(shape, layer.count_padding, dtype, threads)


def _stream(builder: ValueStore, layer: Pooling, shape: ConvolutionShape, image: RowKernels) -> None:
    """Notes that a convolution and the pooling of its result can be computed in turns, where that saves memory."""
    if builder.threads > 1:
        return  # each has a cache of its own, and would wait for the others at every turn
    sizes = image.element_bytes, _bytes_of(layer.x.dtype)
    cut = turns(image.shape, shape, sizes[1])
    if not cut or not are_aligned(cut, sizes, image.reads_singly):
        return
    names: dict[Turn, tuple[str, str]] = {}
    for turn in cut:
        convolution = image.add(turn.convolution)
        if convolution is None:
            return
        names[turn] = convolution, builder.row_kernel(*_pooling_kernel(builder, layer, turn.pooling))

    def mover(count: int) -> str:
        return builder.row_kernel(("copy_bytes", count), lambda: elementwise.copy_bytes(count))

    steps = steps_of(cut, sizes, names.__getitem__, mover)
    builder.streams.append(Stream(image.kernel, builder.calls[-1].kernel, steps, buffer_bytes(cut, sizes[1])))


def _bytes_of(dtype: str) -> int:
    return int(np.dtype(dtype).itemsize)


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
    size = prod(shape)
    factors = addition_factors(a, b, y)
    low, high = (bound + y.zero_point for bound in y.bounds(operation.clamp))
    value = builder.call(
        ("add_quantized", size),
        lambda: elementwise.add_quantized(size),
        [*(builder.reshape(value, (size,)) for value in values), _reals(*factors, np.rint(low), np.rint(high))],
        (size,),
        "uint8",
    )
    builder.put(operation.output, layout, builder.reshape(value, shape), stored.channels)


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
    before, height, width = image_size(operation.x)
    channels, out_height, out_width = image_size(operation.output)
    source, target = (height, width, stored.channels), (out_height, out_width, round_up(channels, LANES))
    start, step, size, padding = (
        (part[1], part[2], part[0]) for part in (operation.start, operation.step, operation.size, operation.before)
    )
    if size[2] == before == channels and source[2] == target[2]:  # whole pixels, with what is only stored of them
        size = (*size[:2], target[2])
    by_pixel = movement.Window(start, step, size, padding)
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
    size = prod(shape)
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
    row = builder.reshape(stored.value, (size,))
    value = builder.call((name, size), lambda: make(size), [row, *constants], (size,), operation.output.dtype)
    builder.put(operation.output, layout, builder.reshape(value, shape), stored.channels)


def _shape_of(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(size) for size in value.ty.shape.values)


def _integers(*values: int) -> relax.Expr:
    return relax.const(np.array(values, np.int32))


def _reals(*values: float) -> relax.Expr:
    return relax.const(np.array(values, np.float32))
