"""Schedules of kernels that Relax made of several operators: one loop, without memory for what lies between."""

from math import prod

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV, ScheduleError

from codesign.backend.kernels.row_statistics import MINIMUM_PARALLEL_ELEMENTS
from codesign.backend.value_store import OPAQUE


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
    *between, last = s.get_child_blocks(s.get_sblock("root"))
    for block in between:
        try:
            s.compute_inline(block)
        except ScheduleError:  # a reduction, or read by one
            return function
    if threads > 1:
        _share(s, last, threads)
    return s.mod["main"]


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
