"""Quantised tensors in networks that run in torch, against onnxruntime."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from codesign.ir.onnx_to_torch import TorchGraph
from codesign.testing.operator_cases import (
    SAMPLES,
    Case,
    check,
    f32,
    model_of,
    results_of_onnxruntime,
    results_of_torch,
)

KINDS = {
    "INT8": (TensorProto.INT8, np.int8, -128, 127),
    "UINT8": (TensorProto.UINT8, np.uint8, 0, 255),
    "INT4": (TensorProto.INT4, None, -8, 7),
    "UINT4": (TensorProto.UINT4, None, 0, 15),
}


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("shape", [(1, 3, 4), (4, 3, 4)])
def test_quantization_there_and_back(kind: str, axis: int | None, shape: tuple[int, ...]) -> None:
    code, _, low, high = KINDS[kind]
    count = 1 if axis is None else shape[axis]
    generator = np.random.default_rng(3)
    scale = np.full((), 0.25, np.float32) if axis is None else generator.uniform(0.1, 0.9, count).astype(np.float32)
    points = generator.integers(low, high, count)
    dims = [] if axis is None else [count]
    zero_point = helper.make_tensor("zero_point", code, dims, points.tolist())
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["q"], name="q", **attributes),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero_point"], ["y"], name="dq", **attributes),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(scale, "scale"), zero_point],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    # ties included: a quarter of the values lie half way between two levels
    inputs = generator.standard_normal((SAMPLES, *shape)).astype(np.float32) * 3
    inputs[..., 0] = np.round(inputs[..., 0]) * 0.25 + 0.125
    expected = results_of_onnxruntime(model, inputs)
    for merge in [True, False] if shape[0] == 1 else [False]:
        for mine, theirs in zip(results_of_torch(model, inputs, merge), expected, strict=True):
            np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-6, atol=0)


def test_half_way_values_go_to_the_even_level() -> None:
    case = Case("QuantizeLinear", (1, 6), [np.float32(1), np.int8(0)])
    model = model_of(case)
    x = np.tile(f32(0.5, 1.5, 2.5, -0.5, -1.5, 1000.0), (SAMPLES, 1, 1)).astype(np.float32)
    assert results_of_torch(model, x, merge=True)[0][0].tolist() == [[0, 2, 2, 0, -2, 127]]


def test_dequantization_of_int32_biases() -> None:
    case = Case("DequantizeLinear", (1, 3), [f32(0.5, 0.25, 2)], {"axis": 1}, before="INT32")
    check(case)


@pytest.mark.parametrize("bits", ["INT2", "INT4"])
def test_narrow_integer_weights(bits: str) -> None:
    values = np.array([[1, -2], [0, 1]])
    tensor = ir.Tensor(values.astype(ir.DataType[bits].numpy()), dtype=ir.DataType[bits], name="w")
    weight = ir.Value(name="w", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape((2, 2)))
    scale = ir.Value(name="s", const_value=ir.tensor(f32(0.5, 2.0), name="s"))
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1, 2)))
    dequantized = ir.node("DequantizeLinear", [weight, scale], {"axis": 1}, name="dq")
    product = ir.node("MatMul", [x, dequantized.outputs[0]], name="mm")
    dequantized.outputs[0].name, product.outputs[0].name = "wf", "y"
    nodes = [dequantized, product]
    graph = ir.Graph([x], product.outputs, nodes=nodes, initializers=[weight, scale], opset_imports={"": 25})
    got = TorchGraph(ir.Model(graph, ir_version=13)).run(torch.eye(2))
    assert got.tolist() == [[0.5, -4.0], [0.0, 2.0]]
