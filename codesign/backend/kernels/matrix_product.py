"""Products of two activations in float32, such as those of attention."""

from tvm import te, tirx
from tvm.s_tir import Schedule

from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.packing import LANES


def matrix_product(batch: int, rows: int, columns: int, depth: int, isa: InstructionSet) -> tirx.PrimFunc:
    """Kernel `(a [B, M, K], b [B, K, N], out [B, M, N])`.

    Args:
        batch: B.
        rows: M.
        columns: N.
        depth: K.
        isa: The processor.

    Returns:
        The scheduled function: a tile of rows and vectors of columns is summed in registers.
    """
    a = te.placeholder((batch, rows, depth), "float32", "a")
    b = te.placeholder((batch, depth, columns), "float32", "b")
    k = te.reduce_axis((0, depth), "k")
    total = te.compute((batch, rows, columns), lambda i, m, n: te.sum(a[i, m, k] * b[i, k, n], axis=k), "accumulated")
    out = te.compute((batch, rows, columns), lambda i, m, n: total[i, m, n], "out")
    width = next(v for v in (LANES, 8, 4, 2, 1) if columns % v == 0)
    tile_rows, vectors = _tile(rows, columns // width, isa)
    s = Schedule(te.create_prim_func([a, b, out]))
    i, m, n = s.get_loops(s.get_sblock("out"))
    m, row = s.split(m, [None, tile_rows])
    n, vector, lane = s.split(n, [None, vectors, width])
    s.reorder(i, m, n, row, vector, lane)
    sums = s.get_sblock("accumulated")
    s.compute_at(sums, n, preserve_unit_loops=True)
    s.set_scope(sums, 0, "local")
    sum_batch, sum_row, sum_column, reduction = s.get_loops(sums)[3:]
    sum_vector, sum_lane = s.split(sum_column, [vectors, width])
    s.reorder(reduction, sum_batch, sum_row, sum_vector, sum_lane)
    for loop in (sum_batch, sum_row, sum_vector, row, vector):
        s.unroll(loop)
    s.vectorize(sum_lane)
    s.decompose_reduction(sums, reduction)
    s.vectorize(lane)
    return s.mod["main"]


def _tile(rows: int, vectors: int, isa: InstructionSet) -> tuple[int, int]:
    """Rows and vectors with the fewest loads for each multiply-accumulate."""
    best, best_cost = (1, 1), float("inf")
    for row in (r for r in range(1, rows + 1) if rows % r == 0):
        for vector in (v for v in range(1, vectors + 1) if vectors % v == 0):
            sums = row * vector
            cost = (row + vector) / sums + max(0, min(10, isa.registers // 2) - sums) * 0.15
            if sums + vector + 1 <= isa.registers and cost < best_cost:
                best, best_cost = (row, vector), cost
    return best
