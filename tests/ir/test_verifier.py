from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from codesign.errors import InputError
from codesign.ir.program import Program
from codesign.ir.verifier import RULES, SHAPE_RULES, STRUCTURE_RULES, verify, violations
from codesign.testing.programs import GraphBuilder, small_program


def _node(program: Program, name: str) -> ir.Node:
    return next(node for node in program.graph.graph if node.name == name)


def _texts(program: Program) -> list[str]:
    return [str(violation) for violation in violations(program.graph)]


def test_legal_programs_have_no_violations() -> None:
    assert violations(small_program().graph) == ()
    assert violations(small_program(batch_norm=True).graph) == ()
    verify(small_program().graph, "g.onnx")


def _second_output(program: Program) -> None:
    program.graph.graph.outputs.append(program.graph.graph[0].outputs[0])


def _second_input(program: Program) -> None:
    program.graph.graph.inputs.append(ir.val("extra", ir.DataType.FLOAT, [1]))


def _old(program: Program) -> None:
    program.graph.graph.opset_imports[""] = 18


def _old_format(program: Program) -> None:
    program.graph.ir_version = 8


def _same_name(program: Program) -> None:
    _node(program, "relu").name = "stem"


def _no_name(program: Program) -> None:
    _node(program, "relu").name = None


def _same_value(program: Program) -> None:
    _node(program, "relu").outputs[0].name = "pool_out"


def _wrong_order(program: Program) -> None:
    graph = program.graph.graph
    relu = _node(program, "relu")
    graph.remove(relu)
    graph.insert_after(_node(program, "branch"), relu)


def _dangling(program: Program) -> None:
    _node(program, "join").replace_input_with(0, ir.val("ghost", ir.DataType.FLOAT, [1, 4, 8, 8]))


def _foreign_output(program: Program) -> None:
    program.graph.graph.outputs[0] = ir.val("ghost", ir.DataType.FLOAT, [1, 5])


def _constant_node(program: Program) -> None:
    node = ir.node("Constant", [], {"value": ir.tensor(np.ones(3, np.float32))}, name="const")
    program.graph.graph.insert_before(program.graph.graph[0], node)
    node.outputs[0].shape, node.outputs[0].type = ir.Shape((3,)), ir.TensorType(ir.DataType.FLOAT)


def _unknown_type(program: Program) -> None:
    _node(program, "relu").outputs[0].type = ir.TensorType(ir.DataType.COMPLEX64)


def _set(program: Program, name: str, value: float) -> None:
    tensor = program.graph.graph.initializers[name].const_value
    assert tensor is not None
    tensor.numpy().reshape(-1)[1] = value


def _nan_weight(program: Program) -> None:
    _set(program, "stem.weight", np.nan)


def _infinite_weight(program: Program) -> None:
    _set(program, "head.weight", -np.inf)


def _nan_bias(program: Program) -> None:
    _set(program, "head.bias", np.nan)


def _no_shape(program: Program) -> None:
    _node(program, "pool").outputs[0].shape = ir.Shape((1, "C", 1, 1))


def _open_input(program: Program) -> None:
    program.graph.graph.inputs[0].shape = ir.Shape(("N", 3, 8, 8))


def _group(program: Program) -> None:
    _node(program, "branch").attributes["group"] = ir.AttrInt64("group", 4)


