from collections.abc import Callable

import pytest
from onnx.helper import make_node

from codesign.errors import PassError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import LossAtBits, Sensitivity, Work
from codesign.ir.program import Program
from codesign.ir.serialization import graph_digest
from codesign.plan.from_graph import facts_of
from codesign.quantization.scheme import BitWidths

Make = Callable[..., Program]


@pytest.fixture
def program(make_program: Make) -> Program:
    nodes = [
        make_node("Conv", ["x", "w", "b"], ["a"], "conv", pads=[1, 1, 1, 1]),
        make_node("Relu", ["a"], ["r"], "relu"),
        make_node("Mul", ["r", "scale"], ["m"], "mul"),
        make_node("Add", ["r", "m"], ["s"], "add"),
        make_node("Flatten", ["s"], ["f"], "flatten"),
        make_node("Gemm", ["f", "v"], ["y"], "dense"),
    ]
    constants: dict[str, tuple[int, ...]] = {"w": (4, 2, 3, 3), "b": (4,), "scale": (4, 1, 1), "v": (256, 10)}
    return make_program(nodes, constants, (1, 2, 8, 8))


def test_facts_of_every_node_in_order(program: Program) -> None:
    facts = facts_of(program)
    assert [node.name for node in facts.nodes] == ["conv", "relu", "mul", "add", "flatten", "dense"]
    assert [node.name for node in facts.weighted] == ["conv", "dense"]
    conv, dense = facts.by_name["conv"], facts.by_name["dense"]
    assert (conv.weight_elements, conv.output_channels) == (72, 4)
    assert (conv.input_elements, conv.output_elements, conv.macs) == (128, 256, 7)
    assert (dense.weight_elements, dense.output_channels) == (2560, 10)
    assert conv.geometry is not None
    assert facts.by_name["mul"].geometry is None


def test_a_constant_factor_is_no_weight(program: Program) -> None:
    assert facts_of(program).by_name["mul"].weight_elements == 0


def test_consumers_are_named_once_each(program: Program) -> None:
    facts = facts_of(program).by_name
    assert facts["conv"].consumers == ("relu",)
    assert facts["relu"].consumers == ("mul", "add")
    assert facts["dense"].consumers == ()


def test_merged_nodes_know_their_kernel(program: Program) -> None:
    facts = facts_of(program).by_name
    assert facts["relu"].fused_into == "conv"
    assert facts["conv"].fused_into is None
    assert facts["add"].fused_into is None


def test_the_digest_is_the_graph_s(program: Program) -> None:
    assert facts_of(program).digest == graph_digest(program.graph)


def test_losses_come_from_the_sensitivity_and_are_empty_without(program: Program) -> None:
    assert all(not node.loss_increase_nats for node in facts_of(program).nodes)
    rows = tuple(
        LossAtBits(weight_bits=b, activation_bits=8, loss_increase_nats=x, standard_error_nats=0.0, method="kl")
        for b, x in ((4, 0.5), (8, 0.25))
    )
    annotate(program.graph.graph[0], Sensitivity(by_bits=rows))
    facts = facts_of(program).by_name
    assert facts["conv"].loss_increase_nats == {BitWidths(4, 8): 0.5, BitWidths(8, 8): 0.25}
    assert facts["dense"].loss_increase_nats == {}


def test_missing_work_is_an_error_that_names_the_node(program: Program) -> None:
    del program.graph.graph[2].meta[Work.key]
    with pytest.raises(PassError, match=r"node 'mul' \(Mul\): annotation 'work' is missing"):
        facts_of(program)
