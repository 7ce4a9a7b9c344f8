"""Problems built from a network's facts price plans as the cost model does."""

import math
from dataclasses import replace

import pytest

from codesign.cost.base import NodeCost, price
from codesign.errors import InputError
from codesign.hardware.profile import ComputeRate, HardwareProfile, MemoryLevel
from codesign.ir.annotations import Provenance
from codesign.plan.facts import GraphFacts, NodeFacts
from codesign.plan.plan import Plan
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths
from codesign.search.from_facts import COST_METRICS, plan_of_choice, problem_from_facts, weight_bytes_limit
from codesign.search.problem import AllocationProblem, LayerOption, LayerOptions

CHOICES = tuple(BitWidths(bits, 8) for bits in (2, 4, 8))


class ProportionalCosts:
    """Time and energy in proportion to the bits that are multiplied and moved."""

    profile = HardwareProfile(
        name="test",
        description="proportional",
        model="roofline",
        source="made up",
        compute=(ComputeRate(weight_bits=8, activation_bits=8, macs_per_s=1e9, energy_j_per_mac=1e-12, source="none"),),
        memories=(
            MemoryLevel(
                name="dram", capacity_bytes=1e9, bandwidth_bytes_per_s=1e9, energy_j_per_byte=1e-12, source="none"
            ),
        ),
    )
    provenance: Provenance = "estimated"

    def price_node(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        """Priced by multiplications, and by elements for nodes without a weight."""
        work = node.macs * bits.weight / 8 + node.output_elements
        return NodeCost(work * 1e-9, work * 3e-12, "compute")


def _node(name: str, weights: int, channels: int, live: int) -> NodeFacts:
    losses = {bits: weights / 4.0**bits.weight for bits in CHOICES} if weights else {}
    return NodeFacts(
        name, "Conv" if weights else "Relu", 7 * weights, weights, channels, 64, 32, live, None, losses, ()
    )


FACTS = GraphFacts(
    (_node("conv1", 27, 3, 100), _node("relu1", 0, 0, 900), _node("conv2", 101, 5, 300), _node("fc", 50, 10, 60)),
    "facts",
)


def test_totals_equal_the_price_of_the_plan() -> None:
    problem = problem_from_facts(FACTS, ProportionalCosts(), CHOICES)
    assert problem.metrics == COST_METRICS
    for bits in ((2, 4, 8), (8, 8, 2), (4, 4, 4)):
        choice = problem.choice_of([BitWidths(b, 8) for b in bits])
        plan = plan_of_choice(choice, "net")
        expected = price(ProportionalCosts(), FACTS, plan)
        totals = problem.totals_of(plan.bits)
        assert totals["latency_s"] == pytest.approx(expected.latency_s, rel=1e-12)
        assert totals["energy_j"] == pytest.approx(expected.energy_j, rel=1e-12)
        assert totals["weight_bytes"] == expected.weight_bytes
        assert totals["peak_memory_bytes"] == expected.peak_memory_bytes == 900
        assert totals["bops"] == expected.bops


def test_choices_may_differ_by_node_and_nodes_may_be_tied_and_fixed() -> None:
    by_node = {"conv1": CHOICES[2:], "conv2": CHOICES, "fc": CHOICES[1:]}
    problem = problem_from_facts(FACTS, ProportionalCosts(), by_node, ties=[["conv2", "fc"]])
    assert [group.bits for group in problem.groups] == [CHOICES[2:], CHOICES[1:]]
    fixed = problem_from_facts(FACTS, ProportionalCosts(), CHOICES, fixed={"fc": CHOICES[1]})
    assert [group.bits for group in fixed.groups] == [CHOICES, CHOICES, CHOICES[1:2]]


def test_a_missing_loss_or_choice_is_named() -> None:
    with pytest.raises(InputError, match=r"node 'conv1': no loss increase for w3a8.*sensitivity pass"):
        problem_from_facts(FACTS, ProportionalCosts(), [BitWidths(3, 8)])
    with pytest.raises(InputError, match="node 'fc': no widths to choose from"):
        problem_from_facts(FACTS, ProportionalCosts(), {"conv1": CHOICES, "conv2": CHOICES})


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_the_uniform_plan_exactly_fits_the_limit_of_its_width(bits: int) -> None:
    plan = Plan("net", tuple((node.name, BitWidths(bits, 8)) for node in FACTS.weighted))
    assert price(ProportionalCosts(), FACTS, plan).weight_bytes == weight_bytes_limit(FACTS, bits)


def test_average_bits_may_be_fractional() -> None:
    # Elements 27, 101 and 50 at 3.1 bits: 10.4625, 39.1375 and 19.375 bytes, and 18 channels of 8 bytes.
    assert weight_bytes_limit(FACTS, 3.1) == 11 + 40 + 20 + 8 * 18
    # 80 elements at 0.1 bits are one byte, although the nearest double lies above 0.1.
    facts = GraphFacts((replace(FACTS.nodes[0], weight_elements=80),), "one")
    assert weight_bytes_limit(facts, 0.1) == 1 + 24


@pytest.mark.parametrize("average", [0.0, -1.0, math.nan, math.inf])
def test_averages_without_sense_are_refused(average: float) -> None:
    with pytest.raises(InputError, match="average bits: got"):
        weight_bytes_limit(FACTS, average)


def test_bare_widths_make_no_plan() -> None:
    problem = AllocationProblem((LayerOptions("a", (LayerOption(4, 1.0, {}),)),))
    with pytest.raises(InputError, match="layer 'a': a plan needs"):
        plan_of_choice(problem.choice_of([4]), "net")
