"""Problems on one device and on several: prices as the cost model's, crossings, memory and pipelines by hand."""

import pytest

from codesign.cost.base import price
from codesign.cost.select import cost_model_for
from codesign.errors import InputError
from codesign.hardware.catalog import load_profile, load_target
from codesign.partition.mesh import Link
from codesign.plan.facts import GraphFacts, NodeFacts
from codesign.plan.plan import Plan
from codesign.quantization import scheme
from codesign.quantization.scheme import BitWidths
from codesign.search.from_facts import problem_from_facts
from codesign.search.integer_program import solve
from codesign.search.joint_allocation import allocate, least_total
from codesign.search.joint_devices import (
    PlacedDevice,
    devices_of,
    link_of,
    problem_on_devices,
    problem_on_one_device,
)
from codesign.search.joint_problem import JointProblem
from codesign.testing.small_variants import CHOICES, small_variants

MODEL = cost_model_for(load_profile("raspberry-pi-4"))
VARIANTS = [facts for _, _, facts in small_variants()][::5]
W8 = BitWidths(8, 8)


def _picks(problem: JointProblem, place: dict[str, str], bits: BitWidths = W8) -> tuple[int, ...]:
    return problem.picks_of({name: (bits if name not in {"pool"} else W8, place[name]) for name in problem.names})


@pytest.mark.parametrize("facts", VARIANTS, ids=lambda facts: facts.digest)
def test_one_device_agrees_with_the_multiple_choice_problem(facts: GraphFacts) -> None:
    one = problem_on_one_device(facts, MODEL, CHOICES)
    several = problem_on_devices(facts, [PlacedDevice("cpu", MODEL)], Link(1e-4, 1e8), CHOICES)
    table = problem_from_facts(facts, MODEL, CHOICES)
    for share in (0.2, 0.5, 0.9):
        free, least = solve(table, {}), least_total(one, "weight_bytes")
        assert least is not None
        limits = {"weight_bytes": least + share * (free.metrics["weight_bytes"] - least)}
        expected = solve(table, limits)
        for problem in (one, several):
            found = allocate(problem, limits)
            assert found.loss_increase_nats == pytest.approx(expected.loss_increase, rel=1e-12)
            for metric, value in expected.metrics.items():
                assert found.metrics[metric] == pytest.approx(value, rel=1e-12), metric


def test_totals_equal_the_price_of_the_plan() -> None:
    facts = VARIANTS[0]
    problem = problem_on_devices(facts, [PlacedDevice("cpu", MODEL)], Link(1e-4, 1e8), CHOICES)
    totals = problem.totals_of(_picks(problem, dict.fromkeys(problem.names, "cpu"), CHOICES[0]))
    cost = price(MODEL, facts, Plan("x", tuple((node.name, CHOICES[0]) for node in facts.weighted)))
    assert totals["latency_s"] == totals["period_s"] == pytest.approx(cost.latency_s, rel=1e-12)
    assert totals["energy_j"] == pytest.approx(cost.energy_j, rel=1e-12)
    assert (totals["weight_bytes"], totals["bops"]) == (cost.weight_bytes, cost.bops)
    assert totals["peak_memory_bytes"] == cost.peak_memory_bytes


def test_what_crosses_is_paid_for_once_a_reader() -> None:
    """The stem's result is read by `squeeze` and, as the residual, by `expand`, whose kernel adds it."""
    facts, link = VARIANTS[0], Link(1e-3, 1e6, 1e-6)
    devices = [PlacedDevice("near", MODEL), PlacedDevice("far", MODEL, speed=2.0)]
    problem = problem_on_devices(facts, devices, link, CHOICES)
    assert problem.names == ("stem", "squeeze", "pair1", "pair2", "expand", "pool", "classifier")
    near = problem.totals_of(_picks(problem, dict.fromkeys(problem.names, "near")))
    stem_far = problem.totals_of(_picks(problem, {**dict.fromkeys(problem.names, "near"), "stem": "far"}))
    node = facts.by_name["stem"]
    sent = [node.input_elements, node.output_elements, node.output_elements]
    own = MODEL.price_node(node, W8).latency_s
    messages = sum(1e-3 + size / 1e6 for size in sent)
    assert stem_far["latency_s"] - near["latency_s"] == pytest.approx(messages - own / 2, rel=1e-9)
    assert stem_far["energy_j"] - near["energy_j"] == pytest.approx(sum(sent) * 1e-6, rel=1e-9)
    assert stem_far["period_s"] == pytest.approx(max(messages, near["latency_s"] - own), rel=1e-9)
    assert stem_far["weight_bytes@far"] + stem_far["weight_bytes@near"] == near["weight_bytes"]
    # While the stem runs far away its operand and result are there; its result stays until the residual is added.
    assert stem_far["peak_memory_bytes@far"] == node.input_elements + node.output_elements
    result = problem.totals_of(_picks(problem, {**dict.fromkeys(problem.names, "near"), "classifier": "far"}))
    assert result["latency_s"] > near["latency_s"] + 2e-3  # its operand goes there, the network's output comes back