def _wrong_attribute_type(program: Program) -> None:
    _node(program, "branch").attributes["group"] = ir.AttrString("group", "two")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_second_output, "graph: has 2 outputs (head_out, stem_out), allowed is one"),
        (_second_input, "graph: has 2 inputs (input, extra), allowed is one"),
        (_old, "graph: opset is 18, allowed is 21 or later"),
        (_old_format, "graph: IR version is 8, allowed is 10 or later"),
        (_same_name, "node 'stem': 2 nodes have this name, every node needs its own"),
        (_no_name, "node None: 1 nodes have this name, every node needs its own"),
        (_same_value, "value 'pool_out': 2 values have this name, every value needs its own"),
        (_wrong_order, "node 'branch' (Conv): input 'relu_out' is produced after this node; sort the nodes"),
        (_dangling, "node 'join' (Add): input 'ghost' is produced nowhere; sort the nodes"),
        (_foreign_output, "value 'ghost': is an output of the graph that no node produces"),
        (_constant_node, "node 'const' (Constant): constants must be initialisers, so that passes see weights"),
        (_unknown_type, "value 'relu_out': type COMPLEX64 is not a known number type"),
        (_nan_weight, "value 'stem.weight': 1 of 108 elements are not finite (read by 'stem')"),
        (_infinite_weight, "value 'head.weight': 1 of 20 elements are not finite (read by 'head')"),
        (_nan_bias, "value 'head.bias': 1 of 5 elements are NaN (read by 'head')"),
        (_no_shape, "node 'pool' (GlobalAveragePool): result 'pool_out' has shape [1, C, 1, 1] and type FLOAT"),
        (_open_input, "value 'input': input has shape [N, 3, 8, 8], allowed are fixed sizes"),
        (
            _group,
            "node 'branch' (Conv): weight [4, 2, 3, 3] with group 4 takes 8 channels, the input has 4",
        ),
    ],
)
def test_each_rule_names_the_place(spoil: Callable[[Program], None], expected: str) -> None:
    program = small_program()
    spoil(program)
    assert expected in _texts(program)


def test_an_attribute_of_the_wrong_type_is_a_violation() -> None:
    program = small_program()
    _wrong_attribute_type(program)
    (text,) = _texts(program)
    assert text.startswith("node 'branch' (Conv): an attribute has the wrong type")


def test_all_violations_are_listed_at_once() -> None:
    program = small_program()
    for spoil in (_group, _nan_bias, _old, _no_shape):
        spoil(program)
    with pytest.raises(InputError) as caught:
        verify(program.graph, "net.onnx")
    lines = str(caught.value).splitlines()
    assert lines[0] == "net.onnx: the graph is not legal; correct or lower it again:"
    assert len(lines) == 5
    assert {line.split(":")[0].strip() for line in lines[1:]} == {
        "graph",
        "node 'branch' (Conv)",
        "value 'head.bias'",
        "node 'pool' (GlobalAveragePool)",
    }


def test_rules_about_shapes_can_be_left_out() -> None:
    program = small_program()
    _no_shape(program)
    assert violations(program.graph, STRUCTURE_RULES) == ()
    assert len(violations(program.graph, SHAPE_RULES)) == 1
    assert RULES.keys() == STRUCTURE_RULES.keys() | SHAPE_RULES.keys()


def test_infinity_is_legal_outside_weights() -> None:
    build = GraphBuilder((1, 2))
    mask = build.constant("mask", np.array([0.0, -np.inf], np.float32))
    program = build.finish(build.add("Add", "add", [build.input, mask]))
    assert violations(program.graph) == ()


Attributes = Mapping[str, int | float | str | Sequence[int]]


def _single(op_type: str, input_shape: Sequence[int], weights: Sequence[Sequence[int]], attributes: Attributes) -> str:
    build = GraphBuilder(input_shape)
    operands = [build.weight(f"w{index}", *shape) for index, shape in enumerate(weights)]
    program = build.finish(build.add(op_type, "node", [build.input, *operands], attributes), shapes=False)
    return "; ".join(violation.message for violation in violations(program.graph, STRUCTURE_RULES))


