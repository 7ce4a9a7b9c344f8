"""Convolution and dense layer on AMX tiles: of uint8 activations with int8 or packed weights, or of bfloat16."""

from dataclasses import dataclass, replace
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels import amx_instructions as amx
from codesign.backend.kernels.amx_input import AmxInput, copy_size, looks_at_single_pixels, padded, rounded
from codesign.backend.kernels.amx_shares import Share, parts, shares
from codesign.backend.kernels.amx_tiles import (
    AmxTiles,
    SumBlocks,
    amx_tiles,
    packed_rows,
    shape_in_bytes,
    worth_threads,
)
from codesign.backend.kernels.amx_weights import AmxWeights, expanded
from codesign.backend.kernels.bfloat16 import ELEMENT_BYTES
from codesign.backend.kernels.epilogue import FACTORS, ZEROS, FloatEpilogue, IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import INNER, LANES
from codesign.backend.kernels.parameters import AmxTiling

BFLOAT16_BITS = 16
Expression = Any
"""A TIR expression, or a number."""
Buffer = Any
"""A TIR buffer: an argument or memory of the kernel."""


@dataclass(frozen=True)
class _Kernel:
    """What the parts of the kernel below share.

    Attributes:
        shape: Its input channels are counted in bytes.
        elements: The same in elements of the input.
        tiles: Of a part.
        share: What a thread computes.
        part: What is computed from one copy of the input, `count` of them for each share.
        bits: Width of the weights, 16 for bfloat16.
    """

    shape: ConvolutionShape
    elements: ConvolutionShape
    tiles: AmxTiles
    share: Share
    part: Share
    epilogue: IntegerEpilogue | FloatEpilogue
    bits: int
    x: Buffer
    weight: Buffer
    bias: Buffer
    scale: Buffer
    zeros: Buffer
    factors: Buffer
    residual: Buffer
    out: Buffer


def amx_tiling(shape: ConvolutionShape, threads: int) -> AmxTiling:
    """What the rules choose for a convolution on AMX tiles.

    Args:
        shape: Loop bounds.
        threads: Threads to schedule for.

    Returns:
        The loops.
    """
    used = threads if worth_threads(shape) else 1
    share = shares(shape, used)
    return _usual_tiling(shape, share, share, used)


def bfloat16_tiling(shape: ConvolutionShape, threads: int) -> AmxTiling:
    """What the rules choose for a convolution in float32 whose products are of bfloat16.

    Args:
        shape: Loop bounds.
        threads: Threads to schedule for.

    Returns:
        The loops.
    """
    used = threads if worth_threads(shape) else 1
    share = shares(shape, used)
    return _usual_tiling(shape_in_bytes(shape), share, parts(shape, share), used)


def _usual_tiling(shape: ConvolutionShape, share: Share, part: Share, threads: int) -> AmxTiling:
    """What the rules choose for a part of what one thread computes; input channels are counted in bytes."""
    tiles = amx_tiles(replace(shape, out_channels=part.blocks * LANES), part.rows, part.columns)
    return AmxTiling(tiles.pixels, tiles.channels, tiles.pixels_outside, threads, share.blocks < shape.blocks)


