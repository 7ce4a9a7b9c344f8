"""Kernels that Relax made of several operators keep their results, and nothing in between."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.s_tir import Schedule

from codesign.backend.fused_kernels import keep_views, schedule_fused_kernels
from codesign.backend.network_function import is_view

SHAPE = (1, 5, 7, 48)


def _fused(shape: tuple[int, ...], second: tuple[int, ...]) -> tvm.IRModule:
    """relu(x + y) * 2 as Relax fuses it."""
    builder = relax.BlockBuilder()
    x, y = (relax.Var(name, relax.TensorType(size, "float32")) for name, size in (("x", shape), ("y", second)))
    with builder.function("main", [x, y]):
        with builder.dataflow():
            total = builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(x, y))))
            result = builder.emit_output(relax.op.multiply(total, relax.const(np.float32(2))))
        builder.emit_func_output(result)
    passes = relax.transform
    steps = [passes.LegalizeOps(), passes.AnnotateTIROpPattern(), passes.FuseOps(), passes.FuseTIR()]
    return tvm.transform.Sequential(steps)(builder.get())


def _kernel(module: tvm.IRModule) -> tirx.PrimFunc:
    (function,) = [f for _, f in module.functions_items() if isinstance(f, tirx.PrimFunc)]
    return function


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("second", [SHAPE, (1, 1, 1, 48)])
def test_results_stay_and_nothing_is_kept_in_between(second: tuple[int, ...], threads: int) -> None:
    module = schedule_fused_kernels(_fused(SHAPE, second), threads)
    s = Schedule(_kernel(module))
    assert len(s.get_child_blocks(s.get_sblock("root"))) == 1
    built = relax.build(module, tvm.target.Target({"kind": "llvm"}))
    random = np.random.default_rng(0)
    a, b = (random.normal(size=size).astype(np.float32) for size in (SHAPE, second))
    found = relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(a), tvm.runtime.tensor(b))
    assert np.array_equal(found.numpy(), np.maximum(a + b, 0) * 2)


def test_operands_of_one_shape_are_treated_in_vectors() -> None:
    text = str(_kernel(schedule_fused_kernels(_fused(SHAPE, SHAPE), 1)))
    assert "T.vectorized(16)" in text.replace("T.int64(16)", "16")
    assert "vectorized" not in str(_kernel(schedule_fused_kernels(_fused(SHAPE, (1, 1, 1, 48)), 1)))


def test_reshapes_stay_apart_from_the_kernels_around_them() -> None:
    builder = relax.BlockBuilder()
    x, y = (relax.Var(name, relax.TensorType(SHAPE, "float32")) for name in "xy")
    with builder.function("main", [x, y]):
        with builder.dataflow():
            row = builder.emit(relax.op.reshape(builder.emit(relax.op.add(x, y)), (1, 35, 48)))
            result = builder.emit_output(relax.op.nn.relu(row))
        builder.emit_func_output(result)
    passes = relax.transform
    legal = tvm.transform.Sequential([passes.LegalizeOps(), passes.AnnotateTIROpPattern()])(builder.get())
    fused = tvm.transform.Sequential([passes.FuseOps(), passes.FuseTIR()])(keep_views(legal))
    kernels = [f for _, f in fused.functions_items() if isinstance(f, tirx.PrimFunc)]
    assert sorted(is_view(kernel) for kernel in kernels) == [False, False, True]
    text = str(schedule_fused_kernels(fused, 1)).replace("T.int64(16)", "16")
    assert text.count("T.vectorized(16)") == 2