@pytest.mark.parametrize(
    ("op_type", "input_shape", "weights", "attributes", "expected"),
    [
        ("Conv", (1, 4, 8, 8), [(6, 2, 3, 3), (6,)], {"group": 2}, ""),
        ("Conv", (1, 4, 8), [(6, 4, 3)], {"kernel_shape": (3,), "pads": (1, 1)}, ""),
        ("Conv", (1, 4, 8, 8), [(6, 4, 3)], {}, "weight has 3 dimensions, input 4; both need 2 + spatial"),
        ("Conv", (1, 4, 8, 8), [(6, 3, 3, 3)], {}, "weight [6, 3, 3, 3] with group 1 takes 3 channels"),
        ("Conv", (1, 4, 8, 8), [(5, 2, 3, 3)], {"group": 2}, "5 output channels don't divide into 2 groups"),
        ("Conv", (1, 4, 8, 8), [(6, 4, 3, 3)], {"group": 0}, "don't divide into 0 groups"),
        ("Conv", (1, 4, 8, 8), [(6, 4, 3, 3), (4,)], {}, "bias has shape [4], allowed is [6]"),
        ("Conv", (1, 4, 8, 8), [(6, 4, 3, 3)], {"kernel_shape": (5, 5)}, "kernel_shape is [5, 5]"),
        ("Conv", (1, 4, 8, 8), [(6, 4, 3, 3)], {"strides": (2,)}, "strides has 1 entries"),
        ("Conv", (1, 4, 8, 8), [(6, 4, 3, 3)], {"pads": (1, 1)}, "pads has 2 entries"),
        ("ConvTranspose", (1, 4, 8, 8), [(4, 3, 2, 2), (6,)], {"group": 2}, ""),
        ("ConvTranspose", (1, 4, 8, 8), [(5, 3, 2, 2)], {}, "takes 5 channels, the input has 4"),
        ("ConvTranspose", (1, 4), [(4, 3, 2, 2)], {}, "weight has 4 dimensions, input 2"),
        ("Gemm", (2, 3), [(3, 5), (5,)], {}, ""),
        ("Gemm", (3, 2), [(5, 3), (1, 5)], {"transA": 1, "transB": 1}, ""),
        ("Gemm", (2, 3), [(4, 5)], {}, "have inner sizes 3 and 4"),
        ("Gemm", (2, 3), [(3, 5), (4,)], {}, "C has shape [4], its last size must be 5 or 1"),
        ("Gemm", (2, 3, 1), [(3, 5)], {}, "A has shape [2, 3, 1], allowed are matrices"),
        ("MatMul", (2, 3), [(7, 3, 5)], {}, ""),
        ("MatMul", (3,), [(3,)], {}, ""),
        ("MatMul", (2, 3), [(4, 5)], {}, "have inner sizes 3 and 4"),
        ("BatchNormalization", (1, 4, 2), [(4,), (4,), (4,), (4,)], {}, ""),
        ("BatchNormalization", (1, 4, 2), [(4,), (4,), (3,), (4,)], {}, "mean has shape [3], allowed is [4]"),
    ],
)
def test_operators_and_operands(
    op_type: str, input_shape: Sequence[int], weights: Sequence[Sequence[int]], attributes: Attributes, expected: str
) -> None:
    found = _single(op_type, input_shape, weights, attributes)
    assert expected in found
    assert bool(found) == bool(expected)


def _dequantized(
    scale: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    attributes: Attributes,
    zero_point: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None = None,
) -> str:
    build = GraphBuilder((1, 4))
    weight = build.constant("q", np.ones((4, 6), np.int8))
    operands = [weight, build.constant("s", scale)]
    operands += [] if zero_point is None else [build.constant("z", zero_point)]
    dense = build.add("MatMul", "dense", [build.input, build.add("DequantizeLinear", "dq", operands, attributes)])
    program = build.finish(dense, shapes=False)
    return "; ".join(violation.message for violation in violations(program.graph, STRUCTURE_RULES))


def test_scales_must_match_the_axis() -> None:
    six, four = np.ones(6, np.float32), np.ones(4, np.float32)
    assert _dequantized(six, {}) == ""
    assert _dequantized(six, {"axis": -1}) == ""
    assert _dequantized(four, {"axis": 0}) == ""
    assert _dequantized(np.ones((), np.float32), {}) == ""
    assert _dequantized(np.ones((2, 6), np.float32), {"axis": 0, "block_size": 2}) == ""
    assert "4 scales for axis 1 of length 6" in _dequantized(four, {"axis": 1})
    assert "axis 2 is outside an operand of shape [4, 6]" in _dequantized(six, {"axis": 2})
    assert "scale has shape [6] but zero point [4]" in _dequantized(six, {}, np.zeros(4, np.int8))
    assert "differ in type (INT8, UINT8)" in _dequantized(six, {}, np.zeros(6, np.uint8))
    for bad in (0.0, -1.0, np.inf, np.nan):
        assert "scales must be finite and above 0" in _dequantized(np.full(6, bad, np.float32), {})
