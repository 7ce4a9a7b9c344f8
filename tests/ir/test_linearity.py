import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from codesign.ir.annotations import is_weighted
from codesign.ir.linearity import LOCALLY_CONSTANT, RULES, gauss_newton_obstacle, gauss_newton_obstacle_of_value
from codesign.ir.onnx_to_torch import TorchGraph

LINEAR = {
    "Relu": "y = Relu (h)",
    "LeakyRelu": "y = LeakyRelu <alpha = 0.2> (h)",
    "PRelu": "y = PRelu (h, vector)",
    "Clip": "y = Clip (h, low, high)",
    "Clip's bounds": "b = ReduceMax <keepdims = 0> (h)  y = Clip (x, low, b)",
    "PRelu's slope": "p = Flatten <axis = 0> (h)  y = PRelu (x, p)",
    "HardSigmoid": "y = HardSigmoid (h)",
    "Abs": "y = Abs (h)",
    "Neg": "y = Neg (h)",
    "Identity": "y = Identity (h)",
    "Dropout": "y = Dropout (h)",
    "Cast": "y = Cast <to = 1> (h)",
    "Add of two that depend": "r = Relu (h)  y = Add (h, r)",
    "Sub": "y = Sub (x, h)",
    "Sum": "y = Sum (h, h, x)",
    "Max": "n = Neg (h)  y = Max (h, n)",
    "Min": "y = Min (h, x)",
    "Concat": "y = Concat <axis = 1> (h, x)",
    "Mul by a constant": "y = Mul (vector, h)",
    "Mul by an activation before it": "e = Exp (x)  y = Mul (e, h)",
    "Div by an activation before it": "e = Exp (x)  y = Div (h, e)",
    "MatMul": "y = MatMul (h, square)",
    "MatMul by another": "r = Reshape (h, rank3)  c = Reshape (x, column)  z = MatMul (r, c)  y = Flatten (z)",
    "Gemm": "y = Gemm (h, square, vector)",
    "Gemm's bias": "y = Gemm (x, square, h)",
    "BatchNormalization": "y = BatchNormalization (h, vector, vector, vector, ones)",
    "MaxPool": "r = Reshape (h, rank3)  z = MaxPool <kernel_shape = [2], pads = [0, 1]> (r)  y = Reshape (z, flat)",
    "AveragePool": "r = Reshape (h, rank3)  z = AveragePool <kernel_shape = [2]> (r)  y = Flatten (z)",
    "GlobalAveragePool": "r = Reshape (h, channels)  z = GlobalAveragePool (r)  y = Flatten (z)",
    "GlobalMaxPool": "r = Reshape (h, channels)  z = GlobalMaxPool (r)  y = Flatten (z)",
    "Conv": "r = Reshape (h, rank3)  z = Conv <kernel_shape = [2]> (r, kernel)  y = Flatten (z)",
    "ReduceMean": "y = ReduceMean (h, axis1)",
    "ReduceSum": "y = ReduceSum (h, axis1)",
    "ReduceMax": "y = ReduceMax (h, axis1)",
    "ReduceMin": "y = ReduceMin (h, axis1)",
    "ReduceL1": "y = ReduceL1 (h, axis1)",
    "Pad": "y = Pad (h, pads)",
    "Slice": "y = Slice (h, axis1, three, axis1)",
    "Gather": "y = Gather <axis = 1> (h, axis1)",
    "Transpose": "r = Reshape (h, rank3)  t = Transpose <perm = [0, 2, 1]> (r)  y = Flatten (t)",
    "Squeeze and Unsqueeze": "u = Unsqueeze (h, axis1)  y = Squeeze (u, axis1)",
    "Expand": "y = Expand (h, wide)",
    "Tile": "y = Tile (h, twice)",
    "Split": "a, b = Split <axis = 1, num_outputs = 2> (h)  y = Sub (a, b)",
    "Where": "c = Greater (x, zero)  y = Where (c, h, x)",
    "Einsum": 'y = Einsum <equation = "ij,jk->ik"> (h, square)',
    "GatherElements": "y = GatherElements <axis = 1> (h, columns)",
    "GatherND": "z = GatherND (h, places)  y = Unsqueeze (z, axis0)",
    "CastLike": "y = CastLike (h, x)",
    "CastLike's type does not carry values": "m = CastLike (x, h)  s = Mul (m, m)  y = Add (s, h)",
    "Attention in its values": "a = Reshape (x, heads)  v = Reshape (h, heads)  z = Attention (a, a, v)  "
    "y = Flatten (z)",
    "Where chosen by itself": "c = Greater (h, zero)  n = Neg (h)  y = Where (c, h, n)",
    "Where chosen by a comparison of it": "c = LessOrEqual (zero, h)  y = Where (c, x, h)",
    "Cast to integers and back": "i = Cast <to = 7> (h)  f = Cast <to = 1> (i)  p = Mul (f, f)  y = Add (p, h)",
    "a product with its sign": "s = Sign (h)  y = Mul (s, h)",
    "a product with it rounded": "a = Round (h)  b = Floor (h)  c = Ceil (h)  m = Mul (a, b)  n = Mul (m, c)  "
    "y = Mul (n, h)",
    "Shape does not carry values": "s = Shape (h)  r = Reshape (x, s)  m = Mul (r, r)  y = Add (m, h)",
    "Trilu": "r = Reshape (h, channels)  z = Trilu (r)  y = Flatten (z)",
    "Mean": "y = Mean (h, x)",
    "ConvTranspose": "r = Reshape (h, rank3)  z = ConvTranspose <kernel_shape = [2]> (r, up)  y = Flatten (z)",
    "CumSum": "y = CumSum (h, one)",
    "DepthToSpace": "r = Reshape (h, image)  z = DepthToSpace <blocksize = 2> (r)  y = Flatten (z)",
    "SpaceToDepth": "r = Reshape (h, square_image)  z = SpaceToDepth <blocksize = 2> (r)  y = Flatten (z)",
}
CURVED = {
    "Mul": "y = Mul (h, h)",
    "Mul of two that depend": "r = Relu (h)  y = Mul (h, r)",
    "Div": "e = Exp (x)  y = Div (e, h)",
    "MatMul": "r = Reshape (h, rank3)  c = Reshape (h, column)  z = MatMul (c, r)  y = Flatten (z)",
    "Softmax": "y = Softmax (h)",
    "Gelu": "y = Gelu (h)",
    "Sigmoid": "y = Sigmoid (h)",
    "Tanh": "y = Tanh (h)",
    "Erf": "y = Erf (h)",
    "HardSwish": "y = HardSwish (h)",
    "Pow": "y = Pow (h, two)",
    "LayerNormalization": "y = LayerNormalization (h, vector)",
    "RMSNormalization": "y = RMSNormalization (h, vector)",
    "ReduceL2": "y = ReduceL2 (h, axis1)",
    "ReduceSumSquare": "y = ReduceSumSquare (h, axis1)",
    "ReduceProd": "y = ReduceProd (h, axis1)",
    "PRelu of two that depend": "r = Flatten <axis = 0> (h)  n = Neg (r)  y = PRelu (h, n)",
    "Attention in its queries": "a = Reshape (h, heads)  v = Reshape (x, heads)  z = Attention (a, v, v)  "
    "y = Flatten (z)",
    "gate": "s = Sigmoid (x)  g = Mul (s, h)  y = Mul (g, h)",
    "far behind": "a = Relu (h)  b = Add (a, x)  c = Mul (b, vector)  y = Tanh (c)",
    "one branch of two": "a = Relu (h)  b = Softplus (h)  y = Add (a, b)",
}
NOT_RUN = {"ConvTranspose", "CumSum", "Mean"}
"""Operators that the interpreter does not know."""
MODEL = """<ir_version: 10, opset_import: ["": 23]>
net (float[1, 4] x) => (float[1, N] y)
  <float[4, 4] w = {{{w}}}, float[4, 4] square = {{{w}}}, float[4] vector = {{0.5, 1.5, 0.7, 2}},
   float[4] ones = {{1, 1, 1, 1}}, float low = {{-1}}, float high = {{2}}, float zero = {{0}}, float two = {{2}},
   float one_scale = {{1}},
   float[2, 1, 2] kernel = {{1, 2, 3, 4}}, float[1, 1, 2] up = {{1, 2}}, int64 one = {{1}}, int64[1] axis1 = {{1}},
   int64[1] three = {{3}}, int64[3] rank3 = {{1, 1, 4}}, int64[3] column = {{1, 4, 1}}, int64[2] flat = {{1, 4}},
   int64[3] channels = {{1, 2, 2}}, int64[4] pads = {{0, 1, 0, 1}}, int64[3] wide = {{2, 1, 4}},
   int64[1] axis0 = {{0}}, int64[1, 2] columns = {{1, 3}}, int64[2, 2] places = {{0, 1, 0, 3}},
   int64[4] heads = {{1, 1, 2, 2}},
   int64[2] twice = {{1, 2}}, int64[4] image = {{1, 4, 1, 1}}, int64[4] square_image = {{1, 1, 2, 2}}>
{{ h = MatMul (x, w)  {body} }}"""


