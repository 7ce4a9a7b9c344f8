"""Dense layer of one row with weights below 8 bits on VNNI: each load of packed weights feeds several instructions.

Weights of S neighbouring steps (4 input channels x 16 outputs each) share a block of `pack_planes`, with S such that
every plane is whole vectors of 64 bytes: a shift and a mask of a loaded vector then yield the 64 weights of one step,
without moving a byte. The last block may hold fewer steps, and zeros. Weights stay unsigned, v + 2^(b-1); 2^(b-1)
sum(x) is taken off at the end.
"""

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.epilogue import FACTORS, ZEROS, IntegerEpilogue
from codesign.backend.kernels.geometry import MINIMUM_PARALLEL_MACS
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.packing import INNER, LANES, PLANES
from codesign.backend.kernels.parameters import PackedMatrixVectorTiling
from codesign.backend.kernels.vnni import with_dot_products

STEP = LANES * INNER
BLOCKS = 6
"""Most blocks of 16 outputs that the rules sum side by side; where they do not divide all, some are computed twice."""
LATENCY_CYCLES, CYCLES_EACH, CYCLES_EACH_OF_TWO = 5.0, 1.5, 3.5
"""Cycles from one instruction on a sum to the next, and those that one step of one block takes, with two planes."""

Expression = Any
"""A TIR expression, or a number."""
Buffer = Any
"""A TIR buffer."""


def shared_steps(bits: int, isa: InstructionSet) -> int:
    """Steps whose weights share a block.

    Args:
        bits: Width of the weights.
        isa: The processor.

    Returns:
        S, or 0 where this kernel does not apply.
    """
    return 8 // min(PLANES[bits]) if bits < 8 and isa.vnni else 0


