"""Every operator equals onnxruntime's, run natively on a batch and mapped over its samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import UnsupportedOperatorError
from codesign.ir import batching
from codesign.ir.onnx_to_torch import SUPPORTED_OPERATORS, TorchGraph
from codesign.ir.operators import unsupported_operators

Array = NDArray[Any]
SAMPLES = 3
onnxruntime.set_default_logger_severity(3)


@dataclass(frozen=True)
class Case:
    """One node `op(x, *constants)`, between other nodes that bring its input and output to float32."""

    op: str
    shape: tuple[int, ...]
    constants: Sequence[Array | np.generic | None] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 21
    before: str | None = None
    outputs: int = 1
    positive: bool = False

    def __str__(self) -> str:
        shown = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{list(self.shape)}-{shown}-{self.opset}"


def _model(case: Case) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(case.constants) if c is not None
    ]
    operands = ["" if c is None else f"c{i}" for i, c in enumerate(case.constants)]
    nodes = []
    source = "x"
    if case.before == "bool":
        initializers.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
        nodes.append(helper.make_node("Greater", ["x", "zero"], ["converted"]))
    elif case.before is not None:
        nodes.append(helper.make_node("Cast", ["x"], ["converted"], to=getattr(TensorProto, case.before)))
    source = "converted" if case.before else "x"
    results = [f"r{i}" for i in range(case.outputs)]
    inputs = [] if case.op in {"Constant", "Range", "ConstantOfShape"} else [source]
    nodes.append(helper.make_node(case.op, [*inputs, *operands], results, name="subject", **case.attributes))
    nodes += [helper.make_node("Cast", [r], [f"f{r}"], to=TensorProto.FLOAT) for r in results]
    outputs = [f"f{r}" for r in results]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, case.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10)


def _inputs(case: Case) -> NDArray[np.float32]:
    generator = np.random.default_rng(7)
    values = generator.standard_normal((SAMPLES, *case.shape)) * 2
    if case.before is not None and case.before != "bool":
        values = np.round(values * 2)
        values[values == 0] = 3
    return (np.abs(values) + 0.1 if case.positive else values).astype(np.float32)


def _expected(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> list[list[Array]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [[np.asarray(r) for r in session.run(None, {"x": sample})] for sample in inputs]


def _stacked(x: torch.Tensor) -> dict[str, batching.Value]:
    return {"x": batching.Value(x, batching.Layout.STACKED)}


def _got(model: onnx.ModelProto, inputs: NDArray[np.float32], merge: bool) -> list[list[Array]]:
    """Results of each sample, by a run on all samples at once."""
    results: list[list[Array]] = [[] for _ in inputs]
    x = torch.from_numpy(inputs)
    for output in list(model.graph.output):
        single = onnx.ModelProto()
        single.CopyFrom(model)
        del single.graph.output[:]
        single.graph.output.append(output)
        graph = TorchGraph(ir.from_proto(single))
        if not merge:  # hold the input as one that does not begin with a batch of one, which TorchGraph never does
            setattr(graph, "_initial", _stacked)  # noqa: B010 # mypy refuses a plain assignment to a method
        steps = graph.evaluate(x[:, 0] if merge else x)
        value = next(values[0] for node, values in steps if node.outputs[0].name == output.name)
        for i, kept in enumerate(results):
            constant = value.layout is batching.Layout.CONSTANT
            kept.append((value.data if constant else value.data[i]).reshape(value.sample_shape).numpy())
    return results


def check(case: Case, tolerance: float = 1e-5) -> None:
    """Compares a case with onnxruntime, sample by sample."""
    model, inputs = _model(case), _inputs(case)
    expected = _expected(model, inputs)
    ways = [_got(model, inputs, merge) for merge in ([True, False] if case.shape and case.shape[0] == 1 else [False])]
    for got in ways:
        for mine, theirs in zip(got, expected, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(
                    a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0)))
                )


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def draw(*shape: int, low: float | None = None) -> Array:
    values = np.random.default_rng(sum(shape)).standard_normal(shape)
    return (values if low is None else np.abs(values) + low).astype(np.float32)


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
    expected = _expected(model, inputs)
    for merge in [True, False] if shape[0] == 1 else [False]:
        for mine, theirs in zip(_got(model, inputs, merge), expected, strict=True):
            np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-6, atol=0)


def test_half_way_values_go_to_the_even_level() -> None:
    case = Case("QuantizeLinear", (1, 6), [np.float32(1), np.int8(0)])
    model = _model(case)
    x = np.tile(f32(0.5, 1.5, 2.5, -0.5, -1.5, 1000.0), (SAMPLES, 1, 1)).astype(np.float32)
    assert _got(model, x, merge=True)[0][0].tolist() == [[0, 2, 2, 0, -2, 127]]


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


def test_unsupported_operators_are_all_named() -> None:
    case = Case("BatchNormalization", (1, 3), [draw(3), draw(3), draw(3), draw(3)], {"training_mode": 1})
    model = _model(case)
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
    model = _model(case)
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["size"], to=TensorProto.INT64))
    model.graph.node.insert(1, helper.make_node("Squeeze", ["size"], ["flat"]))
    model.graph.node[2].input[1] = "flat"
    with pytest.raises(UnsupportedOperatorError, match=r"'subject' .*depend on the data"):
        TorchGraph(ir.from_proto(model)).run(torch.ones(2, 2))