def _model(body: str) -> ir.Model:
    values = torch.randn(16, generator=torch.Generator().manual_seed(0)).tolist()
    text = MODEL.format(w=", ".join(f"{v:.6f}" for v in values), body=body)
    model = ir.from_proto(onnx.parser.parse_model(text))
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
    return model


def _obstacle(model: ir.Model) -> str | None:
    return gauss_newton_obstacle(next(node for node in model.graph if is_weighted(node)))


def _second_derivative(model: ir.Model) -> float:
    """Largest second derivative of the outputs in the weight, along random directions."""
    graph = TorchGraph(model, torch.float64)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    weight = graph.constants["w"].clone().requires_grad_()
    outputs = graph.run(x, {"w": weight})
    mixed = (outputs * torch.randn(outputs.shape, dtype=torch.float64, generator=generator)).sum()
    (gradient,) = torch.autograd.grad(mixed, weight, create_graph=True)
    if not gradient.requires_grad:
        return 0.0
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    (product,) = torch.autograd.grad(gradient, weight, direction, allow_unused=True)
    assert product is None or isinstance(product, Tensor)
    return 0.0 if product is None else float(product.abs().max())


@pytest.mark.parametrize("name", LINEAR)
def test_piecewise_linear_paths_are_exact(name: str) -> None:
    assert _obstacle(_model(LINEAR[name])) is None


