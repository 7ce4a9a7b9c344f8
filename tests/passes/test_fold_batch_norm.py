from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.ir.annotation import find
from codesign.ir.annotations import Work
from codesign.ir.program import Program
from codesign.ir.verifier import violations
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.opt import run_pipeline
from codesign.passes.fold_batch_norm import FoldBatchNormPass
from codesign.progress import Silent
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder, small_program


def _run(program: Program) -> NDArray[np.float32]:
    data = ir.to_proto(program.graph).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(3).normal(size=program.input_shape).astype(np.float32)
    (logits,) = session.run(None, {"input": image})
    return np.asarray(logits, dtype=np.float32)


def _operators(program: Program) -> list[str]:
    return [node.op_type for node in program.graph.graph]


def _norm(build: GraphBuilder, x: ir.Value, channels: int, name: str = "norm") -> ir.Value:
    parameters: Sequence[ir.Value] = [build.weight(f"{name}.{part}", channels) for part in ("scale", "bias", "mean")]
    variance = build.constant(f"{name}.variance", np.linspace(0.1, 3.0, channels, dtype=np.float32))
    return build.add("BatchNormalization", name, [x, *parameters, variance], {"epsilon": 1e-3})


def test_it_conforms() -> None:
    check_pass(FoldBatchNormPass, lambda: small_program(batch_norm=True), PassContext())
    check_pass(FoldBatchNormPass, small_program, PassContext())


def test_outputs_stay_equal_and_names_stay() -> None:
    program = small_program(batch_norm=True)
    before = _run(program)
    names = [node.name for node in program.graph.graph]
    notes: list[str] = []
    run_pipeline(program, "fold-batch-norm,infer-shapes", PassContext(progress=Silent(notes.append)))
    np.testing.assert_allclose(_run(program), before, rtol=1e-5, atol=1e-6)
    assert [node.name for node in program.graph.graph] == [name for name in names if name != "norm"]
    assert [name for name in program.graph.graph.initializers if name.startswith("norm")] == []
    assert violations(program.graph) == ()
    assert notes == ["1 BatchNormalization folded"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 4])
def test_folded_weights_follow_the_formula_in_float64(bias: bool, group: int) -> None:
    build = GraphBuilder((1, 4, 5, 5))
    operands: list[ir.Value | None] = [build.input, build.weight("conv.weight", 8, 4 // group, 3, 3)]
    operands += [build.weight("conv.bias", 8)] if bias else [None]
    conv = build.add("Conv", "conv", operands, {"group": group})
    program = build.finish(_norm(build, conv, 8))
    before = _run(program)
    old = {name: v.const_value.numpy().astype(np.float64) for name, v in _constants(program).items() if v.const_value}
    run_pipeline(program, "fold-batch-norm,infer-shapes", PassContext())
    (node,) = program.graph.graph
    factor = old["norm.scale"] / np.sqrt(old["norm.variance"] + np.float64(np.float32(1e-3)))
    weight = old["conv.weight"] * factor[:, None, None, None]
    shift = (old.get("conv.bias", 0.0) - old["norm.mean"]) * factor + old["norm.bias"]
    for value, expected in zip(node.inputs[1:], (weight, shift), strict=True):
        assert value is not None and value.const_value is not None
        np.testing.assert_allclose(value.const_value.numpy(), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(_run(program), before, rtol=1e-4, atol=1e-5)


def _constants(program: Program) -> dict[str, ir.Value]:
    return dict(program.graph.graph.initializers.items())


def test_a_convolution_that_others_read_is_left_alone() -> None:
    build = GraphBuilder((1, 3, 5, 5))
    conv = build.add("Conv", "conv", [build.input, build.weight("conv.weight", 3, 3, 1, 1)])
    program = build.finish(build.add("Add", "join", [conv, _norm(build, conv, 3)]))
    before = _run(program)
    run_pipeline(program, "fold-batch-norm", PassContext())
    assert _operators(program) == ["Conv", "BatchNormalization", "Add"]
    assert (_run(program) == before).all()


def test_others_are_left_alone() -> None:
    build = GraphBuilder((1, 3, 5, 5))
    first = _norm(build, build.input, 3, "first")
    relu = build.add("Relu", "relu", [first])
    program = build.finish(_norm(build, relu, 3, "second"))
    run_pipeline(program, "fold-batch-norm", PassContext())
    assert _operators(program) == ["BatchNormalization", "Relu", "BatchNormalization"]


def test_a_weight_that_two_layers_share_is_not_scaled_for_the_other() -> None:
    build = GraphBuilder((1, 3, 5, 5))
    shared = build.weight("shared.weight", 3, 3, 1, 1)
    first = _norm(build, build.add("Conv", "first", [build.input, shared]), 3)
    program = build.finish(build.add("Conv", "second", [first, shared]))
    before = _run(program)
    run_pipeline(program, "fold-batch-norm,infer-shapes", PassContext())
    assert _operators(program) == ["Conv", "Conv"]
    np.testing.assert_allclose(_run(program), before, rtol=1e-4, atol=1e-5)


def test_facts_become_stale_only_if_something_was_folded() -> None:
    program = small_program(batch_norm=True)
    run_pipeline(program, "count-work,fold-batch-norm", PassContext())
    assert all(find(node, Work) is None for node in program.graph.graph)
    program = small_program()
    run_pipeline(program, "count-work,fold-batch-norm", PassContext())
    assert all(find(node, Work) is not None for node in program.graph.graph)


def test_a_negative_variance_is_refused() -> None:
    program = small_program(batch_norm=True)
    variance = program.graph.graph.initializers["norm.variance"].const_value
    assert variance is not None
    variance.numpy()[1] = -0.5
    with pytest.raises(InputError, match="variance"):
        run_pipeline(program, "fold-batch-norm", PassContext())
