import difflib

import numpy as np
import onnx_ir as ir

from codesign.ir.annotation import annotate
from codesign.ir.annotations import HessianTrace
from codesign.ir.printer import print_graph, print_node
from codesign.testing.programs import GraphBuilder, small_program


def _curvature(trace: float) -> HessianTrace:
    return HessianTrace(
        trace=trace,
        standard_error=0.0,
        top_eigenvalues=(),
        parameter="w",
        parameters=108,
        matrix="hessian",
        exact=True,
        method="packed-gauss-newton",
        weights_of="folded",
        samples=4,
    )


def test_the_whole_text() -> None:
    build = GraphBuilder((1, 2))
    weight = build.constant("w", np.array([[1.0], [-0.5]], np.float32))
    shape = build.constant("s", np.array([1, 1], np.int64))
    x = build.add("MatMul", "dense", [build.input, weight])
    x = build.add("Reshape", "view", [x, shape], {"allowzero": 0})
    program = build.finish(build.add("Clip", "clip", [x, None, build.constant("high", np.array(6.0, np.float32))]))
    node = program.graph.graph[0]
    annotate(node, _curvature(1 / 3))
    node.metadata_props.update({"codesign.weight-bits": "3", "namespace": "hidden"})
    assert print_graph(program.graph) == (
        "graph main onnx=21\n"
        "  input %input: FLOAT[1,2]\n"
        "  weight %high: FLOAT[] = [6]\n"
        "  weight %s: INT64[2] = [1,1]\n"
        "  weight %w: FLOAT[2,1] = [1,-0.5]\n"
        "  %dense_out: FLOAT[1,1] = MatMul(%input, %w) @dense\n"
        "      #hessian-trace{trace=0.333333 standard_error=0 top_eigenvalues=[] "
        'parameter="w" parameters=108 matrix="hessian" exact=true method="packed-gauss-newton" '
        'weights_of="folded" samples=4}\n'
        "      #weight-bits=3\n"
        "  %view_out: FLOAT[1,1] = Reshape(%dense_out, %s) {allowzero=0} @view\n"
        "  %clip_out: FLOAT[1,1] = Clip(%view_out, _, %high) @clip\n"
        "  output %clip_out: FLOAT[1,1]\n"
    )


def _changed_lines(first: str, second: str) -> list[str]:
    lines = difflib.unified_diff(first.splitlines(), second.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[0] in "+-" and not line.startswith(("+++", "---"))]


def test_one_change_is_one_line_of_difference() -> None:
    program = small_program()
    before = print_graph(program.graph)
    assert print_graph(small_program().graph) == before
    weight = program.graph.graph.initializers["stem.weight"].const_value
    assert weight is not None
    weight.numpy()[0, 0, 0, 0] += 1
    changed = _changed_lines(before, print_graph(program.graph))
    assert [line[:25] for line in changed] == ["-  weight %stem.weight: F", "+  weight %stem.weight: F"]
    before = print_graph(program.graph)
    annotate(program.graph.graph[0], _curvature(1.0))
    assert [line[:21] for line in _changed_lines(before, print_graph(program.graph))] == ["+      #hessian-trace"]
    program.graph.graph[0].meta.invalidate(HessianTrace.key)
    assert print_graph(program.graph) == before


def test_nodes_are_one_line_each_whatever_their_attributes() -> None:
    values: dict[str, ir.Attr] = {
        "a": ir.AttrFloat32("a", 0.1),
        "b": ir.AttrFloat32s("b", (0.5, 1e-12)),
        "c": ir.AttrString("c", 'text "x"\n'),
        "d": ir.AttrTensor("d", ir.tensor(np.arange(9))),
        "e": ir.AttrGraph("e", small_program().graph.graph),
        "f": ir.RefAttr("f", "outer", ir.AttributeType.INT),
        "g": ir.AttrTensor("g", ir.tensor(["a"])),
        "h": ir.AttrTensor("h", ir.tensor(np.array([1, -2], np.int8), dtype=ir.DataType.INT4)),
    }
    node = ir.Node("my.domain", "Odd", [ir.val("x"), None], list(values.values()), outputs=[ir.val("y")], name="odd")
    line = print_node(node)
    assert "\n" not in line
    assert line.startswith('%y: ?[?] = my.domain.Odd(%x, _) {a=0.1, b=[0.5,1e-12], c="text \\"x\\"\\n", d=#')
    assert "e=graph of 7 nodes, f=@outer, g=#" in line
    assert line.endswith("h=[1,-2]} @odd")


def test_open_shapes_are_shown() -> None:
    build = GraphBuilder((1, 2))
    program = build.finish(build.add("Relu", "relu", [build.input]), shapes=False)
    program.graph.graph.inputs[0].shape = ir.Shape(["N", 2])
    text = print_graph(program.graph)
    assert "input %input: FLOAT[N,2]" in text
    assert "output %relu_out: FLOAT[?]" in text
