import pytest

from codesign.cost.operators import FREE, MEMORY_BOUND, check_operators, kind_of, moved_elements
from codesign.errors import UnsupportedOperatorError
from codesign.plan.facts import ConvGeometry, NodeFacts
from codesign.testing.cost_conformance import move_node, multiply_node


def test_the_tables_do_not_overlap() -> None:
    assert not FREE & MEMORY_BOUND


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (multiply_node("c", "Conv", ConvGeometry(1, 4, 4, (1, 1), (1, 1), (2, 2), (2, 2), 1)), "multiply"),
        (move_node("f", "Flatten", 4, 4), "free"),
        (move_node("s", "Softmax", 4, 4), "move"),
        (move_node("r", "Relu", 4, 4), "move"),
        (move_node("r", "Relu", 4, 4, fused_into="c"), "free"),
        (move_node("a", "Add", 8, 4, fused_into="c"), "move"),
        (move_node("a", "Add", 4, 4, fused_into="c"), "free"),  # a constant is added
    ],
)
def test_kinds(node: NodeFacts, kind: str) -> None:
    assert kind_of(node) == kind


def test_only_further_operands_of_a_merged_node_move() -> None:
    assert moved_elements(move_node("a", "Add", 8, 4)) == 12
    assert moved_elements(move_node("a", "Add", 8, 4, fused_into="c")) == 4
    assert moved_elements(move_node("r", "Relu", 4, 4, fused_into="c")) == 0


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"no cost is known for NonZero \(node 'n1'\)"):
        kind_of(move_node("n1", "NonZero", 4, 4))


def test_all_unknown_operators_are_named_at_once() -> None:
    nodes = [move_node("a", "NonZero", 1, 1), move_node("b", "Add", 2, 1), move_node("c", "LSTM", 1, 1)]
    with pytest.raises(UnsupportedOperatorError, match=r"NonZero \(node 'a'\), LSTM \(node 'c'\)"):
        check_operators(nodes)
    check_operators(nodes[1:2])
