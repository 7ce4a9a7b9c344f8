"""Every rule, checked by computing the pieces of all devices, one after the other, and putting them together."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.partition.executor import local_operator
from codesign.partition.graph_network import graph_values, network_of
from codesign.partition.local_operator import LocalOperator
from codesign.partition.mesh import Link, parse_mesh
from codesign.partition.placement import PartialSum
from codesign.partition.sharding_rules import SHARDING_RULES
from codesign.partition.strategies import strategies_of

BATCH = 4
Attribute = int | float | str | list[int]
Case = tuple[str, tuple[int, ...], list[tuple[int, ...] | list[int]], dict[str, Attribute]]
"""Operator, first operand's shape, shapes of real constants or contents of whole ones, attributes."""

CASES: dict[str, Case] = {
    "relu": ("Relu", (1, 4, 6), [], {}),
    "add a vector": ("Add", (1, 4, 6), [(6,)], {}),
    "multiply by rows": ("Mul", (4, 5, 6), [(5, 1)], {}),
    "convolution": ("Conv", (1, 4, 9, 7), [(6, 4, 3, 3), (6,)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    "dilated": ("Conv", (1, 4, 9, 9), [(5, 4, 3, 3)], {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "in groups": ("Conv", (1, 6, 8, 8), [(9, 2, 3, 3), (9,)], {"group": 3, "auto_pad": "SAME_UPPER"}),
    "depthwise": ("Conv", (1, 6, 8, 8), [(6, 1, 5, 5)], {"group": 6, "pads": [2, 2, 2, 2]}),
    "one-dimensional": ("Conv", (1, 4, 16), [(6, 4, 4)], {"strides": [2]}),
    "gemm": ("Gemm", (1, 8), [(6, 8), (6,)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "gemm of rows": ("Gemm", (5, 8), [(8, 6), (5, 6)], {}),
    "matrix product": ("MatMul", (1, 5, 8), [(8, 6)], {}),
    "product of heads": ("MatMul", (3, 5, 8), [(3, 8, 4)], {}),
    "max pool": ("MaxPool", (1, 4, 9, 9), [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "average pool": ("AveragePool", (1, 4, 8, 8), [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "with padding": (
        "AveragePool", (1, 4, 8, 8), [], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "cut short": ("AveragePool", (1, 4, 8, 8), [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "global average": ("GlobalAveragePool", (1, 4, 7, 6), [], {}),
    "global maximum": ("GlobalMaxPool", (1, 4, 7, 6), [], {}),
    "mean": ("ReduceMean", (1, 5, 6), [[1]], {"keepdims": 0}),
    "sum": ("ReduceSum", (1, 5, 6), [[2]], {}),
    "maximum": ("ReduceMax", (1, 5, 6), [[1]], {"keepdims": 0}),
    "layer norm": ("LayerNormalization", (1, 5, 8), [(8,), (8,)], {"axis": -1}),
    "batch norm": ("BatchNormalization", (1, 6, 4, 4), [(6,), (6,), (6,), (6,)], {}),
    "instance norm": ("InstanceNormalization", (1, 6, 4, 4), [(6,), (6,)], {}),
    "softmax": ("Softmax", (1, 5, 6), [], {"axis": 1}),
    "concat": ("Concat", (1, 4, 6), [(1, 3, 6)], {"axis": 1}),
    "flatten": ("Flatten", (1, 4, 3, 2), [], {"axis": 1}),
    "merge axes": ("Reshape", (1, 4, 3, 8), [[1, 12, 8]], {}),
    "split an axis": ("Reshape", (1, 5, 12), [[1, 5, 4, 3]], {}),
    "heads before samples": ("Reshape", (1, 8, 6), [[4, 2, 6]], {}),
    "transpose": ("Transpose", (1, 5, 6), [], {"perm": [2, 0, 1]}),
    "slice": ("Slice", (1, 6, 8), [[1], [5], [1]], {}),
    "pad": ("Pad", (1, 6, 8), [[0, 1, 0, 0, 2, 0]], {}),
    "gather": ("Gather", (1, 6, 8), [[3, 1]], {"axis": 1}),
    "expand": ("Expand", (1, 1, 6), [[1, 5, 6]], {}),
    "einsum": ("Einsum", (1, 5, 8), [(8, 6)], {"equation": "bij,jk->bik"}),
    "attention": ("Attention", (1, 4, 5, 8), [(1, 4, 6, 8), (1, 4, 6, 8)], {}),
    "attention, shared keys": ("Attention", (1, 4, 5, 8), [(1, 2, 6, 8), (1, 2, 6, 8)], {}),
    "merged heads": ("Attention", (1, 5, 16), [(1, 6, 16), (1, 6, 16)], {"q_num_heads": 4, "kv_num_heads": 4}),
    "causal attention": ("Attention", (1, 4, 5, 8), [(1, 4, 5, 8), (1, 4, 5, 8)], {"is_causal": 1}),
    "squeeze": ("Squeeze", (1, 1, 6, 4), [[1]], {}),
    "unsqueeze": ("Unsqueeze", (1, 6, 4), [[1]], {}),
}  # fmt: skip


def program_of(case: Case) -> Program:
    kind, shape, others, attributes = case
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(
            np.asarray(item, np.int64) if isinstance(item, list) else rng.uniform(0.5, 1.5, item).astype(np.float32),
            f"c{i}",
        )
        for i, item in enumerate(others)
    ]
    nodes = [helper.make_node(kind, ["x", *(c.name for c in constants)], ["y"], "node", **attributes)]  # type: ignore[arg-type]  # attributes have any name
    source = "x"
    if shape[0] != 1:  # one sample in front, which the graph takes off
        source, shape = "samples", (1, *shape)
        constants.append(numpy_helper.from_array(np.asarray([0], np.int64), "axis"))
        nodes.insert(0, helper.make_node("Squeeze", [source, "axis"], ["x"], "squeeze"))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]))
    return Program(ir.serde.deserialize_model(model))


def pieces_together(local: list[LocalOperator], operands: list[torch.Tensor]) -> torch.Tensor:
    op, item = local[0].op, local[0].item
    held = item.result_layout(op)
    total = torch.zeros(op.results[0].shape, dtype=torch.float64)
    times = torch.zeros_like(total)
    is_sum = any(isinstance(run.holding.value, PartialSum) for run in held.runs)
    for device, own in enumerate(local):
        inputs = []
        for i, whole in enumerate(operands):
            piece, layout = whole, item.operand_layout(op, i)
            for axis in layout.axes:
                first, end = layout.interval(axis, whole.shape[axis], device)
                for halo in own.halos if i == 0 else ():
                    if halo.axis == axis:
                        first, end = halo.want[halo.index]
                piece = piece.narrow(axis, first, end - first)
            inputs.append(piece)
        (result,) = own.compute(inputs)
        where = tuple(slice(*held.interval(axis, size, device)) for axis, size in enumerate(total.shape))
        assert result.shape == total[where].shape
        total[where] += result
        times[where] += 1
    parts = 1
    for run in held.runs:
        parts *= run.parts if isinstance(run.holding.value, PartialSum) else 1
    assert is_sum == (parts > 1)
    return total * parts / times


@pytest.mark.parametrize("name", CASES)
def test_pieces_of_every_strategy_make_the_whole(name: str) -> None:
    program = program_of(CASES[name])
    network = network_of(program, BATCH, name)
    graph = TorchGraph(program.graph, torch.float64)
    values = graph_values(graph, program)
    x = torch.randn(BATCH, *program.input_shape[1:], dtype=torch.float64)
    op, node = network.operators[-2], list(program.graph.graph)[-1]
    expected = graph.run(x)
    x = x.reshape(op.operands[0].shape)
    operands = [x if operand.role == "activation" else graph.constants[operand.value] for operand in op.operands]
    mesh = parse_mesh("a=2,b=2", Link(0.0, 1.0))
    found = strategies_of(op, mesh, idle=False)
    for item in found:
        local = [local_operator(op, node, item, device, torch.float64, values, 0) for device in range(mesh.devices)]
        torch.testing.assert_close(pieces_together(local, operands), expected, rtol=1e-12, atol=1e-12)
    assert {loop.name for loop in op.loops if loop.size >= 4 and not loop.aligned} <= {
        loop for item in found for loop in item.loops
    }


def test_every_rule_has_a_case() -> None:
    tried = {SHARDING_RULES[case[0]] for case in CASES.values()}
    assert set(SHARDING_RULES.values()) == tried
