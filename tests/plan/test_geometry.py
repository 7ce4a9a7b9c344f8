import dataclasses
import math
from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest
from onnx.helper import make_node

from codesign.errors import InputError
from codesign.ir.program import Program
from codesign.plan.facts import ConvGeometry
from codesign.plan.geometry import geometry_of

Make = Callable[..., Program]


def _geometry(
    make_program: Make, node: onnx.NodeProto, constants: dict[str, tuple[int, ...]], x: tuple[int, ...]
) -> ConvGeometry:
    found = geometry_of(make_program([node], constants, x).graph.graph[0])
    assert found is not None
    return found


def test_a_convolution(make_program: Make) -> None:
    node = make_node("Conv", ["x", "w"], ["y"], "c", strides=[2, 1], pads=[1, 1, 1, 1], dilations=[1, 2], group=2)
    found = _geometry(make_program, node, {"w": (8, 3, 3, 3)}, (1, 6, 9, 10))
    assert found == ConvGeometry(1, 6, 8, (3, 3), (2, 1), (5, 8), (9, 10), 2, (1, 2))


def test_a_one_dimensional_convolution_has_height_1(make_program: Make) -> None:
    node = make_node("Conv", ["x", "w"], ["y"], "c", strides=[2])
    found = _geometry(make_program, node, {"w": (8, 4, 5)}, (1, 4, 21))
    assert found == ConvGeometry(1, 4, 8, (1, 5), (1, 2), (1, 9), (1, 21), 1)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_dense_layer(make_program: Make, transposed: int) -> None:
    node = make_node("Gemm", ["x", "w"], ["y"], "d", transB=transposed)
    found = _geometry(make_program, node, {"w": (10, 64) if transposed else (64, 10)}, (1, 64))
    assert found == ConvGeometry(1, 64, 10, (1, 1), (1, 1), (1, 1), (1, 1), 1)


def test_rows_of_a_matrix_product_are_samples(make_program: Make) -> None:
    found = _geometry(make_program, make_node("MatMul", ["x", "w"], ["y"], "m"), {"w": (32, 48)}, (1, 17, 32))
    assert found == ConvGeometry(17, 32, 48, (1, 1), (1, 1), (1, 1), (1, 1), 1)


def test_heads_of_attention_are_groups(make_program: Make) -> None:
    nodes = [make_node("Transpose", ["x"], ["t"], "t", perm=[0, 1, 3, 2]), make_node("MatMul", ["x", "t"], ["y"], "m")]
    program = make_program(nodes, {}, (1, 4, 17, 32))
    found = geometry_of(program.graph.graph[1])
    assert found == ConvGeometry(17, 4 * 32, 4 * 17, (1, 1), (1, 1), (1, 1), (1, 1), 4)
    macs = found.batch * found.output_channels * found.input_channels // found.groups
    assert macs == 4 * 17 * 17 * 32


def test_other_operators_have_none(make_program: Make) -> None:
    assert geometry_of(make_program([make_node("Relu", ["x"], ["y"], "r")], {}, (1, 4)).graph.graph[0]) is None


def test_three_dimensions_are_refused_by_name(make_program: Make) -> None:
    node = make_node("Conv", ["x", "w"], ["y"], "c3")
    with pytest.raises(
        InputError, match=r"node 'c3' \(Conv\): weight .* has 3 spatial dimensions, allowed are 1 and 2"
    ):
        _geometry(make_program, node, {"w": (8, 4, 3, 3, 3)}, (1, 4, 8, 8, 8))


def test_unknown_shapes_are_refused_by_name(make_program: Make) -> None:
    program = make_program([make_node("Conv", ["x", "w"], ["y"], "c")], {"w": (8, 4, 3, 3)}, (1, 4, 8, 8))
    program.graph.graph.inputs[0].shape = ir.Shape([1, 4, "H", 8])
    with pytest.raises(InputError, match=r"node 'c' \(Conv\): got shape \[1, 4, H, 8\] of 'x', need a static shape"):
        geometry_of(program.graph.graph[0])


def test_macs_follow_from_the_geometry(make_program: Make) -> None:
    node = make_node("Conv", ["x", "w"], ["y"], "c", group=4)
    found = _geometry(make_program, node, {"w": (8, 2, 3, 3)}, (1, 8, 10, 10))
    fields = dataclasses.asdict(found)
    macs = math.prod(fields["output_size"]) * math.prod(fields["kernel"]) * 8 * 2
    assert macs == 8 * 8 * 9 * 16
