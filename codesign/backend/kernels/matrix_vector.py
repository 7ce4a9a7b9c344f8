"""Dense layer of one row: independent partial sums over parts of the input hide the latency of multiply-accumulate."""

from tvm import te, tirx
from tvm.s_tir import Schedule

from codesign.backend.kernels.epilogue import FACTORS, ZEROS, FloatEpilogue, IntegerEpilogue
from codesign.backend.kernels.geometry import MINIMUM_PARALLEL_MACS
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.packing import INNER, LANES
from codesign.backend.kernels.parameters import MatrixVectorTiling
from codesign.backend.kernels.schedule import Unpacking, schedule_unpacking
from codesign.backend.kernels.vnni import DOT_16X4
from codesign.backend.kernels.weights import Reader, weight_stages

ENOUGH_SUMS = 12


def input_steps(inputs: int, integers: bool, isa: InstructionSet) -> int:
    """Steps of the sum of one output.

    Args:
        inputs: K, as stored.
        integers: Whether activations are integers.
        isa: The processor.

    Returns:
        K, or K / 4 where VNNI adds four products at once.
    """
    return inputs // INNER if integers and isa.vnni and inputs % INNER == 0 else inputs


def matrix_vector_tiling(
    inputs: int, outputs: int, integers: bool, isa: InstructionSet, threads: int
) -> MatrixVectorTiling:
    """What the rules choose for a dense layer of one row.

    Args:
        inputs: K, as stored.
        outputs: C, as stored.
        integers: Whether activations are integers.
        isa: The processor.
        threads: Threads to schedule for.

    Returns:
        The loops.
    """
    parts, blocks = _parts(input_steps(inputs, integers, isa), outputs // LANES, isa)
    return MatrixVectorTiling(parts, blocks, threads > 1 and inputs * outputs >= MINIMUM_PARALLEL_MACS)


def float_matrix_vector(
    inputs: int, outputs: int, epilogue: FloatEpilogue, tiling: MatrixVectorTiling
) -> tirx.PrimFunc:
    """Kernel `(x [1, 1, 1, K], weight [C/16, 1, 1, K, 16], bias [C], residual?, out [1, 1, 1, C])`.

    Args:
        inputs: K, as stored.
        outputs: C, as stored.
        epilogue: What follows the sum.
        tiling: Which loops.

    Returns:
        The scheduled function.
    """
    parts = tiling.parts
    x = te.placeholder((1, 1, 1, inputs), "float32", "x")
    weight = te.placeholder((outputs // LANES, 1, 1, inputs, LANES), "float32", "weight")
    bias = te.placeholder((outputs,), "float32", "bias")
    shape = (1, 1, 1, outputs)
    residual = te.placeholder(shape, "float32", "residual") if epilogue.residual else None
    length = inputs // parts
    k = te.reduce_axis((0, length), "k")
    total = te.compute(
        (parts, outputs),
        lambda p, c: te.sum(x[0, 0, 0, p * length + k] * weight[c // LANES, 0, 0, p * length + k, c % LANES], axis=k),
        "accumulated",
    )

    def finish(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        value = _sum_of_parts(total, parts, c) + bias[c]
        return epilogue.apply(value, None if residual is None else residual[n, h, w, c])

    out = te.compute(shape, finish, "out")
    arguments = [x, weight, bias] + ([residual] if residual is not None else []) + [out]
    return _schedule(te.create_prim_func(arguments), tiling, None, False)


def integer_matrix_vector(
    inputs: int, outputs: int, bits: int, epilogue: IntegerEpilogue, isa: InstructionSet, tiling: MatrixVectorTiling
) -> tirx.PrimFunc:
    """Kernel `(x, weight, bias, scale, zeros, factors, residual?, out)`, as `integer_convolution` of one pixel.

    Args:
        inputs: K, as stored.
        outputs: C, as stored.
        bits: Width of the weights.
        epilogue: What follows the sum.
        isa: The processor.
        tiling: Which loops.

    Returns:
        The scheduled function.
    """
    inner, parts = inputs // input_steps(inputs, True, isa), tiling.parts
    x = te.placeholder((1, 1, 1, inputs), "uint8", "x")
    stored, weight = weight_stages(outputs // LANES, inputs // inner, inner, bits)
    bias = te.placeholder((outputs,), "int32", "bias")
    scale = te.placeholder((outputs,), "float32", "scale")
    zeros, factors = te.placeholder((ZEROS,), "int32", "zeros"), te.placeholder((FACTORS,), "float32", "factors")
    shape = (1, 1, 1, outputs)
    residual = te.placeholder(shape, "uint8", "residual") if epilogue.residual else None
    total = _integer_sum(x, weight, outputs, parts, inner)

    def finish(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        value = _sum_of_parts(total, parts, c) + bias[c]
        added = None if residual is None else residual[n, h, w, c]
        return epilogue.apply(value, scale[c], zeros, factors, added)

    out = te.compute(shape, finish, "out")
    arguments = [x, stored, bias, scale, zeros, factors] + ([residual] if residual is not None else []) + [out]
    unpacking = None if bits == 8 else Unpacking.of(inputs // inner, LANES * inner, bits)
    return _schedule(te.create_prim_func(arguments), tiling, unpacking, inner == INNER)


def _integer_sum(x: te.Tensor, weight: Reader, outputs: int, parts: int, inner: int) -> te.Tensor:
    steps = int(x.shape[3]) // inner // parts
    ko, ki = te.reduce_axis((0, steps), "ko"), te.reduce_axis((0, inner), "ki")

    def product(p: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        step = p * steps + ko
        if inner == INNER:
            value = x[0, 0, 0, step * inner + ki].astype("int32")
            return te.sum(value * weight(c // LANES, step, c % LANES, ki).astype("int32"), axis=[ko, ki])
        value = x[0, 0, 0, step].astype("int16")
        return te.sum((value * weight(c // LANES, step, c % LANES, 0).astype("int16")).astype("int32"), axis=ko)

    return te.compute((parts, outputs), product, "accumulated")


def _parts(steps: int, blocks: int, isa: InstructionSet) -> tuple[int, int]:
    """Parts of the input, and blocks of outputs, that are summed side by side."""
    best, best_cost = (1, 1), float("inf")
    for part in (p for p in range(1, ENOUGH_SUMS + 1) if steps % p == 0):
        for block in (b for b in range(1, ENOUGH_SUMS + 1) if blocks % b == 0):
            sums = part * block
            if sums > 1 and sums + block + 1 > isa.registers:
                continue
            cost = part / sums + max(0, ENOUGH_SUMS - sums) * 0.15 + 0.01 * sums
            if cost < best_cost:
                best, best_cost = (part, block), cost
    return best


def _sum_of_parts(total: te.Tensor, parts: int, channel: tirx.Expr) -> tirx.Expr:
    value = total[0, channel]
    for part in range(1, parts):
        value += total[part, channel]
    return value


def _schedule(
    function: tirx.PrimFunc, tiling: MatrixVectorTiling, unpacking: Unpacking | None, tensorized: bool
) -> tirx.PrimFunc:
    s, blocks = Schedule(function), tiling.blocks
    out, total = s.get_sblock("out"), s.get_sblock("accumulated")
    block, block_in, lane = s.split(s.get_loops(out)[-1], [None, blocks, LANES])
    s.compute_at(total, block, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    if unpacking is not None:
        schedule_unpacking(s, block, unpacking)
    if tiling.parallel:
        s.parallel(block)
    part, channel, *reduction = s.get_loops(total)[4:]
    sum_block, sum_lane = s.split(channel, [blocks, LANES])
    inner = [reduction.pop()] if tensorized else []
    s.reorder(*reduction, part, sum_block, sum_lane, *inner)
    s.unroll(part)
    s.unroll(sum_block)
    if not tensorized:
        s.vectorize(sum_lane)
    initial = s.decompose_reduction(total, reduction[0])
    if tensorized:
        initial_loops = s.get_loops(initial)
        s.vectorize(initial_loops[-1])
        for loop in initial_loops[-3:-1]:
            s.unroll(loop)
        s.tensorize(sum_lane, DOT_16X4)
    s.vectorize(lane)
    s.unroll(block_in)
    return s.mod["main"]