def amx_convolution(
    shape: ConvolutionShape, bits: int, epilogue: IntegerEpilogue, tiling: AmxTiling, asks: bool
) -> tirx.PrimFunc:
    """Kernel `(x, weight, bias, scale, zeros, factors, residual?, out)` as `integer_convolution`.

    Only the weight differs: `[C_out/16, KH, R, 64]` int8 as `amx_weights` orders it, or for bits below 8
    `[C_out/16, KH R / S, 8 bits S]` uint8 (packing.py), with S of `packed_rows`.

    Args:
        shape: Loop bounds; not depthwise, no horizontal dilation.
        bits: Width of the weights.
        epilogue: What follows the sum.
        tiling: Which loops.
        asks: Whether the kernel asks for permission to use AMX, as the first one of a network must.

    Returns:
        The function.
    """
    share = shares(shape, tiling.threads, tiling.shares_channels)
    tiles = _tiles(shape, share, tiling)
    out_shape = (1, shape.out_height, shape.out_width, shape.out_channels)
    stored: tuple[int, ...] = (shape.blocks, shape.kernel[0], tiles.sums.weight_rows, LANES * INNER)
    if bits < 8:
        rows = packed_rows(shape, bits)
        stored = (shape.blocks, stored[1] * stored[2] // rows, LANES * INNER * rows * bits // 8)
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True, amx.WHOLE_LINES: True})
        x = build.arg("x", build.buffer((1, shape.height, shape.width, shape.in_channels), "uint8"))
        weight = build.arg("weight", build.buffer(stored, "int8" if bits == 8 else "uint8"))
        bias = build.arg("bias", build.buffer((shape.out_channels,), "int32"))
        scale = build.arg("scale", build.buffer((shape.out_channels,), "float32"))
        zeros = build.arg("zeros", build.buffer((ZEROS,), "int32"))
        factors = build.arg("factors", build.buffer((FACTORS,), "float32"))
        residual = build.arg("residual", build.buffer(out_shape, "uint8")) if epilogue.residual else None
        out = build.arg("out", build.buffer(out_shape, epilogue.output))
        arguments = (x, weight, bias, scale, zeros, factors, residual, out)
        part = replace(share, count=1)
        _body(_Kernel(shape, shape, tiles, share, part, epilogue, bits, *arguments), asks)
    return builder.get()


def bfloat16_convolution(
    shape: ConvolutionShape, epilogue: FloatEpilogue, tiling: AmxTiling, asks: bool
) -> tirx.PrimFunc:
    """Kernel `(x, weight, bias, residual?, out)` as `float_convolution`, its products rounded to bfloat16.

    Each operand is rounded to nearest even, with denormals as zeros; products are exact, and sums are float32 in the
    order of `TDPBF16PS`: of a tile's pairs of elements first all even ones and all odd ones, then both, then the rest.
    The sum starts with the bias. Only the weight differs: `[C_out/16, KH, R, 32]` uint16 as `amx_weights` orders it.

    Args:
        shape: Loop bounds that `bfloat16_applies` to.
        epilogue: What follows the sum.
        tiling: Which loops.
        asks: Whether the kernel asks for permission to use AMX, as the first one of a network must.

    Returns:
        The function.
    """
    in_bytes = shape_in_bytes(shape)
    share = shares(shape, tiling.threads, tiling.shares_channels)
    part = parts(shape, share)
    tiles = _tiles(in_bytes, part, tiling)
    out_shape = (1, shape.out_height, shape.out_width, shape.out_channels)
    stored = (shape.blocks, shape.kernel[0], tiles.sums.weight_rows, LANES * INNER // ELEMENT_BYTES)
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True, amx.WHOLE_LINES: True})
        x = build.arg("x", build.buffer((1, shape.height, shape.width, shape.in_channels), "float32"))
        weight = build.arg("weight", build.buffer(stored, "uint16"))
        bias = build.arg("bias", build.buffer((shape.out_channels,), "float32"))
        residual = build.arg("residual", build.buffer(out_shape, "float32")) if epilogue.residual else None
        out = build.arg("out", build.buffer(out_shape, "float32"))
        arguments = (x, weight, bias, None, None, None, residual, out)
        _body(_Kernel(in_bytes, shape, tiles, share, part, epilogue, BFLOAT16_BITS, *arguments), asks)
    return builder.get()


def _tiles(shape: ConvolutionShape, part: Share, tiling: AmxTiling) -> AmxTiles:
    """Tiles of a part of the output, with given loops."""
    tiles = amx_tiles(replace(shape, out_channels=part.blocks * LANES), part.rows, part.columns)
    return replace(tiles, pixels=tiling.pixels, channels=tiling.channels, pixels_outside=tiling.pixels_outside)


def _body(kernel: _Kernel, asks: bool) -> None:
    with build.sblock("root"):
        build.reads([])
        build.writes([])
        if asks:
            amx.request_permission()
        _all_shares(kernel)


def _all_shares(kernel: _Kernel) -> None:
    shape, share = kernel.shape, kernel.share
    if share.count == 1:
        _one_share(kernel, (0, 0, 0))
        return
    with build.parallel(0, share.count) as number:
        if share.blocks < shape.blocks:
            _one_share(kernel, (0, 0, number * share.blocks))
        elif shape.out_height > 1:
            _one_share(kernel, (te.min(number * share.rows, shape.out_height - share.rows), 0, 0))
        else:
            _one_share(kernel, (0, te.min(number * share.columns, shape.out_width - share.columns), 0))