@pytest.mark.parametrize("name", sorted(LINEAR.keys() - NOT_RUN))
def test_their_second_derivative_vanishes(name: str) -> None:
    assert _second_derivative(_model(LINEAR[name])) < 1e-12


@pytest.mark.parametrize("name", CURVED)
def test_curved_paths_are_not_exact(name: str) -> None:
    model = _model(CURVED[name])
    obstacle = _obstacle(model)
    assert obstacle is not None and "not piecewise linear" in obstacle
    assert _second_derivative(model) > 1e-3


def test_every_rule_is_tried_and_names_an_operator_of_onnx() -> None:
    tried = {node.op_type for body in LINEAR.values() for node in _model(body).graph}
    assert set(RULES) <= tried
    assert all(onnx.defs.has(op_type) for op_type in {*RULES, *LOCALLY_CONSTANT})
    assert not set(RULES) & LOCALLY_CONSTANT


def test_the_message_names_the_first_obstacle() -> None:
    assert _obstacle(_model("a = Tanh (h)  y = Sigmoid (a)")) == "Tanh 'n1' after it is not piecewise linear in it"


def test_only_what_comes_after_matters() -> None:
    model = _model("t = Tanh (h)  y = MatMul (t, square)")
    first, second = (node for node in model.graph if is_weighted(node))
    assert gauss_newton_obstacle(first) is not None
    assert gauss_newton_obstacle(second) is None


