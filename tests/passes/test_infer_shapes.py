import numpy as np
import onnx_ir as ir
import pytest

from codesign.errors import InputError
from codesign.ir.fingerprint import graph_digest
from codesign.ir.printer import print_graph
from codesign.ir.program import Program
from codesign.ir.verifier import SHAPE_RULES, violations
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.opt import run_pipeline
from codesign.passes.infer_shapes import InferShapesPass
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder, small_program


def _without_shapes() -> Program:
    program = small_program(batch_norm=True)
    for node in program.graph.graph:
        node.outputs[0].shape = None
        node.outputs[0].type = None
    return program


def test_it_conforms() -> None:
    check_pass(InferShapesPass, _without_shapes, PassContext())
    check_pass(InferShapesPass, small_program, PassContext())


def test_every_shape_and_type_is_found_again() -> None:
    program = _without_shapes()
    assert len(violations(program.graph, SHAPE_RULES)) == 8
    InferShapesPass().run(program, PassContext())
    assert print_graph(program.graph) == print_graph(small_program(batch_norm=True).graph)


def test_weights_are_untouched() -> None:
    program = _without_shapes()
    before = {name: value.const_value for name, value in program.graph.graph.initializers.items()}
    digest = graph_digest(program.graph)
    InferShapesPass().run(program, PassContext())
    after = {name: value.const_value for name, value in program.graph.graph.initializers.items()}
    assert all(after[name] is tensor for name, tensor in before.items())
    assert graph_digest(program.graph) == digest


def test_large_weights_need_not_be_read() -> None:
    build = GraphBuilder((1, 2000))
    program = build.finish(build.add("MatMul", "dense", [build.input, build.weight("w", 2000, 7)]))
    assert program.graph.graph.outputs[0].shape == (1, 7)


def test_shapes_computed_from_shapes_are_followed() -> None:
    build = GraphBuilder((1, 6))
    shape = build.add("Shape", "shape", [build.input])
    rows = build.add("Gather", "rows", [shape, build.constant("one", np.array([1], np.int64))])
    target = build.add("Concat", "target", [rows, build.constant("minus", np.array([-1], np.int64))], {"axis": 0})
    program = build.finish(build.add("Reshape", "view", [build.input, target]))
    assert program.graph.graph.outputs[0].shape == (6, 1)


def test_open_shapes_are_all_listed() -> None:
    program = _without_shapes()
    program.graph.graph.inputs[0].shape = ir.Shape(("batch", 3, 8, 8))
    with pytest.raises(InputError, match="9 shapes are not fixed") as caught:
        InferShapesPass().run(program, PassContext())
    lines = str(caught.value).splitlines()
    assert "  'input', input of the graph: [batch, 3, 8, 8]" in lines
    assert "  'relu_out', result of node 'relu' (Relu): [batch, 4, 8, 8]" in lines


def test_contradictions_are_refused() -> None:
    build = GraphBuilder((1, 3))
    other = build.constant("other", np.ones((1, 4), np.float32))
    program = build.finish(build.add("Add", "add", [build.input, other]), shapes=False)
    with pytest.raises(InputError, match="contradict one another"):
        InferShapesPass().run(program, PassContext())
    program = small_program()
    program.graph.graph[1].outputs[0].shape = ir.Shape((1, 5, 8, 8))
    with pytest.raises(InputError, match=r"contradict one another.*\(4\).*\(5\)"):
        InferShapesPass().run(program, PassContext())


def test_an_operator_of_another_domain_leaves_its_shape_open() -> None:
    build = GraphBuilder((1, 3))
    program = build.finish(build.add("Odd", "odd", [build.input], domain="my.domain"), shapes=False)
    program.graph.graph.opset_imports["my.domain"] = 1
    with pytest.raises(InputError, match=r"result of node 'odd' \(Odd\): unknown"):
        run_pipeline(program, "infer-shapes", PassContext())
