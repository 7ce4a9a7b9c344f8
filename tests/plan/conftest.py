"""Small graphs whose nodes carry their work."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from codesign.ir.annotation import annotate
from codesign.ir.annotations import Work
from codesign.ir.program import Program
from codesign.ir.shapes import static_shape

MakeProgram = Callable[[Sequence[onnx.NodeProto], Mapping[str, tuple[int, ...]], tuple[int, ...]], Program]


@pytest.fixture
def make_program() -> MakeProgram:
    """Builds a program from nodes, shapes of constants, and the shape of the input `x`; the last node gives the output.

    Names in the constants that start with `i_` hold their shape as int64 values, for Reshape and the like.
    """

    def make(
        nodes: Sequence[onnx.NodeProto], constants: Mapping[str, tuple[int, ...]], input_shape: tuple[int, ...]
    ) -> Program:
        rng = np.random.default_rng(0)
        initializers = [
            onnx.numpy_helper.from_array(
                np.asarray(shape, np.int64) if name.startswith("i_") else rng.standard_normal(shape).astype(np.float32),
                name,
            )
            for name, shape in constants.items()
        ]
        graph = onnx.helper.make_graph(
            list(nodes),
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, input_shape)],
            [onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
            initializers,
        )
        opset = [onnx.helper.make_opsetid("", 21)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
        program = Program(ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model, strict_mode=True)))
        for node in program.graph.graph:
            annotate(node, _work(node))
        return program

    return make


def _elements(value: ir.Value | None) -> int:
    shape = None if value is None else static_shape(value)
    return 0 if shape is None else math.prod(shape)


def _work(node: ir.Node) -> Work:
    constants = [v for v in node.inputs if v is not None and v.const_value is not None]
    inputs = sum(_elements(v) for v in node.inputs if v is not None and v.const_value is None)
    weights = sum(_elements(v) for v in constants if len(static_shape(v) or ()) > 1)
    outputs = sum(_elements(v) for v in node.outputs)
    return Work(
        macs=7,
        weight_elements=weights,
        input_elements=inputs,
        output_elements=outputs,
        weight_bytes=4 * weights,
        input_bytes=4 * inputs,
        output_bytes=4 * outputs,
    )