def _one_share(kernel: _Kernel, first: tuple[Expression, Expression, Expression]) -> None:
    """Computes what one thread does, from a row, a column and a block of channels on."""
    shape, tiles, share, part = kernel.shape, kernel.tiles, kernel.share, kernel.part
    with build.sblock("share"):
        build.reads([])
        build.writes([])
        amx.configure(tiles)
        copy = None
        if kernel.bits == BFLOAT16_BITS:
            height, width = copy_size(kernel.elements, part.rows, part.columns)
            copy = build.sblock_alloc_buffer((height * width * shape.in_channels,), "uint8")
        elif shape.is_padded:
            copy = padded(shape, part.rows, kernel.x, kernel.zeros[0].astype("uint8"), first[0] * shape.stride[0])
        sum_type = "float32" if kernel.bits == BFLOAT16_BITS else "int32"
        sums = build.sblock_alloc_buffer((tiles.pixels, tiles.rows, tiles.channels * LANES), sum_type)
        if part.count == 1:
            _one_part(kernel, copy, sums, first)
        else:
            with build.serial(0, part.count) as number:
                row = first[0] + te.min(number * part.rows, share.rows - part.rows)
                column = first[1] + te.min(number * part.columns, share.columns - part.columns)
                _one_part(kernel, copy, sums, (row, column, first[2]))
        amx.release()


def _one_part(
    kernel: _Kernel,
    copy: Buffer,
    sums: Buffer,
    first: tuple[Expression, Expression, Expression],
) -> None:
    """Computes the outputs of one copy of the input."""
    tiles, part = kernel.tiles, kernel.part
    source = _source(kernel, copy, first)
    groups, steps = part.blocks // tiles.channels, -(-part.rows * tiles.in_row // tiles.pixels)
    if tiles.pixels_outside:
        weight = expanded(kernel.shape, tiles, kernel.bits, kernel.weight, first[2], part.blocks)
        with build.serial(0, steps) as step, build.serial(0, groups) as group:
            _one_group(kernel, source, weight, sums, first, step, group * tiles.channels)
    else:
        with build.serial(0, groups) as group:
            weight = expanded(
                kernel.shape, tiles, kernel.bits, kernel.weight, first[2] + group * tiles.channels, tiles.channels
            )
            with build.serial(0, steps) as step:
                _one_group(kernel, source, weight, sums, first, step, group * tiles.channels)


def _source(kernel: _Kernel, copy: Buffer, first: tuple[Expression, Expression, Expression]) -> AmxInput:
    """Where the windows of a part's outputs are; fills the copy of a kernel in bfloat16."""
    shape, part, stride = kernel.shape, kernel.part, kernel.shape.stride
    top, left = first[0] * stride[0], first[1] * stride[1]
    if kernel.bits == BFLOAT16_BITS:
        rounded(kernel.elements, (part.rows, part.columns), kernel.x, copy, (first[0], first[1]))
        if looks_at_single_pixels(shape):
            return AmxInput(copy, part.columns, 0, 0, (1, 1))
    if copy is None:
        return AmxInput(kernel.x, 0, top, left, stride)
    return AmxInput(copy, shape.padded_width, 0, left, stride)


