"""Which loops of a kernel are worth measuring: the rules' own first, then the most promising by a simple count."""

import math
from collections.abc import Iterator
from dataclasses import replace

from codesign.backend.kernels.amx_convolution import amx_tiling, bfloat16_tiling
from codesign.backend.kernels.amx_shares import parts, shares
from codesign.backend.kernels.amx_tiles import ACCUMULATORS, TILE_ROWS, amx_possible, bfloat16_applies
from codesign.backend.kernels.depthwise import BLOCKS as BLOCKS_ASIDE
from codesign.backend.kernels.depthwise import MOST_PRODUCTS, depthwise_applies, products_named
from codesign.backend.kernels.geometry import MAXIMUM_CHANNEL_TILE, ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.layer_kernel import FLOAT_BITS, LayerKernel
from codesign.backend.kernels.matrix_vector import ENOUGH_SUMS, input_steps
from codesign.backend.kernels.packed_matrix_vector import BLOCKS, shared_steps
from codesign.backend.kernels.parameters import (
    AmxTiling,
    DepthwiseTiling,
    KernelParameters,
    MatrixVectorTiling,
    PackedMatrixVectorTiling,
    VectorTiling,
    vector_tiling,
)
from codesign.backend.layers import default_parameters

MOST_TILES = 6
"""Tiles of each kind; others load much more for each product."""
BESIDE_OTHERS = 2
"""Tiles of the general convolution where there is another kernel, which is mostly faster."""
MOST_VARIANTS = 3
"""Tiles that are also measured with another order of the loops, or with an unrolled one."""


def candidates(kernel: LayerKernel, isa: InstructionSet, threads: int) -> tuple[KernelParameters, ...]:
    """Lists loops that a kernel may have.

    Where the rules round products of float32 to bfloat16, all loops do, so that tuning changes no result.

    Args:
        kernel: The kernel.
        isa: The processor.
        threads: Threads to schedule for.

    Returns:
        All different; what the rules choose comes first.
    """
    found: list[KernelParameters] = [default_parameters(kernel, isa, threads)]
    shape, integers = kernel.shape, kernel.bits != FLOAT_BITS
    if kernel.is_vector:
        if integers and shared_steps(kernel.bits, isa):
            found += _packed_products(shape, threads)
        else:
            found += _products(shape, input_steps(shape.in_channels, integers, isa), isa, threads)
    elif integers and isa.amx and amx_possible(shape):
        found += _amx_tilings(shape, threads, False)
        found += list(_vector_tilings(shape, False, isa.registers, threads))[:BESIDE_OTHERS]
    elif not integers and depthwise_applies(shape):
        found += _depthwise_tilings(shape, isa.registers, threads)
        found += list(_vector_tilings(shape, False, isa.registers, threads))[:BESIDE_OTHERS]
    elif not integers and isa.bfloat16 and bfloat16_applies(shape):
        found += _amx_tilings(shape, threads, True)
    else:
        found += _vector_tilings(shape, kernel.bits in {8, FLOAT_BITS}, isa.registers, threads)
    return tuple(dict.fromkeys(found))


def _packed_products(shape: ConvolutionShape, threads: int) -> Iterator[PackedMatrixVectorTiling]:
    for blocks in range(1, min(2 * BLOCKS, shape.blocks) + 1):
        for parallel in _either(threads > 1):
            yield PackedMatrixVectorTiling(blocks, parallel)


