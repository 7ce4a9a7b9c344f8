import pytest

from codesign.cost.base import DEFAULT_BITS, live_bytes, price
from codesign.cost.select import cost_model_for
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry, GraphFacts, packed_weight_bytes
from codesign.plan.plan import Plan
from codesign.quantization.scheme import BitWidths
from codesign.testing.cost_conformance import move_node, multiply_node

CONV = multiply_node("conv", "Conv", ConvGeometry(1, 3, 16, (3, 3), (1, 1), (8, 8), (8, 8), 1))
DENSE = multiply_node("dense", "Gemm", ConvGeometry(1, 1024, 10, (1, 1), (1, 1), (1, 1), (1, 1), 1))
FACTS = GraphFacts((CONV, move_node("pool", "MaxPool", 1024, 256), DENSE), "digest")
PLAN = Plan("base", (("conv", BitWidths(8, 8)), ("dense", BitWidths(3, 8))))


@pytest.mark.parametrize("name", ["host-cpu", "squeezelerator-16x16"])
def test_a_plan_costs_the_sum_of_its_nodes(name: str) -> None:
    model = cost_model_for(load_profile(name))
    nodes = [model.price_node(CONV, DEFAULT_BITS), model.price_node(FACTS.nodes[1], DEFAULT_BITS)]
    nodes.append(model.price_node(DENSE, BitWidths(3, 8)))
    cost = price(model, FACTS, PLAN)
    assert cost.latency_s == pytest.approx(sum(node.latency_s for node in nodes))
    assert cost.energy_j == pytest.approx(sum(node.energy_j for node in nodes))
    assert cost.power_w == pytest.approx(cost.energy_j / cost.latency_s)


def test_bytes_and_bit_operations_are_exact() -> None:
    cost = price(cost_model_for(load_profile("host-cpu")), FACTS, PLAN)
    assert cost.weight_bytes == (3 * 16 * 9 + 8 * 16) + (10240 * 3 // 8 + 8 * 10)
    assert cost.bops == 8 * 8 * 64 * 9 * 48 + 3 * 8 * 10240
    assert cost.peak_memory_bytes == max(3 * 64 + 16 * 64, 1024 + 256, 1024 + 10)


def test_bytes_round_up() -> None:
    odd = multiply_node("odd", "Gemm", ConvGeometry(1, 3, 1, (1, 1), (1, 1), (1, 1), (1, 1), 1))
    assert packed_weight_bytes(odd, BitWidths(3, 8)) == 2 + 8
    assert live_bytes(odd, DEFAULT_BITS) == 4
