"""Schedules of kernels that Relax made of several operators: one loop, without memory for what lies between.

Element-wise kernels become one loop over whole vectors: LLVM vectorises nests of loops for some shapes only, and 16
floats took 8 ns instead of 1 for the others. A vector in which a row may end is loaded element by element.
"""

from math import prod

import tvm
from tvm import tirx
from tvm.ir import TensorRegion
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV, ScheduleError
from tvm.s_tir.stmt import SBlock

from codesign.backend.kernels.packing import LANES
from codesign.backend.kernels.row_statistics import MINIMUM_PARALLEL_ELEMENTS
from codesign.backend.network_function import is_view
from codesign.backend.value_store import OPAQUE


def keep_views(module: tvm.IRModule) -> tvm.IRModule:
    """Keeps reshapes from being fused: alone they move nothing, inside a kernel they hide what lies side by side.

    Args:
        module: The network before fusion, with the kinds of its functions.

    Returns:
        The module, its reshapes marked.
    """
    for name, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and is_view(function):
            module.update_func(name, function.with_attr("op_pattern", OPAQUE))
    return module


def schedule_fused_kernels(module: tvm.IRModule, threads: int) -> tvm.IRModule:
    """Schedules all kernels that no template wrote.

    Args:
        module: The network after fusion.
        threads: Threads to schedule for.

    Returns:
        The module with other loops.
    """
    for name, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and int((function.attrs or {}).get("op_pattern", 0)) != OPAQUE:
            module.update_func(name, _scheduled(function, threads))
    return module


def _scheduled(function: tirx.PrimFunc, threads: int) -> tirx.PrimFunc:
    s = Schedule(function)
    blocks = s.get_child_blocks(s.get_sblock("root"))
    elementwise = all(_is_elementwise(s.get(block)) for block in blocks)
    *between, last = blocks
    for block in between:
        try:
            s.compute_inline(block)
        except ScheduleError:  # a reduction, or read by one
            return function
    if elementwise and s.get_loops(last):
        _in_vectors(s, last, threads)
    elif threads > 1:
        _share(s, last, threads)
    return s.mod["main"]


def _in_vectors(s: Schedule, block: SBlockRV, threads: int) -> None:
    *outer, row = s.get_loops(block)
    elements, width = prod(int(s.get(loop).extent) for loop in (*outer, row)), int(s.get(row).extent)
    if width % LANES == 0:
        row, lanes = s.split(row, [None, LANES])
        s.vectorize(lanes)
    else:  # LLVM finds vectors across the ends of rows, TVM does not
        outer, row = [], s.fuse(*outer, row)
    if threads > 1 and elements >= MINIMUM_PARALLEL_ELEMENTS:
        pixels = [s.fuse(*outer)] if outer else []
        s.parallel(max([*pixels, row], key=lambda loop: int(s.get(loop).extent)))


def _is_elementwise(block: SBlock) -> bool:
    """Whether a block writes one element a turn, and reads operands of its shape at that element, or single numbers."""
    if block.init is not None or len(block.writes) != 1:
        return False
    turn = [axis.var for axis in block.iter_vars]
    return _is_at(block.writes[0], turn) and all(_is_at(region, turn) or _is_one(region) for region in block.reads)


def _is_at(region: TensorRegion, turn: "list[tirx.Var]") -> bool:
    ranges = list(region.region)
    return len(ranges) == len(turn) and all(
        _is_number(part.extent, 1) and part.min.same_as(variable) for part, variable in zip(ranges, turn, strict=True)
    )


def _is_one(region: TensorRegion) -> bool:
    return all(_is_number(part.extent, 1) and isinstance(part.min, tirx.IntImm) for part in region.region)


def _is_number(value: tirx.Expr, number: int) -> bool:
    return isinstance(value, tirx.IntImm) and int(value) == number


def _share(s: Schedule, block: SBlockRV, threads: int) -> None:
    """Divides the first loop that is long enough among threads, unless it sums."""
    loops = s.get_loops(block)
    extents = [int(s.get(loop).extent) for loop in loops]
    kinds = [int(axis.iter_type) for axis in s.get(block).iter_vars]
    if prod(extents) < MINIMUM_PARALLEL_ELEMENTS or len(kinds) != len(loops) or any(kinds):
        return
    for loop, extent in zip(loops, extents, strict=True):
        if extent >= threads:
            s.parallel(s.split(loop, [threads, None])[0] if extent % threads == 0 else loop)
            return