def _one_group(
    kernel: _Kernel,
    source: AmxInput,
    weight: AmxWeights,
    sums: Buffer,
    first: tuple[Expression, Expression, Expression],
    step: Expression,
    block: Expression,
) -> None:
    """Computes the tiles that are summed side by side; their channels start some blocks after the share's first."""
    tiles, part, stride = kernel.tiles, kernel.part, source.stride
    count = part.rows * tiles.in_row
    places = []
    for pixel in range(tiles.pixels):
        number = te.min(step * tiles.pixels, count - tiles.pixels) + pixel
        column = te.min(number % tiles.in_row * tiles.rows, part.columns - tiles.rows)
        places.append((number // tiles.in_row, column))
    corners = [(source.top + row * stride[0], source.left + column * stride[1]) for row, column in places]
    _sum(kernel, source, corners, weight, first[2] + block, sums, step)
    for pixel, (row, column) in enumerate(places):
        _finish(kernel, sums, pixel, (first[0] + row, first[1] + column), first[2] + block)


def _sum(
    kernel: _Kernel,
    source: AmxInput,
    corners: list[tuple[Expression, Expression]],
    weight: AmxWeights,
    block: Expression,
    sums: Buffer,
    step: Expression,
) -> None:
    """Sums a group of tiles, biases included, and stores it; its channels start at a block of the layer.

    Where weights are expanded ahead, the first step of their group expands each tile while the one before it is
    multiplied, since AMX leaves the vector units idle.
    """
    shape, tiles = kernel.shape, kernel.tiles
    pixel_stride = source.stride[1] * shape.in_channels
    multiply = amx.multiply_bfloat16 if kernel.bits == BFLOAT16_BITS else amx.multiply
    numbers = [(p, c) for p in range(tiles.pixels) for c in range(tiles.channels)]
    for number, (_, c) in enumerate(numbers):  # a stride of 0 repeats the channels' biases in all rows
        amx.load(number, kernel.bias[(block + c) * LANES], 0)
    if weight.is_ahead:
        with build.If(step == 0), build.Then():
            weight.expand_tile(block, 0)
    with build.serial(0, shape.kernel[0]) as tap, build.serial(0, tiles.sums.steps) as part:
        if weight.is_ahead:
            following = te.min(tap * tiles.sums.steps + part + 1, shape.kernel[0] * tiles.sums.steps - 1)
            with build.If(step == 0), build.Then():
                weight.expand_tile(block, following)
        start = _start(shape, tiles.sums, part, block)
        row_of = [corner[0] + tap * shape.dilation[0] for corner in corners]
        for p in range(tiles.pixels):
            if source.width:
                pixel = row_of[p] * source.width + corners[p][1]
                element = source.buffer[pixel * shape.in_channels + start]
            else:
                element = source.buffer[0, row_of[p], corners[p][1], start]
            amx.load(amx.FIRST_INPUT + p % 2, element, pixel_stride)
            for c in range(tiles.channels):
                if p == 0 or tiles.channels > 2:
                    row = part * (tiles.sums.depth // INNER)
                    amx.load(amx.FIRST_WEIGHT + c % 2, weight.at(block + c, tap, row), LANES * INNER)
                multiply(p * tiles.channels + c, amx.FIRST_INPUT + p % 2, amx.FIRST_WEIGHT + c % 2)
    for number, (p, c) in enumerate(numbers):
        amx.store(number, sums[p, 0, c * LANES], tiles.channels * LANES * 4)


def _start(shape: ConvolutionShape, sums: SumBlocks, part: Expression, block: Expression) -> Expression:
    """Where a block of the sum starts, in bytes from the first one of a kernel row."""
    last = sums.starts[-1]
    if shape.groups == 1:
        return te.min(part * sums.depth, last)
    count = len(sums.starts)
    column = part // count * shape.in_channels + te.min(part % count * sums.depth, last)
    unused = shape.in_channels - shape.reduction_channels
    return column + te.min(block * LANES // shape.group_out * shape.group_in, unused)


def _finish(kernel: _Kernel, sums: Buffer, pixel: int, place: tuple[Expression, Expression], block: Expression) -> None:
    """The epilogue of one tile of pixels."""
    width = kernel.tiles.channels * LANES
    lanes = width & -width  # a power of two
    with build.serial(0, kernel.tiles.rows) as number:
        for start in range(0, width, lanes):
            with build.vectorized(0, lanes) as lane:
                channel = block * LANES + start + lane
                index = [0, place[0], place[1] + number, channel]
                total = sums[pixel, number, start + lane]
                residual = None if kernel.residual is None else kernel.residual[tuple(index)]
                match kernel.epilogue:
                    case FloatEpilogue() as real:
                        value = real.apply(total, residual)
                    case IntegerEpilogue() as integer:
                        value = integer.apply(total, kernel.scale[channel], kernel.zeros, kernel.factors, residual)
                build.buffer_store(kernel.out, value, index)