def test_a_shared_weight_is_not_exact() -> None:
    model = _model("y = MatMul (h, w)")
    assert [gauss_newton_obstacle(node) for node in model.graph] == ["its weight 'w' is used 2 times"] * 2


def test_a_weight_that_is_also_read_as_a_value_is_not_exact() -> None:
    model = _model("z = ReduceSum (w, axis1)  f = Reshape (z, flat)  y = Mul (h, f)")
    assert _obstacle(model) == "its weight 'w' is used 2 times"


@pytest.mark.parametrize(
    "body",
    [
        "y, mask = Dropout (h)  c = Cast <to = 1> (mask)",
        "r = Reshape (h, rank3)  z, i = MaxPool <kernel_shape = [2]> (r)  f = Cast <to = 1> (i)  y = Flatten (f)",
        "y = BatchNormalization <training_mode = 1> (h, vector, vector, vector, ones)",
        "v = Flatten <axis = 0> (h)  y = BatchNormalization (x, vector, vector, vector, v)",
        "q = QuantizeLinear (h, one_scale)  y = DequantizeLinear (q, one_scale)",
    ],
)
def test_other_results_types_and_operands_are_not_exact(body: str) -> None:
    assert _obstacle(_model(body)) is not None


def test_an_operator_of_another_domain_is_not_exact() -> None:
    model = _model("y = Relu (h)")
    list(model.graph)[1].domain = "com.example"
    assert _obstacle(model) is not None


def test_a_node_with_a_graph_of_its_own_is_not_exact() -> None:
    branch = "g () => (float[1, 4] z) { z = Identity (h) }"
    condition = "k = ReduceMax <keepdims = 0> (x)  b = Greater (k, zero)"
    model = _model(f"{condition}  y = If (b) <then_branch = {branch}, else_branch = {branch}>")
    obstacle = _obstacle(model)
    assert obstacle is not None and "graph of its own" in obstacle


def test_log_softmax_at_the_end_adds_no_curvature_to_a_loss_that_ignores_shifts() -> None:
    model = _model("z = MatMul (h, square)  y = LogSoftmax (z)")
    weighted = next(node for node in model.graph if is_weighted(node))
    assert gauss_newton_obstacle(weighted, shift_invariant_loss=True) is None
    assert gauss_newton_obstacle(weighted) is not None


@pytest.mark.parametrize(
    "body", ["z = LogSoftmax (h)  y = Relu (z)", "y = LogSoftmax <axis = 0> (h)", "y = Softmax (h)", "y = Tanh (h)"]
)
def test_other_ends_are_curved_for_every_loss(body: str) -> None:
    weighted = next(node for node in _model(body).graph if is_weighted(node))
    assert gauss_newton_obstacle(weighted, shift_invariant_loss=True) is not None


def _value(model: ir.Model, name: str) -> ir.Value:
    found = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    return next(value for value in found if value.name == name)


@pytest.mark.parametrize(
    ("body", "linear"),
    [
        ("y = Relu (h)", {"x", "h"}),
        ("t = Tanh (x)  y = Add (t, h)", {"h", "t"}),
        ("r = Relu (x)  y = Mul (r, h)", {"h", "r"}),  # both factors depend on x, one alone on each of the others
        ("a = Relu (h)  b = Neg (a)  c = Mul (a, b)  y = MatMul (c, square)", {"b", "c"}),
    ],
)
def test_a_value_is_linear_where_all_its_readers_are(body: str, linear: set[str]) -> None:
    model = _model(body)
    names = {"x", *(output.name or "" for node in model.graph for output in node.outputs)} - {"y"}
    assert {name for name in names if gauss_newton_obstacle_of_value(_value(model, name)) is None} == linear
