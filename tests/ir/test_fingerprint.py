import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from codesign.ir.annotation import annotate
from codesign.ir.annotations import QuantizationError
from codesign.ir.fingerprint import graph_digest, tensor_digest
from codesign.ir.program import Program
from codesign.testing.programs import GraphBuilder, small_program


def _weight(program: Program, name: str = "stem.weight") -> ir.Value:
    return program.graph.graph.initializers[name]


def _one_bit(program: Program) -> None:
    value = _weight(program)
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array.view(np.uint32)[0, 0, 0, 0] ^= 1
    value.const_value = ir.tensor(array, name=value.name)


def _attribute(program: Program) -> None:
    program.graph.graph[0].attributes["pads"] = ir.AttrInt64s("pads", (0, 0, 1, 1))


def _edge(program: Program) -> None:
    join = program.graph.graph[3]
    join.replace_input_with(0, join.inputs[1])


def _swap(program: Program) -> None:
    join = program.graph.graph[3]
    first, second = join.inputs
    join.replace_input_with(0, second)
    join.replace_input_with(1, first)


def _operator(program: Program) -> None:
    program.graph.graph[1].op_type = "Sigmoid"


def _name(program: Program) -> None:
    program.graph.graph[1].name = "other"


def _opset(program: Program) -> None:
    program.graph.opset_imports[""] = 22


def _input_shape(program: Program) -> None:
    program.graph.graph.inputs[0].shape = ir.Shape((1, 3, 16, 16))


def _decision(program: Program) -> None:
    program.graph.graph[0].metadata_props["codesign.weight-bits"] = "3"


CHANGES: list[Callable[[Program], None]] = [
    *(_one_bit, _attribute, _edge, _swap, _operator, _name, _opset, _input_shape, _decision)
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_graph_shows(change: Callable[[Program], None]) -> None:
    program = small_program()
    before = graph_digest(program.graph)
    change(program)
    assert graph_digest(program.graph) != before


def test_facts_derived_shapes_and_foreign_metadata_do_not_count() -> None:
    program = small_program()
    before = graph_digest(program.graph)
    node = program.graph.graph[0]
    annotate(node, QuantizationError(by_bits=()))
    node.metadata_props["codesign.unknown"] = '{"a": 1}'
    node.metadata_props["pkg.torch.onnx.stack_trace"] = "somewhere"
    node.outputs[0].shape = None
    node.doc_string = "text"
    program.graph.graph.outputs[0].shape = None
    assert graph_digest(program.graph) == before


def test_equal_graphs_have_equal_digests_whoever_holds_the_objects() -> None:
    assert graph_digest(small_program().graph) == graph_digest(small_program().graph)
    assert graph_digest(small_program(1).graph) != graph_digest(small_program().graph)
    assert graph_digest(small_program().graph.clone(deep_copy=True)) == graph_digest(small_program().graph)


def test_another_process_computes_the_same_digest() -> None:
    code = (
        "from codesign.testing.programs import small_program; from codesign.ir.fingerprint import graph_digest;"
        "print(graph_digest(small_program().graph))"
    )
    run = [sys.executable, "-c", code]
    shown = {
        subprocess.run(run, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout.strip()
        for seed in ("1", "2")
    }
    assert shown == {graph_digest(small_program().graph)}


def test_float_attributes_count_as_the_float32_that_files_hold(tmp_path: Path) -> None:
    build = GraphBuilder((1, 3))
    program = build.finish(build.add("LeakyRelu", "leaky", [build.input], {"alpha": 0.1}))
    before = graph_digest(program.graph)
    ir.save(program.graph, tmp_path / "g.onnx")
    assert graph_digest(ir.load(tmp_path / "g.onnx")) == before


def test_tensors_differ_by_type_shape_and_contents() -> None:
    base = np.arange(6, dtype=np.int8)
    tensors = [
        ir.tensor(base),
        ir.tensor(base.reshape(2, 3)),
        ir.tensor(base.view(np.uint8)),
        ir.tensor(base[::-1]),
        ir.tensor(base, dtype=ir.DataType.INT4),
        ir.tensor(["a", "b"]),
        ir.tensor(["ab"]),
    ]
    assert len({tensor_digest(tensor) for tensor in tensors}) == len(tensors)
    assert tensor_digest(ir.tensor(base[::-1])) == tensor_digest(ir.tensor(base[::-1].copy()))


def test_nested_graphs_and_tensor_attributes_count() -> None:
    digests = set()
    for value in (1.0, 2.0):
        build = GraphBuilder((1, 3))
        inner = build.add("Identity", "identity", [build.input])
        program = build.finish(inner, shapes=False)
        node = program.graph.graph[0]
        node.attributes["body"] = ir.AttrGraph("body", small_program(int(value)).graph.graph)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.ones(1, np.float32)))
        digests.add(graph_digest(program.graph))
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float32)))
        digests.add(graph_digest(program.graph))
    assert len(digests) == 4