def _products(shape: ConvolutionShape, steps: int, isa: InstructionSet, threads: int) -> Iterator[MatrixVectorTiling]:
    fitting = [
        (count, blocks)
        for count in _divisors(steps, ENOUGH_SUMS)
        for blocks in _divisors(shape.blocks, ENOUGH_SUMS)
        if count * blocks + blocks + 1 <= isa.registers
    ]
    enough = min(ENOUGH_SUMS, isa.registers // 2)
    fitting.sort(key=lambda tile: (max(0, enough - tile[0] * tile[1]), tile[0]))
    for count, blocks in fitting[:MOST_TILES]:
        for parallel in _either(threads > 1):
            yield MatrixVectorTiling(count, blocks, parallel)


def _amx_tilings(shape: ConvolutionShape, threads: int, in_bfloat16: bool) -> Iterator[AmxTiling]:
    rule = bfloat16_tiling(shape, threads) if in_bfloat16 else amx_tiling(shape, threads)
    used = {(1, False), (rule.threads, rule.shares_channels)}
    if threads > 1:
        used |= {(threads, False), (threads, True)} if shape.blocks % threads == 0 else {(threads, False)}
    for count, by_channels in sorted(used, reverse=True):
        share = shares(shape, count, by_channels)
        part = parts(shape, share) if in_bfloat16 else share
        tiles = part.rows * -(-part.columns // TILE_ROWS)
        for pixels in range(1, min(ACCUMULATORS, tiles) + 1):
            for channels in _divisors(math.gcd(share.blocks, shape.alike_blocks), ACCUMULATORS // pixels):
                if 2 * pixels * channels < min(ACCUMULATORS, tiles * share.blocks):
                    continue  # leaves most of the sums' tiles unused
                for pixels_outside in _either(share.blocks > channels and tiles > pixels):
                    yield AmxTiling(pixels, channels, pixels_outside, count, by_channels and count > 1)


def _depthwise_tilings(shape: ConvolutionShape, registers: int, threads: int) -> Iterator[DepthwiseTiling]:
    ways = [1, threads] if 1 < threads <= shape.out_height else [1]
    for blocks in _divisors(shape.blocks, 2 * BLOCKS_ASIDE):
        for pixels in (2, 4, 6, 8):
            fits = pixels * blocks <= registers and products_named(shape, pixels, blocks) <= MOST_PRODUCTS
            if fits and pixels <= shape.out_width:
                yield from (DepthwiseTiling(pixels, blocks, count) for count in ways)


def _vector_tilings(shape: ConvolutionShape, unpacked: bool, registers: int, threads: int) -> Iterator[VectorTiling]:
    rule = vector_tiling(shape, registers, threads, not unpacked)
    tiles = _register_tiles(shape, registers)[:MOST_TILES]
    shared = list(_shared(shape, rule, threads))
    plain = [replace(rule, columns=columns, blocks=blocks) for columns, blocks in tiles]
    plain = [tiling for tiling in plain if _divides(shape, tiling)]
    yield rule
    yield from plain
    for tiling in [rule, *plain[:MOST_VARIANTS]]:
        for way in shared:
            other = replace(tiling, chunks=way[0], shares_chunks=way[0] > 1, shares_blocks=way[1])
            if _divides(shape, other):
                yield other
        if unpacked and tiling.blocks < shape.blocks and not tiling.shares_blocks:
            yield replace(tiling, channels_inside=True)
        if shape.kernel[1] > 1:
            yield replace(tiling, unrolled=True)


def _register_tiles(shape: ConvolutionShape, registers: int) -> list[tuple[int, int]]:
    """Columns and blocks of channels of tiles that fit registers, those with the fewest loads a product first."""
    fitting = [
        (columns, blocks)
        for blocks in _divisors(shape.alike_blocks, MAXIMUM_CHANNEL_TILE)
        for columns in _divisors(shape.out_width, registers)
        if columns * blocks + blocks + 1 <= registers
    ]
    enough = min(10, registers // 2)
    most = max((columns * blocks for columns, blocks in fitting), default=0)
    fitting = [tile for tile in fitting if 2 * tile[0] * tile[1] >= min(enough, most)]

    def loads(tile: tuple[int, int]) -> tuple[float, int]:
        sums = tile[0] * tile[1]
        return (tile[0] + tile[1]) / sums + max(0, enough - sums) * 0.15, tile[0]

    return sorted(fitting, key=loads)


def _shared(shape: ConvolutionShape, rule: VectorTiling, threads: int) -> Iterator[tuple[int, bool]]:
    """Other ways than the rule's to share a kernel among threads: chunks, and whether by blocks of channels."""
    if threads == 1:
        return
    rows = shape.out_height if shape.out_height > 1 else shape.out_width
    ways = [(1, False), (1, True), (threads, False), (2 * threads, False), (rows, False)]
    yield from (way for way in dict.fromkeys(ways) if way != (rule.chunks, rule.shares_blocks))


def _divides(shape: ConvolutionShape, tiling: VectorTiling) -> bool:
    """Whether chunks are equal, and there is something to share."""
    if tiling.shares_blocks:
        return shape.blocks > tiling.blocks
    rows = shape.out_height if shape.out_height > 1 else shape.out_width // tiling.columns
    return rows % tiling.chunks == 0


def _divisors(size: int, most: int) -> list[int]:
    return [d for d in range(1, min(size, most) + 1) if size % d == 0]


def _either(possible: bool) -> tuple[bool, ...]:
    return (False, True) if possible else (False,)
