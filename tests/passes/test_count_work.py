import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from codesign.architecture.resnet_cifar import resnet20
from codesign.architecture.squeezenext import squeezenext_digits
from codesign.errors import InputError, PassError, UnsupportedOperatorError
from codesign.ir.annotation import read
from codesign.ir.annotations import Work
from codesign.ir.lowering import lower_module
from codesign.ir.multiply_accumulates import MAC_RULES
from codesign.ir.operators import SUPPORTED_OPERATORS
from codesign.ir.program import Program
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.passes.count_work import CountWorkPass, work_of
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder, small_program

LAYERS = Path(__file__).parents[2] / ".." / "shared" / "reference" / "network_layers.csv"
needs_layers = pytest.mark.skipif(not LAYERS.exists(), reason="../shared/reference/network_layers.csv is absent")

Attributes = Mapping[str, int | float | str | Sequence[int]]


def _rows(network: str) -> list[dict[str, int]]:
    with LAYERS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.pop("net") == network]
    return [{key: int(value) for key, value in row.items() if key != "name"} for row in rows]


def _macs(row: Mapping[str, int]) -> int:
    return row["OH"] * row["OW"] * row["K"] * row["C"] // row["groups"] * row["R"] * row["S"]


def _total(program: Program) -> int:
    PassManager([CountWorkPass()]).run(program, PassContext())
    return sum(read(node, Work).macs for node in program.graph.graph)


def _single(op_type: str, input_shape: Sequence[int], weights: Sequence[Sequence[int]], attributes: Attributes) -> Work:
    build = GraphBuilder(input_shape)
    operands = [build.weight(f"w{index}", *shape) for index, shape in enumerate(weights)]
    program = build.finish(build.add(op_type, "node", [build.input, *operands], attributes))
    return work_of(program.graph.graph[0])


def test_it_conforms() -> None:
    check_pass(CountWorkPass, small_program, PassContext())
    check_pass(CountWorkPass, lambda: small_program(batch_norm=True), PassContext())


def test_every_operator_that_runs_can_be_counted() -> None:
    assert SUPPORTED_OPERATORS - MAC_RULES.keys() == set()


