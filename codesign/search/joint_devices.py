"""The joint problem of a network on one device."""

from collections.abc import Mapping, Sequence

from codesign.cost.base import CostModel
from codesign.plan.facts import GraphFacts
from codesign.quantization.scheme import BitWidths
from codesign.search.from_facts import problem_from_facts
from codesign.search.joint_problem import JointOption, JointProblem

Choices = Sequence[BitWidths] | Mapping[str, Sequence[BitWidths]]
"""Widths to choose from, for all nodes with a weight or by node name; one pair of widths fixes a node."""


def problem_on_one_device(
    facts: GraphFacts, cost_model: CostModel, choices: Choices, ties: Sequence[Sequence[str]] = ()
) -> JointProblem:
    """Nodes with a weight choose widths; all others become the constant part.

    Args:
        facts: The network, with `loss_increase_nats` for each choice of each node with a weight.
        cost_model: Prices nodes.
        choices: Widths to choose from.
        ties: Names of nodes that must take the same widths.

    Returns:
        The problem, with the metrics of `COST_METRICS`.

    Raises:
        InputError: A node has no loss for a choice, or `choices` does not name it.
    """
    problem = problem_from_facts(facts, cost_model, choices, ties)
    place = cost_model.profile.name
    options = []
    for layer in problem.layers:
        offered = []
        for option in layer.options:
            assert isinstance(option.bits, BitWidths)
            offered.append(JointOption(option.bits, place, option.loss_increase, option.metrics))
        options.append(tuple(offered))
    names = tuple(layer.name for layer in problem.layers)
    return JointProblem(names, tuple(options), constant=problem.constant, ties=problem.ties)
