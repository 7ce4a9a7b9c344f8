from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from codesign.ir.program import Program
from codesign.plan.liveness import fusion_roots, live_elements

Make = Callable[..., Program]


def _conv(source: str, target: str) -> onnx.NodeProto:
    return make_node("Conv", [source, "w"], [target], f"conv_{target}", pads=[1, 1, 1, 1])


def _roots(make_program: Make, nodes: list[onnx.NodeProto]) -> dict[str, str]:
    return dict(fusion_roots(make_program(nodes, {"w": (4, 4, 3, 3)}, (1, 4, 8, 8)).graph.graph))


def test_an_activation_function_joins_the_node_before_it(make_program: Make) -> None:
    nodes = [_conv("x", "a"), make_node("Relu", ["a"], ["b"], "relu"), make_node("Sigmoid", ["b"], ["y"], "sigmoid")]
    assert _roots(make_program, nodes) == {"relu": "conv_a"}


def test_it_does_not_where_something_else_reads_the_node(make_program: Make) -> None:
    nodes = [_conv("x", "a"), make_node("Relu", ["a"], ["b"], "relu"), make_node("Mul", ["a", "b"], ["y"], "mul")]
    assert _roots(make_program, nodes) == {}


def test_a_residual_joins_with_activations_on_both_sides(make_program: Make) -> None:
    nodes = [
        _conv("x", "a"),
        make_node("Relu", ["a"], ["b"], "relu_1"),
        make_node("Add", ["x", "b"], ["c"], "add"),
        make_node("Relu", ["c"], ["y"], "relu_2"),
    ]
    assert _roots(make_program, nodes) == {"relu_1": "conv_a", "add": "conv_a", "relu_2": "conv_a"}


def test_a_residual_joins_the_last_of_two_convolutions(make_program: Make) -> None:
    nodes = [_conv("x", "a"), _conv("x", "b"), make_node("Add", ["a", "b"], ["y"], "add")]
    assert _roots(make_program, nodes) == {"add": "conv_b"}


def test_a_kernel_adds_one_residual_only(make_program: Make) -> None:
    nodes = [
        _conv("x", "a"),
        make_node("Add", ["x", "a"], ["b"], "add_1"),
        make_node("Add", ["x", "b"], ["y"], "add_2"),
    ]
    assert _roots(make_program, nodes) == {"add_1": "conv_a"}


def test_an_addition_by_itself_takes_its_activation(make_program: Make) -> None:
    nodes = [
        make_node("MaxPool", ["x"], ["p"], "pool", kernel_shape=[1, 1]),
        make_node("Add", ["x", "p"], ["a"], "add"),
        make_node("Relu", ["a"], ["y"], "relu"),
    ]
    assert _roots(make_program, nodes) == {"relu": "add"}


def test_a_block_by_hand(make_program: Make) -> None:
    """While a residual block runs, its input stays; the merged nodes write where the second convolution writes."""
    nodes = [
        _conv("x", "a"),
        make_node("Relu", ["a"], ["b"], "relu_1"),
        _conv("b", "c"),
        make_node("Add", ["c", "x"], ["d"], "add"),
        make_node("Relu", ["d"], ["e"], "relu_2"),
        make_node("GlobalAveragePool", ["e"], ["f"], "pool"),
        make_node("Flatten", ["f"], ["y"], "flatten"),
    ]
    graph = make_program(nodes, {"w": (4, 4, 3, 3)}, (1, 4, 8, 8)).graph.graph
    image, pooled = 4 * 8 * 8, 4
    assert live_elements(graph, fusion_roots(graph)) == (
        2 * image,
        2 * image,
        3 * image,
        2 * image,
        image,
        image + pooled,
        pooled,
    )


def test_a_result_that_nobody_reads_is_alive_while_it_is_made(make_program: Make) -> None:
    nodes = [
        make_node("Split", ["x"], ["a", "b"], "split", num_outputs=2, axis=1),
        make_node("Sigmoid", ["a"], ["y"], "sigmoid"),
    ]
    graph = make_program(nodes, {}, (1, 4, 8, 8)).graph.graph
    assert live_elements(graph, {}) == (256 + 128 + 128, 128 + 128)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_random_graphs_against_a_direct_definition(make_program: Make, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, values = [], ["x"]
    for i in range(count):
        picked = [values[rng.integers(len(values))] for _ in range(2)]
        if rng.random() < 0.5:
            nodes.append(make_node("Mul", picked, [f"v{i}"], f"n{i}"))
        else:
            nodes.append(make_node("Sigmoid", picked[:1], [f"v{i}"], f"n{i}"))
        values.append(f"v{i}")
    graph = make_program(nodes, {}, (1, 4, 8, 8)).graph.graph
    expected = []
    for step, node in enumerate(nodes):
        made = {"x"} | {name for earlier in nodes[:step] for name in earlier.output}
        needed = {name for later in nodes[step:] for name in later.input} | {nodes[-1].output[0]}
        expected.append(256 * len((made & needed) | set(node.output)))
    assert live_elements(graph, {}) == tuple(expected)


@pytest.mark.parametrize("operator", ["Identity", "Flatten"])
def test_a_view_takes_no_memory(make_program: Make, operator: str) -> None:
    nodes = [make_node(operator, ["x"], ["a"], "view"), make_node("Sigmoid", ["a"], ["y"], "sigmoid")]
    graph = make_program(nodes, {}, (1, 256)).graph.graph
    assert live_elements(graph, {}) == (256, 512)
