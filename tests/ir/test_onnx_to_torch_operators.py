"""Every operator equals onnxruntime's, run natively on a batch and mapped over its samples."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import UnsupportedOperatorError
from codesign.ir.onnx_to_torch import SUPPORTED_OPERATORS, TorchGraph
from codesign.ir.operators import unsupported_operators
from codesign.testing.operator_cases import Case, check, draw, f32, i64, model_of

UNARY = [
    *(Case(op, (1, 3, 4)) for op in ("Abs", "Ceil", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Mish", "Neg")),
    *(Case(op, (1, 3, 4)) for op in ("Relu", "Round", "Sigmoid", "Sign", "Softplus", "Tanh", "LogSoftmax", "Dropout")),
    *(Case(op, (1, 3, 4), positive=True) for op in ("Log", "Reciprocal", "Sqrt")),
    Case("Not", (1, 5), before="bool"),
    Case("Elu", (1, 9), attributes={"alpha": 0.3}),
    Case("LeakyRelu", (1, 9)),
    Case("LeakyRelu", (1, 9), attributes={"alpha": 0.2}),
    Case("HardSigmoid", (1, 9)),
    Case("HardSigmoid", (1, 9), attributes={"alpha": 1 / 6, "beta": 0.5}),
    Case("Gelu", (1, 9)),
    Case("Gelu", (1, 9), attributes={"approximate": "tanh"}),
    Case("Clip", (1, 9), [np.float32(-0.5), np.float32(1)]),
    Case("Clip", (1, 9), [None, np.float32(1)]),
    Case("Clip", (1, 9), [np.float32(0)]),
    Case("Clip", (1, 9)),
    Case("Cast", (1, 9), attributes={"to": TensorProto.INT32}),
    Case("Cast", (1, 9), attributes={"to": TensorProto.BOOL}),
    Case("CastLike", (1, 9), [np.int64(1)]),
]


BROADCASTING = [
    *(
        Case(op, (1, 3, 4), [draw(*shape)])
        for op in ("Add", "Mul", "Sub", "Div")
        for shape in ((4,), (1, 1, 4), (), (2, 3, 1))
    ),
    *(Case(op, (2, 3), [draw(3)]) for op in ("Max", "Min", "Sum", "PRelu")),
    *(Case(op, (1, 2, 3), [draw(2, 1), draw(1, 1, 3)]) for op in ("Max", "Min", "Sum")),
    *(Case(op, (1, 4), [draw(4)]) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")),
    *(Case(op, (1, 4), [np.array([True, True, False, False])], before="bool") for op in ("And", "Or")),
    Case("Pow", (1, 4), [f32(2, 0.5, -1, 3)], positive=True),
    Case("Pow", (1, 4), [np.int64(2)]),
    Case("Mod", (1, 4), [f32(2, -3, 1.5, 2)], {"fmod": 1}),
    Case("Mod", (1, 4), [i64(2, -3, 5, -2)], before="INT64"),
    Case("Mod", (1, 4), [i64(2, -3, 5, -2)], {"fmod": 1}, before="INT64"),
    Case("Div", (1, 4), [i64(2, -3, 5, -2)], before="INT64"),
    Case("Where", (1, 4), [draw(2, 4), draw(1)], before="bool"),
    Case("PRelu", (1, 3, 2), [draw(3, 1)]),
]


LINEAR = [
    Case("Gemm", (1, 3), [draw(3, 5), draw(5)]),
    Case("Gemm", (2, 3), [draw(5, 3), draw(2, 5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", (3, 1), [draw(3, 5), draw(1, 5)], {"transA": 1}),
    Case("Gemm", (1, 3), [draw(3, 5)]),
    *(Case("MatMul", a, [draw(*b)]) for a, b in (((1, 3), (3, 4)), ((1, 2, 3), (3, 4)), ((1, 2, 3), (5, 3, 4)))),
    *(
        Case("MatMul", a, [draw(*b)])
        for a, b in (((3,), (3, 4)), ((5, 2, 3), (3, 4)), ((1, 3), (2, 3, 4)), ((1, 3), (3,)))
    ),
    Case("MatMul", (1, 5, 2, 3), [draw(1, 5, 3, 4)]),
    Case("Einsum", (1, 2, 3), [draw(3, 4)], {"equation": "bij,jk->bki"}),
    Case("Attention", (1, 2, 5, 4), [draw(1, 2, 6, 4), draw(1, 2, 6, 3)], opset=23),
    Case("Attention", (1, 2, 5, 4), [draw(1, 2, 5, 4), draw(1, 2, 5, 4)], {"is_causal": 1, "scale": 0.3}, opset=23),
    Case("Attention", (1, 2, 5, 4), [draw(1, 2, 5, 4), draw(1, 2, 5, 4), draw(5, 5)], opset=23),
    Case("Attention", (1, 5, 8), [draw(1, 6, 4), draw(1, 6, 4)], {"q_num_heads": 4, "kv_num_heads": 2}, opset=23),
]


NORMALIZATION = [
    *(Case("Softmax", (1, 3, 4), attributes={"axis": axis}) for axis in (0, 1, -1)),
    Case("Softmax", (2, 3)),
    Case("LogSoftmax", (1, 3, 4), attributes={"axis": 1}),
    Case("LayerNormalization", (1, 3, 4), [draw(4), draw(4)]),
    Case("LayerNormalization", (1, 3, 4), [draw(3, 4)], {"axis": 1, "epsilon": 0.1}),
    Case("LayerNormalization", (2, 4), [draw(2, 4), draw(2, 4)], {"axis": 0}),
    Case("RMSNormalization", (1, 3, 4), [draw(4)], opset=23),
    Case("BatchNormalization", (1, 3, 4, 2), [draw(3), draw(3), draw(3), draw(3, low=0.1)], {"epsilon": 0.01}),
    Case("BatchNormalization", (1, 3), [draw(3), draw(3), draw(3), draw(3, low=0.1)]),
    Case("InstanceNormalization", (1, 3, 4, 2), [draw(3), draw(3)], {"epsilon": 0.01}),
    Case("GroupNormalization", (1, 6, 4), [draw(6), draw(6)], {"num_groups": 3}),
    *(Case(op, (1, 3, 4), [i64(-1)]) for op in ("ReduceL1", "ReduceL2", "ReduceMean", "ReduceProd", "ReduceSumSquare")),
    *(
        Case(op, (1, 3, 4), [i64(0, 2)], {"keepdims": 0})
        for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd")
    ),
    *(Case(op, (1, 3, 4), [i64(1, 2)], {"keepdims": 0}) for op in ("ReduceMean", "ReduceMax", "ReduceL2")),
    *(Case("ReduceSum", (1, 3), [i64()], {"noop_with_empty_axes": noop}) for noop in (0, 1)),
    Case("ReduceMean", (1, 3, 4)),
    Case("ReduceMean", (1, 3, 4), attributes={"keepdims": 0}),
    Case("ReduceMean", (1, 3, 4), attributes={"axes": [1], "keepdims": 0}, opset=13),
    Case("ReduceMax", (1, 3, 4), attributes={"axes": [-1]}, opset=13),
]


SHAPE = [
    Case("Reshape", (1, 6), [i64(2, 3)]),
    Case("Reshape", (1, 6), [i64(0, -1, 2)]),
    Case("Reshape", (2, 3), [i64(1, 6)]),
    *(Case("Flatten", (1, 2, 3), attributes={"axis": axis}) for axis in (0, 1, 2, -1)),
    Case("Transpose", (1, 2, 3)),
    Case("Transpose", (1, 2, 3), attributes={"perm": [0, 2, 1]}),
    Case("Transpose", (1, 2, 3), attributes={"perm": [1, 0, 2]}),
    Case("Squeeze", (1, 3, 1)),
    Case("Squeeze", (1, 3, 1), [i64(-1)]),
    Case("Squeeze", (1, 3, 1), [i64(0)]),
    Case("Unsqueeze", (1, 3), [i64(-1, 1)]),
    Case("Unsqueeze", (2, 3), [i64(0)]),
    Case("Expand", (1, 1, 3), [i64(1, 4, 1)]),
    Case("Expand", (1, 3), [i64(5, 3)]),
    Case("Tile", (1, 3), [i64(2, 2)]),
    *(Case("Concat", (1, 2, 3), [draw(1, 2, 3)], {"axis": axis}) for axis in (0, 1, -1)),
    Case("Split", (1, 6), [i64(1, 2, 3)], {"axis": 1}, outputs=3),
    Case("Split", (1, 7), [], {"axis": -1, "num_outputs": 3}, outputs=3),
    Case("Split", (4, 3), [], {"num_outputs": 2}, outputs=2),
    Case("Gather", (1, 4, 3), [i64(2, -1)], {"axis": 1}),
    Case("Gather", (1, 4, 3), [np.int64(-2)], {"axis": -1}),
    Case("Gather", (1, 4), [np.array([[0, 0], [-1, 0]])]),
    Case("GatherElements", (1, 4), [np.array([[3, -1, 0]])], {"axis": 1}),
    Case("GatherND", (1, 4, 2), [np.array([[0, 3], [0, -1]])]),
    Case("Slice", (1, 5, 4), [i64(1), i64(5), i64(1), i64(2)]),
    Case("Slice", (1, 5, 4), [i64(-1, 0), i64(-100, 2**62), i64(1, -1), i64(-2, 1)]),
    Case("Slice", (1, 5), [i64(0, 3), i64(1, 1)]),
    Case("Slice", (4, 2), [i64(3), i64(-(2**62)), i64(0), i64(-1)]),
    Case("Pad", (1, 2, 3), [i64(0, 1, 2, 0, 0, 1)]),
    Case("Pad", (1, 2, 3), [i64(0, 1, -1, 1, 0, 1), np.float32(2.5)]),
    Case("Pad", (1, 2, 3), [i64(1, 2), np.float32(-1), i64(-1)]),
    *(Case("Pad", (1, 4, 5), [i64(0, 2, 1, 0, 1, 3)], {"mode": mode}) for mode in ("reflect", "edge", "wrap")),
    Case("DepthToSpace", (1, 8, 2, 3), attributes={"blocksize": 2}),
    Case("DepthToSpace", (1, 8, 2, 3), attributes={"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (1, 2, 4, 6), attributes={"blocksize": 2}),
    Case("Trilu", (1, 4, 4)),
    Case("Trilu", (4, 5), [np.int64(-1)], {"upper": 0}),
    Case("Shape", (1, 2, 3), attributes={"start": 1, "end": -1}),
    Case("Size", (1, 2, 3)),
    Case("Constant", (1,), attributes={"value_floats": [1.0, 2.5]}),
    Case("Constant", (1,), attributes={"value_int": 3}),
    Case("Constant", (1,), attributes={"value": numpy_helper.from_array(draw(2, 3))}),
    Case("ConstantOfShape", (1,), [i64(2, 3)]),
    Case("ConstantOfShape", (1,), [i64(2)], {"value": numpy_helper.from_array(i64(7))}),
    Case("Range", (1,), [np.int64(9), np.int64(0), np.int64(-2)]),
]


POOLING = [
    Case("GlobalAveragePool", (1, 3, 4, 5)),
    Case("GlobalMaxPool", (1, 3, 4)),
]


@pytest.mark.parametrize("case", [*UNARY, *BROADCASTING, *LINEAR, *NORMALIZATION, *SHAPE, *POOLING], ids=str)
def test_operator(case: Case) -> None:
    check(case)


def test_every_operator_is_checked() -> None:
    by_random = {"Conv", "MaxPool", "AveragePool", "QuantizeLinear", "DequantizeLinear"}
    checked = {c.op for group in (UNARY, BROADCASTING, LINEAR, NORMALIZATION, SHAPE, POOLING) for c in group}
    assert checked | by_random == SUPPORTED_OPERATORS


RANDOM = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def convolutions(make: st.DrawFn) -> Case:
    rank = make(st.integers(1, 2))
    group, inner, outer = make(st.integers(1, 3)), make(st.integers(1, 2)), make(st.integers(1, 2))
    kernel = [make(st.integers(1, 3)) for _ in range(rank)]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [make(st.integers(1, 2)) for _ in range(rank)],
        "group": group,
    }
    auto = make(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["dilations"] = [make(st.integers(1, 2)) for _ in range(rank)]
        attributes["pads"] = [make(st.integers(0, 2)) for _ in range(2 * rank)]
    else:
        attributes["auto_pad"] = auto
    weight = draw(group * outer, inner, *kernel)
    bias = make(st.sampled_from([None, draw(group * outer)]))
    sizes = tuple(make(st.integers(5, 8)) for _ in range(rank))
    return Case("Conv", (1, group * inner, *sizes), [weight] if bias is None else [weight, bias], attributes)


@RANDOM
@given(convolutions())
def test_convolution(case: Case) -> None:
    check(case)


@st.composite
def poolings(make: st.DrawFn) -> Case:
    rank = make(st.integers(1, 2))
    op = make(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = [make(st.integers(1, 3)) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    auto = make(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if make(st.booleans()):  # onnxruntime refuses SAME padding with a stride above the kernel
        attributes["strides"] = [make(st.integers(1, k if auto.startswith("SAME") else 3)) for k in kernel]
    if auto == "NOTSET":
        attributes["dilations"] = [make(st.integers(1, 2)) for _ in range(rank)]
        attributes["pads"] = [make(st.integers(0, kernel[i % rank] - 1)) for i in range(2 * rank)]
        attributes["ceil_mode"] = make(st.integers(0, 1))
    else:
        attributes["auto_pad"] = auto
    if op == "AveragePool":
        attributes["count_include_pad"] = make(st.integers(0, 1))
    sizes = tuple(make(st.integers(5, 9)) for _ in range(rank))
    return Case(op, (1, 2, *sizes), attributes=attributes)


@RANDOM
@given(poolings())
def test_pooling(case: Case) -> None:
    check(case)


def test_unsupported_operators_are_all_named() -> None:
    case = Case("BatchNormalization", (1, 3), [draw(3), draw(3), draw(3), draw(3)], {"training_mode": 1})
    model = model_of(case)
    model.graph.node.insert(1, helper.make_node("NonZero", ["x"], ["n"]))
    model.graph.node.insert(1, helper.make_node("FusedConv", ["x"], ["m"], domain="com.microsoft"))
    graph = ir.from_proto(model)
    assert unsupported_operators(graph) == (
        "BatchNormalization in training mode",
        "NonZero",
        "com.microsoft.FusedConv",
    )
    with pytest.raises(
        UnsupportedOperatorError, match=r"training mode \(subject\), NonZero, com\.microsoft\.FusedConv; replace"
    ):
        TorchGraph(graph)


def test_shapes_that_depend_on_data_are_refused() -> None:
    case = Case("Expand", (1, 2), [i64(3, 2)])
    model = model_of(case)
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["size"], to=TensorProto.INT64))
    model.graph.node.insert(1, helper.make_node("Squeeze", ["size"], ["flat"]))
    model.graph.node[2].input[1] = "flat"
    with pytest.raises(UnsupportedOperatorError, match=r"'subject' .*depend on the data"):
        TorchGraph(ir.from_proto(model)).run(torch.ones(2, 2))
