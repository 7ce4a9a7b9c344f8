import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.ir.batch_norm import fold_batch_norm
from codesign.ir.lowering import relative_difference
from codesign.ir.onnx_to_torch import TorchGraph

Array = NDArray[np.float32]


def _draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _constant(name: str, array: Array) -> ir.Value:
    return ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(array.shape),
    )


def _norm(name: str, source: ir.Value, channels: int, **attributes: float) -> tuple[ir.Node, list[ir.Value]]:
    seed = sum(map(ord, name))
    operands = [_constant(f"{name}.{i}", _draw(seed + i, channels)) for i in range(3)]
    operands.append(_constant(f"{name}.variance", np.abs(_draw(seed, channels)) + np.float32(0.1)))
    node = ir.node("BatchNormalization", [source, *operands], dict(attributes), name=name)
    node.outputs[0].name = f"{name}_out"
    return node, operands


def _model(x: ir.Value, nodes: list[ir.Node], constants: list[ir.Value]) -> ir.Model:
    for node in nodes:
        node.outputs[0].name = node.outputs[0].name or f"{node.name}_out"
    nodes[-1].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=constants, opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


def _input(*shape: int) -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))


def _check(model: ir.Model, shape: tuple[int, ...], folded: int) -> list[str]:
    images = torch.from_numpy(_draw(9, 4, *shape))
    output = model.graph.outputs[0].name
    before = TorchGraph(model, torch.float64).run(images.double())
    assert fold_batch_norm(model) == folded
    after = TorchGraph(model, torch.float64).run(images.double())
    assert relative_difference(after, before) < 1e-6
    assert model.graph.outputs[0].name == output
    assert fold_batch_norm(model) == 0
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("bias", [True, False])
def test_into_a_grouped_convolution(bias: bool) -> None:
    x = _input(1, 4, 5, 5)
    weight, shift = _constant("conv.weight", _draw(0, 6, 2, 3, 3)), _constant("conv.bias", _draw(1, 6))
    conv = ir.node("Conv", [x, weight, *([shift] if bias else [])], {"group": 2}, name="conv")
    norm, operands = _norm("bn", conv.outputs[0], 6, epsilon=0.01)
    model = _model(x, [conv, norm], [weight, *([shift] if bias else []), *operands])
    assert _check(model, (4, 5, 5), 1) == ["Conv"]
    assert [value.name for value in conv.inputs if value is not None] == [
        "x",
        "conv.weight",
        "conv.bias_1" if bias else "conv.bias",
    ]
    assert len(model.graph.initializers) == 2


@pytest.mark.parametrize(("trans", "beta"), [(0, 1.0), (1, 0.5)])
def test_into_a_dense_layer(trans: int, beta: float) -> None:
    x = _input(1, 3)
    weight, shift = _constant("w", _draw(0, *((5, 3) if trans else (3, 5)))), _constant("b", _draw(1, 1, 5))
    gemm = ir.node("Gemm", [x, weight, shift], {"transB": trans, "beta": beta, "alpha": 2.0}, name="fc")
    norm, operands = _norm("bn", gemm.outputs[0], 5)
    assert _check(_model(x, [gemm, norm], [weight, shift, *operands]), (3,), 1) == ["Gemm"]


def test_chains_are_folded_completely() -> None:
    x = _input(1, 2, 4)
    weight = _constant("w", _draw(0, 3, 2, 1))
    conv = ir.node("Conv", [x, weight], name="conv")
    first, a = _norm("first", conv.outputs[0], 3)
    second, b = _norm("second", first.outputs[0], 3)
    assert _check(_model(x, [conv, first, second], [weight, *a, *b]), (2, 4), 2) == ["Conv"]


def test_a_shared_weight_is_copied() -> None:
    x = _input(1, 2, 4)
    weight = _constant("w", _draw(0, 2, 2, 1))
    one = ir.node("Conv", [x, weight], name="one")
    norm, operands = _norm("bn", one.outputs[0], 2)
    two = ir.node("Conv", [norm.outputs[0], weight], name="two")
    model = _model(x, [one, norm, two], [weight, *operands])
    assert _check(model, (2, 4), 1) == ["Conv", "Conv"]
    assert [node.inputs[1].name for node in model.graph if node.inputs[1] is not None] == ["one.weight", "w"]


def test_a_result_that_others_read_stays() -> None:
    x = _input(1, 2, 4)
    weight = _constant("w", _draw(0, 2, 2, 1))
    conv = ir.node("Conv", [x, weight], name="conv")
    norm, operands = _norm("bn", conv.outputs[0], 2)
    add = ir.node("Add", [conv.outputs[0], norm.outputs[0]], name="add")
    model = _model(x, [conv, norm, add], [weight, *operands])
    assert _check(model, (2, 4), 0) == ["Conv", "BatchNormalization", "Add"]


def test_before_a_convolution_stays() -> None:
    x = _input(1, 2, 4)
    norm, operands = _norm("bn", x, 2)
    relu = ir.node("Relu", norm.outputs, name="relu")
    weight = _constant("w", _draw(0, 2, 2, 1))
    conv = ir.node("Conv", [relu.outputs[0], weight], name="conv")
    assert _check(_model(x, [norm, relu, conv], [weight, *operands]), (2, 4), 0)[0] == "BatchNormalization"


def test_factors_are_computed_in_double_precision() -> None:
    x = _input(1, 1, 1)
    weight = _constant("w", np.array([[[1.0]]], np.float32))
    conv = ir.node("Conv", [x, weight], name="conv")
    norm, operands = _norm("bn", conv.outputs[0], 1)
    for value, number in zip(operands, (3.0, 0.0, 0.0, 7.0), strict=True):
        value.const_value = ir.tensor(np.array([number], np.float32), name=value.name)
    model = _model(x, [conv, norm], [weight, *operands])
    fold_batch_norm(model)
    folded = model.graph.initializers["w"].const_value
    assert folded is not None
    epsilon = float(np.float32(1e-5))
    assert folded.numpy().item() == np.float32(3.0 / math.sqrt(7.0 + epsilon))


def test_a_negative_variance_is_refused() -> None:
    x = _input(1, 2, 4)
    weight = _constant("w", _draw(0, 2, 2, 1))
    conv = ir.node("Conv", [x, weight], name="conv")
    norm, operands = _norm("bn", conv.outputs[0], 2)
    operands[3].const_value = ir.tensor(np.array([1.0, -2.0], np.float32), name="bn.variance")
    with pytest.raises(InputError, match=r"'bn' .*variance \+ epsilon is -1\.99999 at its least"):
        fold_batch_norm(_model(x, [conv, norm], [weight, *operands]))