def packed_matrix_vector_tiling(inputs: int, outputs: int, bits: int, threads: int) -> PackedMatrixVectorTiling:
    """What the rules choose.

    Args:
        inputs: K, as stored.
        outputs: C, as stored.
        bits: Width of the weights, below 8.
        threads: Threads to schedule for.

    Returns:
        The loops.
    """
    each = CYCLES_EACH if len(PLANES[bits]) == 1 else CYCLES_EACH_OF_TWO
    all_blocks = outputs // LANES
    blocks = min(
        range(min(BLOCKS, all_blocks), 0, -1),
        key=lambda count: -(-all_blocks // count) * max(count * each, LATENCY_CYCLES),
    )
    return PackedMatrixVectorTiling(blocks, threads > 1 and inputs * outputs >= MINIMUM_PARALLEL_MACS)


def packed_matrix_vector(
    sizes: tuple[int, int],
    bits: int,
    epilogue: IntegerEpilogue,
    isa: InstructionSet,
    threads: int,
    tiling: PackedMatrixVectorTiling,
) -> tirx.PrimFunc:
    """Kernel `(x, weight [C/16, ceil(K/4/S), 8 S bits], bias, scale, zeros, factors, residual?, out)`.

    Args:
        sizes: K and C, as stored; `shared_steps` is not 0.
        bits: Width of the weights, below 8.
        epilogue: What follows the sum.
        isa: The processor.
        threads: Threads to share the outputs among, where the loops are shared.
        tiling: Which loops.

    Returns:
        The function.
    """
    inputs, outputs = sizes
    steps = shared_steps(bits, isa)
    blocks = outputs // LANES
    together = tiling.blocks
    row = (1, 1, 1, outputs)
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        x = build.arg("x", build.buffer((1, 1, 1, inputs), "uint8"))
        stored = (blocks, -(-inputs // INNER // steps), STEP * steps * bits // 8)
        weight = build.arg("weight", build.buffer(stored, "uint8"))
        bias = build.arg("bias", build.buffer((outputs,), "int32"))
        scale = build.arg("scale", build.buffer((outputs,), "float32"))
        zeros = build.arg("zeros", build.buffer((ZEROS,), "int32"))
        factors = build.arg("factors", build.buffer((FACTORS,), "float32"))
        residual = build.arg("residual", build.buffer(row, "uint8")) if epilogue.residual else None
        out = build.arg("out", build.buffer(row, epilogue.output))
        with build.sblock("root"):
            build.reads([])
            build.writes([])
            excess = _excess(x, inputs, bits)

            def one_group(group: Expression) -> None:
                first = tirx.min(group * together, blocks - together)
                sums = _sum(x, weight, first, together, bits, steps)
                for block in range(together):
                    with build.vectorized(0, LANES) as lane:
                        channel = (first + block) * LANES + lane
                        total = sums[block, lane] - excess[0] + bias[channel]
                        added = None if residual is None else residual[0, 0, 0, channel]
                        value = epilogue.apply(total, scale[channel], zeros, factors, added)
                        build.buffer_store(out, value, [0, 0, 0, channel])

            _all_groups(-(-blocks // together), threads if tiling.parallel else 1, one_group)
    return builder.get()


def _all_groups(groups: int, threads: int, one_group: Any) -> None:  # noqa: ANN401  # a local function
    if threads == 1 or groups < threads:
        with build.serial(0, groups) as group, build.sblock("group"):
            one_group(group)
        return
    each = -(-groups // threads)
    with build.parallel(0, threads) as thread, build.serial(0, each) as number, build.sblock("group"):
        one_group(tirx.min(thread * each, groups - each) + number)  # the last thread may start earlier


def _excess(x: Buffer, inputs: int, bits: int) -> Buffer:
    """2^(b-1) sum(x), in a buffer of one element."""
    lanes = next(lanes for lanes in (64, 32, 16, 8) if inputs % lanes == 0)
    partial = build.sblock_alloc_buffer((lanes,), "int32")
    with build.vectorized(0, lanes) as lane:
        build.buffer_store(partial, tirx.const(0, "int32"), [lane])
    with build.serial(0, inputs // lanes) as number, build.vectorized(0, lanes) as lane:
        build.buffer_store(partial, partial[lane] + x[0, 0, 0, number * lanes + lane].astype("int32"), [lane])
    total = build.sblock_alloc_buffer((1,), "int32")
    build.buffer_store(total, tirx.const(0, "int32"), [0])
    with build.serial(0, lanes) as lane:
        build.buffer_store(total, total[0] + partial[lane], [0])
    build.buffer_store(total, total[0] * (1 << (bits - 1)), [0])
    return total


def _sum(x: Buffer, weight: Buffer, first: Expression, blocks: int, bits: int, steps: int) -> Buffer:
    """Sums of some blocks of outputs over all inputs, weights unsigned."""
    sums = build.sblock_alloc_buffer((blocks, LANES), "int32", scope="local")
    vector = tirx.Ramp(0, 1, LANES)
    for block in range(blocks):
        build.buffer_store(sums, tirx.Broadcast(0, LANES), [block, vector])

    def steps_of(number: Expression, count: int) -> None:
        for step in range(count):
            four = x.vload([0, 0, 0, (number * steps + step) * INNER], "uint8x4")
            inputs = tirx.reinterpret("uint8x64", tirx.Broadcast(tirx.reinterpret("int32", four), LANES))
            for block in range(blocks):
                factors = tirx.reinterpret("int8x64", _weights(weight, first + block, number, step, bits, steps))
                total = with_dot_products(sums.vload([block, 0], "int32x16"), inputs, factors)
                build.buffer_store(sums, total, [block, vector])

    whole, left = divmod(int(x.shape[3]) // INNER, steps)
    with build.serial(0, whole) as number:
        steps_of(number, steps)
    steps_of(whole, left)
    return sums


def _weights(weight: Buffer, block: Expression, number: Expression, step: int, bits: int, steps: int) -> Expression:
    """The 64 weights of one step as 16 words of four bytes."""
    position = first = 0
    value = None
    for width in PLANES[bits]:
        count = STEP * steps * width // 8
        byte, digit = step * STEP % count, step * STEP // count
        words = tirx.reinterpret("int32x16", weight.vload([block, number, first + byte], "uint8x64"))
        mask = int.from_bytes(bytes([(1 << width) - 1] * 4), "little", signed=True)
        part = (words >> tirx.Broadcast(digit * width, LANES)) & tirx.Broadcast(tirx.const(mask, "int32"), LANES)
        part <<= tirx.Broadcast(position, LANES)
        value = part if value is None else value | part
        position, first = position + width, first + count
    return value
