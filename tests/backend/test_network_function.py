"""A network as one function: same results as TVM's interpreter, kernels that can be called alone, refusals."""

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.backend.network_function import NETWORK_KERNEL, PIPELINE, RELAX_PIPELINE, one_function
from codesign.errors import CompileError

TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 1})
SHAPE = (4, 6)


def _fused(emit: str) -> tvm.IRModule:
    """`main` of one input; what it does is one of a few graphs, the output of some of which is only a view."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    weight = relax.const(np.arange(24, dtype=np.float32).reshape(6, 4))
    with builder.function("main", [x]):
        with builder.dataflow():
            if emit == "branches":
                first = builder.emit(relax.op.matmul(x, weight))
                second = builder.emit(relax.op.reshape(relax.op.matmul(weight, x), (4, 9)))
                both = builder.emit(relax.op.concat([first, second], 1))
                result = relax.op.reshape(both, (52,))
            elif emit == "parts":
                parts = builder.emit(relax.op.split(relax.op.matmul(x, weight), 2, 1))
                result = relax.op.subtract(relax.TupleGetItem(parts, 1), relax.TupleGetItem(parts, 0))
            elif emit == "view":
                result = relax.op.reshape(x, (24,))
            else:
                result = x
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    passes = relax.transform
    fusion = [passes.LegalizeOps(), passes.AnnotateTIROpPattern(), passes.FuseOps(), passes.FuseTIR()]
    with TARGET:
        return tvm.transform.Sequential(fusion)(builder.get())


def _run(executable: tvm.runtime.Executable, x: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    return result


@pytest.mark.parametrize("emit", ["branches", "parts", "view"])
def test_results_are_those_of_the_interpreter(emit: str) -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    module = _fused(emit)
    single = one_function(module)
    ours = relax.build(single.module, TARGET, relax_pipeline=RELAX_PIPELINE, tir_pipeline=PIPELINE)
    for _ in range(2):  # memory is used again
        assert np.array_equal(_run(ours, x), _run(relax.build(module, TARGET), x))
    kernels = ours.mod.imports[0]
    assert kernels.implements_function(NETWORK_KERNEL)
    names = [v.name_hint for v, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    called = [name for name in names if emit == "view" or "reshape" not in name]
    assert called
    assert all(kernels.implements_function(name) for name in called)


def test_a_network_that_computes_nothing_is_refused() -> None:
    with pytest.raises(CompileError, match="its output is its input"):
        one_function(_fused("nothing"))


def test_what_is_no_kernel_is_refused() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(relax.op.add(x, x))
        builder.emit_func_output(output)
    with pytest.raises(CompileError, match="is no kernel"):
        one_function(builder.get())
