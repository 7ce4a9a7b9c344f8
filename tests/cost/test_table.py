"""Latency tables of measured kernels."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.base import DEFAULT_BITS, kernel_latency_s, price, run_latency_s
from codesign.cost.corrected import CorrectedModel, Correction
from codesign.cost.select import cost_model_for
from codesign.cost.table import LatencyTable, TabledModel, kernels_of, observe, tabulate, workload_of
from codesign.errors import InputError
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry, GraphFacts, NodeFacts, with_merged
from codesign.plan.plan import Plan
from codesign.quantization.scheme import BitWidths
from codesign.testing.cost_conformance import move_node, multiply_node

BASE = cost_model_for(load_profile("raspberry-pi-4"))
IMAGE = 16 * 32 * 32
CONV = ConvGeometry(1, 16, 16, (3, 3), (1, 1), (32, 32), (32, 32), 1)
NODES = (
    multiply_node("first", "Conv", CONV),
    move_node("relu", "Relu", IMAGE, IMAGE, fused_into="first"),
    multiply_node("second", "Conv", CONV),
    move_node("add", "Add", 2 * IMAGE, IMAGE, fused_into="second"),
    multiply_node("third", "Conv", CONV),
    move_node("relu3", "Relu", IMAGE, IMAGE, fused_into="third"),
    move_node("pool", "GlobalAveragePool", IMAGE, 16),
    move_node("flat", "Reshape", 16, 16),
    multiply_node("dense", "Gemm", ConvGeometry(1, 16, 10, (1, 1), (1, 1), (1, 1), (1, 1), 1)),
)
FACTS = GraphFacts(with_merged(NODES), "digest")
KERNELS = ("first", "second", "third", "pool", "dense")
WIDTHS = (BitWidths(2, 8), BitWidths(4, 8), BitWidths(8, 8))
SECONDS = st.lists(st.floats(1e-7, 1e-2), min_size=5, max_size=5)
BITS = st.lists(st.sampled_from(WIDTHS), min_size=4, max_size=4)


def _plan(bits: list[BitWidths]) -> Plan:
    return Plan("net", tuple(zip(("first", "second", "third", "dense"), bits, strict=True)))


def _renamed(facts: GraphFacts) -> GraphFacts:
    def named(name: str | None) -> str | None:
        return None if name is None else f"other.{name}"

    nodes = [dataclasses.replace(n, name=f"other.{n.name}", fused_into=named(n.fused_into)) for n in facts.nodes]
    return GraphFacts(with_merged(nodes), "other")


def test_nodes_know_what_is_merged_into_them() -> None:
    assert [node.name for node in kernels_of(FACTS)] == list(KERNELS)
    assert {node.name: [m.name for m in node.merged] for node in FACTS.nodes if node.merged} == {
        "first": ["relu"],
        "second": ["add"],
        "third": ["relu3"],
    }
    assert with_merged(FACTS.nodes) == FACTS.nodes


@given(BITS, SECONDS, st.floats(1e-6, 1.0))
def test_a_network_that_the_table_knows_takes_what_was_measured(
    bits: list[BitWidths], seconds: list[float], network_s: float
) -> None:
    plan = _plan(bits)
    observed = observe(FACTS, plan.bits_of, dict(zip(KERNELS, seconds, strict=True)), network_s)
    for base in (BASE, CorrectedModel(BASE, Correction(1.3, 2.0, 1e-6, 4))):
        model = TabledModel(base, tabulate(observed))
        assert price(model, FACTS, plan).latency_s == pytest.approx(network_s)
        coverage = model.coverage(FACTS, plan)
        assert (coverage.kernels, coverage.measured_kernels) == (5, 5)
        assert coverage.measured_s == coverage.latency_s == pytest.approx(network_s)
        assert model.provenance == "calibrated"


@given(BITS, BITS, SECONDS)
def test_kernels_that_were_never_seen_keep_their_price(
    measured: list[BitWidths], asked: list[BitWidths], seconds: list[float]
) -> None:
    plan = _plan(measured)
    observed = observe(FACTS, plan.bits_of, dict(zip(KERNELS, seconds, strict=True)), 1.0)
    model, before = TabledModel(BASE, tabulate(observed)), TabledModel(BASE, LatencyTable())
    known = {o.workload for o in observed}
    for node in FACTS.nodes:
        bits = _plan(asked).bits_of.get(node.name, DEFAULT_BITS)
        if workload_of(node, bits) not in known:
            assert model.price_node(node, bits) == before.price_node(node, bits)
    coverage = model.coverage(FACTS, _plan(asked))
    assert coverage.measured_kernels == sum(
        workload_of(n, _plan(asked).bits_of.get(n.name, DEFAULT_BITS)) in known for n in kernels_of(FACTS)
    )
    assert 0 <= coverage.measured_s <= coverage.latency_s
    assert coverage.latency_s == pytest.approx(price(model, FACTS, _plan(asked)).latency_s)


@given(BITS)
def test_an_empty_table_changes_no_sum(bits: list[BitWidths]) -> None:
    model, plan = TabledModel(BASE, LatencyTable()), _plan(bits)
    new, old = price(model, FACTS, plan), price(BASE, FACTS, plan)
    assert new.latency_s == pytest.approx(old.latency_s)
    assert new.energy_j == pytest.approx(old.energy_j)
    assert model.provenance == BASE.provenance
    for node in kernels_of(FACTS):
        widths = plan.bits_of.get(node.name, DEFAULT_BITS)
        assert kernel_latency_s(model, node, widths) == pytest.approx(kernel_latency_s(BASE, node, widths))


def test_names_do_not_matter_and_everything_else_does() -> None:
    other = _renamed(FACTS)
    for node, twin in zip(FACTS.nodes, other.nodes, strict=True):
        assert workload_of(node, DEFAULT_BITS) == workload_of(twin, DEFAULT_BITS)
    first, second, third = (FACTS.by_name[name] for name in ("first", "second", "third"))
    assert workload_of(first, DEFAULT_BITS) == workload_of(third, DEFAULT_BITS)
    assert workload_of(first, DEFAULT_BITS) != workload_of(second, DEFAULT_BITS)
    assert workload_of(first, DEFAULT_BITS) != workload_of(first, BitWidths(4, 8))
    pool: NodeFacts = FACTS.by_name["pool"]
    assert workload_of(pool, BitWidths(4, 8)) == workload_of(pool, BitWidths(8, 8))
    assert workload_of(pool, DEFAULT_BITS) != workload_of(dataclasses.replace(pool, channels=3), DEFAULT_BITS)


def test_observations_of_one_workload_are_averaged() -> None:
    plan = _plan([BitWidths(8, 8)] * 4)
    times = {"first": 1.0, "second": 1.0, "third": 3.0, "pool": 1.0, "dense": 1.0}
    table = tabulate(observe(FACTS, plan.bits_of, times, 7.0))
    entry = table.find(workload_of(FACTS.by_name["first"], BitWidths(8, 8)))
    assert entry is not None
    assert (entry.seconds, entry.spread_s, entry.observations) == (2.0, 1.0, 2)
    assert len(table.entries) == 4


def test_time_of_merged_nodes_is_their_kernels_and_the_rest_is_shared_out() -> None:
    times = {"first": 1.0, "relu": 1.0, "second": 2.0, "third": 2.0, "dense": 2.0, "(between layers)": 5.0, "x": 9.0}
    seconds = [o.seconds for o in observe(FACTS, {}, times, 4.0)]
    assert seconds == [1.0, 1.0, 1.0, 0.0, 1.0]
    assert math.fsum(seconds) == 4.0


def test_layers_of_another_network_are_refused() -> None:
    with pytest.raises(InputError, match="layers input: none is a node of the network"):
        observe(FACTS, {}, {"input": 1.0}, 1.0)


def test_idle_power_follows_the_measured_time() -> None:
    plan = _plan([BitWidths(8, 8)] * 4)
    network_s = 3 * price(BASE, FACTS, plan).latency_s
    model = TabledModel(BASE, tabulate(observe(FACTS, plan.bits_of, dict.fromkeys(KERNELS, 1.0), network_s)))
    before, after = price(BASE, FACTS, plan), price(model, FACTS, plan)
    idle_j = BASE.profile.idle_power_w * (after.latency_s - before.latency_s)
    assert after.energy_j == pytest.approx(before.energy_j + idle_j)


@given(st.floats(0, 10))
def test_a_prior_counts_as_so_many_observations(prior: float) -> None:
    plan = _plan([BitWidths(8, 8)] * 4)
    table = tabulate(observe(FACTS, plan.bits_of, dict.fromkeys(KERNELS, 1.0), 5.0))
    model, first = TabledModel(BASE, table, prior), FACTS.by_name["first"]
    said = kernel_latency_s(BASE, first, BitWidths(8, 8))
    found = model.price_node(first, BitWidths(8, 8)).latency_s
    assert found == pytest.approx((2 * 1.0 + prior * said) / (2 + prior))  # `first` and `third` compute the same


def test_a_senseless_prior_is_refused() -> None:
    with pytest.raises(InputError, match="prior: got -1"):
        TabledModel(BASE, LatencyTable(), -1.0)


@given(BITS, st.floats(1e-6, 1e-3))
def test_calling_a_network_costs_once_and_is_no_part_of_a_kernel(bits: list[BitWidths], run_s: float) -> None:
    plan = _plan(bits)
    observed = observe(FACTS, plan.bits_of, dict.fromkeys(KERNELS, 1.0), 1e-3)
    nodes = [dataclasses.replace(node, is_first=node.name == "first") for node in FACTS.nodes]
    without = TabledModel(BASE, tabulate(observed))
    model, facts = dataclasses.replace(without, run_s=run_s), GraphFacts(tuple(nodes), "digest")
    assert price(model, facts, plan).latency_s == pytest.approx(run_s + price(without, facts, plan).latency_s)
    for node in kernels_of(facts):
        widths = plan.bits_of.get(node.name, DEFAULT_BITS)
        assert kernel_latency_s(model, node, widths) == kernel_latency_s(without, node, widths)
    assert run_latency_s(model, facts) == pytest.approx(run_s)
    assert run_latency_s(without, facts) == 0