def test_limits_on_a_device_and_pipelines_choose_places() -> None:
    devices = [PlacedDevice("near", MODEL), PlacedDevice("far", MODEL, speed=1.5)]
    problem = problem_on_devices(VARIANTS[0], devices, Link(1e-6, 1e9), [W8])
    free = allocate(problem)
    limited = allocate(problem, {"peak_memory_bytes@far": 0.0})
    assert {option.place for _, option in limited.choice} == {"near"}
    least = least_total(problem, "period_s")
    assert least is not None
    assert least < free.metrics["latency_s"]
    piped = allocate(problem, {"period_s": least})
    assert {option.place for _, option in piped.choice} == {"near", "far"}
    assert piped.metrics["period_s"] <= least


def test_neighbours_of_other_activation_widths_requantise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheme, "ACTIVATION_BITS", (4, 8))
    narrow = BitWidths(8, 4)
    profile = load_profile("raspberry-pi-4")
    row = next(r for r in profile.compute if (r.weight_bits, r.activation_bits) == (8, 8))
    rates = (*profile.compute, *(row.model_copy(update={"weight_bits": w, "activation_bits": 4}) for w in (8, 4)))
    model = cost_model_for(profile.model_copy(update={"compute": rates}))
    facts = VARIANTS[0]
    nodes = tuple(
        NodeFacts(**{**vars(node), "loss_increase_nats": {W8: 0.0, narrow: 0.1}}) if node.weight_elements else node
        for node in facts.nodes
    )
    link = Link(0.0, 1e6)
    problem = problem_on_devices(
        GraphFacts(nodes, "x"), [PlacedDevice("a", model), PlacedDevice("b", model)], link, [W8, narrow]
    )
    edge = next(e for e in problem.edges if (e.producer, e.consumer) == (1, 2))
    at = {(o.widths, o.place): i for i, o in enumerate(problem.options[1])}
    seconds = edge.metrics["latency_s"]
    moved = facts.by_name["squeeze"].output_elements * 4 / 8 / 1e6
    same, cast = seconds[at[W8, "a"], at[W8, "a"]], seconds[at[W8, "a"], at[narrow, "a"]]
    assert (same, seconds[at[narrow, "a"], at[narrow, "b"]]) == (0.0, pytest.approx(moved))
    assert cast > 0
    assert seconds[at[W8, "a"], at[narrow, "b"]] == pytest.approx(moved + cast)  # the lesser width crosses


def test_widths_without_a_rate_are_no_option_there() -> None:
    target = load_target("cpu+npu")
    problem = problem_on_devices(VARIANTS[0], devices_of(target), link_of(target), CHOICES)
    stem = {(str(option.widths), option.place) for option in problem.options[0]}
    assert stem == {("w4a8", "cpu"), ("w8a8", "cpu"), ("w8a8", "npu")}
    assert len(devices_of(load_target("raspberry-pi-4"))) == 1


def test_what_no_device_can_run_or_nobody_chose_is_named() -> None:
    npu = [PlacedDevice("npu", cost_model_for(load_profile("edge-tpu")))]
    with pytest.raises(InputError, match=r"node 'stem': none of the devices npu can run it.*no rate for 4-bit"):
        problem_on_devices(VARIANTS[0], npu, Link(0.0, 1.0), CHOICES[:1])
    with pytest.raises(InputError, match="node 'stem': no widths to choose from"):
        problem_on_devices(VARIANTS[0], npu, Link(0.0, 1.0), {"squeeze": CHOICES})
    with pytest.raises(InputError, match="node 'stem': no loss increase for w2a8"):
        problem_on_devices(VARIANTS[0], npu, Link(0.0, 1.0), [BitWidths(2, 8)])
    with pytest.raises(InputError, match="no link between its devices"):
        link_of(load_target("raspberry-pi-4"))