@needs_layers
@pytest.mark.parametrize(
    ("network", "total"),
    [("SqNxt-23", 278.0), ("SqNxt-23v5", 224.9), ("SqueezeNet_v1.1", 387.7), ("SqueezeNet_v1.0", 832.7)],
)
def test_published_layers_one_by_one(network: str, total: float) -> None:
    sum_of_macs = 0
    for row in _rows(network):
        weight = (row["K"], row["C"] // row["groups"], row["R"], row["S"])
        pads = (row["ph"], row["pw"], row["ph"], row["pw"])
        attributes: Attributes = {"strides": (row["sh"], row["sw"]), "pads": pads, "group": row["groups"]}
        work = _single("Conv", (1, row["C"], row["H"], row["W"]), [weight], attributes)
        assert work.macs == _macs(row)
        assert work.weight_elements == math.prod(weight)
        assert work.output_elements == row["K"] * row["OH"] * row["OW"]
        sum_of_macs += work.macs
    assert round(sum_of_macs / 1e6, 1) == total


@needs_layers
def test_resnet20_layer_by_layer() -> None:
    program = lower_module(resnet20(), (1, 3, 32, 32))
    assert _total(program) == 40_551_040
    counted = [read(node, Work) for node in program.weighted_nodes]
    rows = _rows("ResNet20_CIFAR")
    assert [work.macs for work in counted] == [_macs(row) for row in rows]
    assert [work.weight_elements for work in counted] == [r["K"] * r["C"] * r["R"] * r["S"] for r in rows]
    assert sum(work.macs for work in counted) == 40_551_040


class _Encoder(nn.Module):
    """Attention written as batched products of activations, as an exported encoder holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).reshape(x.shape[0], 10, 3, 2, 8).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        x = self.norm(x + self.mix((weights @ v).transpose(1, 2).reshape(x.shape[0], 10, 16)))
        out: torch.Tensor = self.head(x.mean(1))
        return out


class _Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 8, (3, 1), padding=(2, 0), dilation=2, groups=8),
            nn.Conv2d(8, 12, 1, bias=False),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(7),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (resnet20(), (1, 3, 32, 32)),
        (squeezenext_digits(), (1, 1, 8, 8)),
        (_Encoder(), (1, 10, 16)),
        (_Convolutions(), (1, 3, 20, 16)),
    ],
)
def test_totals_equal_those_of_torch(module: nn.Module, shape: tuple[int, ...]) -> None:
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(shape))
    assert _total(lower_module(module, shape)) * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    ("op_type", "input_shape", "weights", "attributes", "macs"),
    [
        ("Conv", (1, 4, 10), [(6, 4, 3), (6,)], {}, 8 * 6 * 4 * 3),
        ("Conv", (1, 4, 5, 5, 5), [(2, 4, 3, 3, 3)], {}, 27 * 2 * 4 * 27),
        ("ConvTranspose", (1, 4, 5, 5), [(4, 3, 2, 2)], {"strides": (2, 2)}, 100 * 3 * 4),
        ("Gemm", (2, 3), [(3, 5), (5,)], {}, 2 * 3 * 5),
        ("Gemm", (3, 2), [(5, 3)], {"transA": 1, "transB": 1}, 2 * 3 * 5),
        ("MatMul", (3,), [(3,)], {}, 3),
        ("MatMul", (3,), [(3, 4)], {}, 12),
        ("MatMul", (6, 2, 3), [(3,)], {}, 36),
        ("MatMul", (2, 1, 4, 3), [(5, 3, 7)], {}, 2 * 5 * 4 * 3 * 7),
        ("Einsum", (2, 3, 4), [(4, 5)], {"equation": "bik, kj -> bij"}, 2 * 3 * 4 * 5),
        ("Einsum", (2, 3, 4), [(1, 4, 5)], {"equation": "...ik,...kj->...ij"}, 2 * 3 * 4 * 5),
        ("Einsum", (2, 3), [(2, 3)], {"equation": "ij,ij->ij"}, 0),
        ("Einsum", (2, 3), [], {"equation": "ij->ji"}, 0),
        ("AveragePool", (1, 4, 8, 8), [], {"kernel_shape": (2, 2), "strides": (2, 2)}, 0),
        ("BatchNormalization", (1, 4, 8, 8), [(4,), (4,), (4,), (4,)], {}, 0),
        ("Softmax", (1, 4), [], {}, 0),
    ],
)
def test_multiply_accumulates(
    op_type: str, input_shape: Sequence[int], weights: Sequence[Sequence[int]], attributes: Attributes, macs: int
) -> None:
    assert _single(op_type, input_shape, weights, attributes).macs == macs


@given(
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.tuples(*[st.integers(0, 2)] * 4),
)
@settings(max_examples=25, deadline=None)
def test_a_convolution_counts_every_product(
    sizes: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...]
) -> None:
    group, channels_in, channels_out = sizes
    weight = (group * channels_out, channels_in, *kernel)
    work = _single("Conv", (1, group * channels_in, 6, 7), [weight], {"group": group, "strides": strides, "pads": pads})
    products = 0
    for size, width, stride, low, high in zip((6, 7), kernel, strides, pads[:2], pads[2:], strict=True):
        positions = len(range(0, size + low + high - width + 1, stride))
        products = (products or group * channels_out * channels_in) * positions * width
    assert work.macs == products


def _attention(heads: int, kv_heads: int, flat: bool) -> int:
    query = (1, 5, heads * 8) if flat else (1, heads, 5, 8)
    build = GraphBuilder(query)
    keys = [(1, 7, kv_heads * 8), (1, 7, kv_heads * 6)] if flat else [(1, kv_heads, 7, 8), (1, kv_heads, 7, 6)]
    operands = [build.input, *(build.weight(name, *shape) for name, shape in zip("kv", keys, strict=True))]
    attributes = {"q_num_heads": heads, "kv_num_heads": kv_heads} if flat else None
    result = build.add("Attention", "attention", operands, attributes)
    result.shape, result.type = ir.Shape((1,)), ir.TensorType(ir.DataType.FLOAT)
    return work_of(build.finish(result, shapes=False).graph.graph[0]).macs


def test_attention_counts_both_products() -> None:
    expected = 4 * 5 * 7 * (8 + 6)
    assert _attention(4, 4, flat=False) == _attention(4, 2, flat=False) == expected
    assert _attention(4, 4, flat=True) == _attention(4, 2, flat=True) == expected


def test_elements_and_bytes_follow_types() -> None:
    build = GraphBuilder((1, 6))
    scale = build.constant("scale", np.ones(5, np.float32))
    bits = np.arange(30, dtype=np.int8).reshape(6, 5) % 7
    packed = build.constant("packed", bits)
    packed.const_value = ir.tensor(bits, dtype=ir.DataType.INT4, name="packed")
    packed.type = ir.TensorType(ir.DataType.INT4)
    weight = build.add("DequantizeLinear", "dq", [packed, scale], {"axis": 1})
    product = build.add("MatMul", "dense", [build.input, weight])
    program = build.finish(build.add("Mul", "square", [product, product]))
    dequantize, dense, square = (work_of(node) for node in program.graph.graph)
    assert dequantize.weight_elements == 30
    assert dequantize.weight_bytes == 15 + 20  # two 4-bit elements in a byte, and the scales
    assert (dequantize.input_elements, dequantize.output_bytes) == (0, 120)
    assert (dense.input_elements, dense.input_bytes, dense.weight_bytes) == (36, 144, 0)
    assert (square.input_elements, square.output_elements) == (5, 5)  # read once


def test_absent_results_and_shape_operands_are_counted_by_what_they_are() -> None:
    build = GraphBuilder((1, 6))
    shape = build.constant("shape", np.array([2, 3], np.int64))
    program = build.finish(build.add("Reshape", "view", [build.input, shape]))
    work = work_of(program.graph.graph[0])
    assert (work.weight_elements, work.weight_bytes, work.input_elements, work.output_elements) == (0, 16, 6, 6)


def test_all_unknown_operators_are_listed_at_once() -> None:
    build = GraphBuilder((1, 3))
    x = build.add("Bernoulli", "coin", [build.input])
    x = build.add("Gelu", "fused", [x], domain="com.microsoft")
    x = build.add("Bernoulli", "dice", [x])
    program = build.finish(build.add("Relu", "relu", [x]), shapes=False)
    with pytest.raises(UnsupportedOperatorError) as caught:
        CountWorkPass().run(program, PassContext())
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("count-work does not know the work of 2 operators")
    assert lines[1:] == ["  Bernoulli: 'coin', 'dice'", "  com.microsoft.Gelu: 'fused'"]


def test_open_shapes_are_refused_with_the_cure() -> None:
    build = GraphBuilder((1, 3))
    program = build.finish(build.add("Relu", "relu", [build.input]), shapes=False)
    with pytest.raises(PassError, match=r"'relu' \(Relu\): the shape of 'relu_out' is not known; run infer-shapes"):
        CountWorkPass().run(program, PassContext())


def test_a_product_of_three_is_refused() -> None:
    with pytest.raises(InputError, match="depends on the order of evaluation"):
        _single("Einsum", (2, 3), [(3, 4), (4, 5)], {"equation": "ij,jk,kl->il"})
