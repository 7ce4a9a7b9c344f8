"""Convolution and dense layer on AMX tiles: of uint8 activations with int8 or packed weights, or of bfloat16."""

from dataclasses import dataclass, replace
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels import amx_instructions as amx
from codesign.backend.kernels.amx_input import AmxInput, copy_size, looks_at_single_pixels, padded, rounded
from codesign.backend.kernels.amx_shares import Share, parts, shares
from codesign.backend.kernels.amx_tiles import AmxTiles, amx_tiles, packed_rows, shape_in_bytes
from codesign.backend.kernels.bfloat16 import ELEMENT_BYTES
from codesign.backend.kernels.epilogue import FACTORS, ZEROS, FloatEpilogue, IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import INNER, LANES, PLANES, neighbours

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


def amx_convolution(
    shape: ConvolutionShape, bits: int, epilogue: IntegerEpilogue, threads: int, asks: bool
) -> tirx.PrimFunc:
    """Kernel `(x, weight, bias, scale, zeros, factors, residual?, out)` as `integer_convolution`.

    Only the weight differs: `[C_out/16, KH, R, 64]` int8 as `amx_weights` orders it, or for bits below 8
    `[C_out/16, KH R / S, 8 bits S]` uint8 (packing.py), with S of `packed_rows`.

    Args:
        shape: Loop bounds; one group, no horizontal dilation.
        bits: Width of the weights.
        epilogue: What follows the sum.
        threads: Threads to share the work among; 1 for a serial kernel.
        asks: Whether the kernel asks for permission to use AMX, as the first one of a network must.

    Returns:
        The function.
    """
    share = shares(shape, threads)
    tiles = amx_tiles(replace(shape, out_channels=share.blocks * LANES), share.rows, share.columns)
    out_shape = (1, shape.out_height, shape.out_width, shape.out_channels)
    stored: tuple[int, ...] = (shape.blocks, shape.kernel[0], tiles.sums.weight_rows, LANES * INNER)
    if bits < 8:
        rows = packed_rows(shape, bits)
        stored = (shape.blocks, stored[1] * stored[2] // rows, LANES * INNER * rows * bits // 8)
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
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


def bfloat16_convolution(shape: ConvolutionShape, epilogue: FloatEpilogue, threads: int, asks: bool) -> tirx.PrimFunc:
    """Kernel `(x, weight, bias, residual?, out)` as `float_convolution`, its products rounded to bfloat16.

    Each operand is rounded to nearest even, with denormals as zeros; products are exact, and sums are float32 in the
    order of `TDPBF16PS`: of a tile's pairs of elements first all even ones and all odd ones, then both, then the rest.
    The sum starts with the bias. Only the weight differs: `[C_out/16, KH, R, 32]` uint16 as `amx_weights` orders it.

    Args:
        shape: Loop bounds that `bfloat16_applies` to.
        epilogue: What follows the sum.
        threads: Threads to share the work among; 1 for a serial kernel.
        asks: Whether the kernel asks for permission to use AMX, as the first one of a network must.

    Returns:
        The function.
    """
    in_bytes = shape_in_bytes(shape)
    share = shares(shape, threads)
    part = parts(shape, share)
    tiles = amx_tiles(replace(in_bytes, out_channels=share.blocks * LANES), part.rows, part.columns)
    out_shape = (1, shape.out_height, shape.out_width, shape.out_channels)
    stored = (shape.blocks, shape.kernel[0], tiles.sums.weight_rows, LANES * INNER // ELEMENT_BYTES)
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        x = build.arg("x", build.buffer((1, shape.height, shape.width, shape.in_channels), "float32"))
        weight = build.arg("weight", build.buffer(stored, "uint16"))
        bias = build.arg("bias", build.buffer((shape.out_channels,), "float32"))
        residual = build.arg("residual", build.buffer(out_shape, "float32")) if epilogue.residual else None
        out = build.arg("out", build.buffer(out_shape, "float32"))
        arguments = (x, weight, bias, None, None, None, residual, out)
        _body(_Kernel(in_bytes, shape, tiles, share, part, epilogue, BFLOAT16_BITS, *arguments), asks)
    return builder.get()


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
        weight = kernel.weight
        if kernel.bits < 8:
            weight = _unpacked(kernel, first[2])
        if part.count == 1:
            _one_part(kernel, copy, weight, sums, first)
        else:
            with build.serial(0, part.count) as number:
                row = first[0] + te.min(number * part.rows, share.rows - part.rows)
                column = first[1] + te.min(number * part.columns, share.columns - part.columns)
                _one_part(kernel, copy, weight, sums, (row, column, first[2]))
        amx.release()


def _one_part(
    kernel: _Kernel,
    copy: Buffer,
    weight: Buffer,
    sums: Buffer,
    first: tuple[Expression, Expression, Expression],
) -> None:
    """Computes the outputs of one copy of the input."""
    tiles, part = kernel.tiles, kernel.part
    source = _source(kernel, copy, first)
    groups, steps = part.blocks // tiles.channels, -(-part.rows * tiles.in_row // tiles.pixels)
    outer, inner = (steps, groups) if tiles.pixels_outside else (groups, steps)
    with build.serial(0, outer) as a, build.serial(0, inner) as b:
        step, group = (a, b) if tiles.pixels_outside else (b, a)
        _one_group(kernel, source, weight, sums, first, step, group)


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
    weight: Buffer,
    sums: Buffer,
    first: tuple[Expression, Expression, Expression],
    step: Expression,
    group: Expression,
) -> None:
    """Computes the tiles that are summed side by side."""
    tiles, part, stride = kernel.tiles, kernel.part, source.stride
    count, block = part.rows * tiles.in_row, group * tiles.channels
    places = []
    for pixel in range(tiles.pixels):
        number = te.min(step * tiles.pixels, count - tiles.pixels) + pixel
        column = te.min(number % tiles.in_row * tiles.rows, part.columns - tiles.rows)
        places.append((number // tiles.in_row, column))
    corners = [(source.top + row * stride[0], source.left + column * stride[1]) for row, column in places]
    _sum(kernel, source, corners, weight, (first[2], block), sums)
    for pixel, (row, column) in enumerate(places):
        _finish(kernel, sums, pixel, (first[0] + row, first[1] + column), first[2] + block)


def _sum(
    kernel: _Kernel,
    source: AmxInput,
    corners: list[tuple[Expression, Expression]],
    weight: Buffer,
    blocks: tuple[Expression, Expression],
    sums: Buffer,
) -> None:
    """Sums a group of tiles, biases included, and stores it; its channels start some blocks after the share's first."""
    shape, tiles = kernel.shape, kernel.tiles
    block = blocks[0] + blocks[1]
    pixel_stride = source.stride[1] * shape.in_channels
    multiply = amx.multiply_bfloat16 if kernel.bits == BFLOAT16_BITS else amx.multiply
    numbers = [(p, c) for p in range(tiles.pixels) for c in range(tiles.channels)]
    for number, (_, c) in enumerate(numbers):  # a stride of 0 repeats the channels' biases in all rows
        amx.load(number, kernel.bias[(block + c) * LANES], 0)
    with build.serial(0, shape.kernel[0]) as tap, build.serial(0, len(tiles.sums.starts)) as part:
        last = shape.kernel[1] * shape.in_channels - tiles.sums.depth
        start = te.min(part * tiles.sums.depth, last)
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
                    if kernel.bits >= 8:
                        weights = weight[block + c, tap, row, 0]
                    else:
                        before = ((blocks[1] + c) * shape.kernel[0] + tap) * tiles.sums.weight_rows
                        weights = weight[(before + row) * LANES * INNER]
                    amx.load(amx.FIRST_WEIGHT + c % 2, weights, LANES * INNER)
                multiply(p * tiles.channels + c, amx.FIRST_INPUT + p % 2, amx.FIRST_WEIGHT + c % 2)
    for number, (p, c) in enumerate(numbers):
        amx.store(number, sums[p, 0, c * LANES], tiles.channels * LANES * 4)


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


def _unpacked(kernel: _Kernel, first_block: Expression) -> Buffer:
    """Expands the weights of a share."""
    shape, bits, blocks = kernel.shape, kernel.bits, kernel.share.blocks
    together = packed_rows(shape, bits)
    lanes = together * LANES * INNER
    near = neighbours(lanes, bits)
    groups = shape.kernel[0] * kernel.tiles.sums.weight_rows // together
    unpacked = build.sblock_alloc_buffer((blocks * groups * lanes,), "int8")  # one axis, as `_padded` has
    with build.serial(0, blocks) as block, build.serial(0, groups) as group:
        for start in range(0, lanes, near):
            with build.vectorized(0, near) as lane:
                position = first = 0
                total = tirx.const(-(1 << (bits - 1)), "int8")
                for width in PLANES[bits]:
                    count = lanes * width // 8
                    byte = kernel.weight[first_block + block, group, first + start % count + lane]
                    shift = tirx.const(start // count * width, "uint8")
                    digit = (byte >> shift) & tirx.const((1 << width) - 1, "uint8")
                    total += (digit << tirx.const(position, "uint8")).astype("int8")
                    position, first = position + width, first + count
                build.buffer_store(unpacked, total, [(block * groups + group) * lanes + start + lane])
    return unpacked
