"""Widths and strategies on equal devices: the optimum of enumeration, and a cut whose width follows the link."""

import pytest

from codesign.errors import InputError
from codesign.hardware.catalog import load_profile, load_target
from codesign.partition.mesh import Link, grid_of_devices
from codesign.partition.network import Loop, Network, Operand, Operator, Result
from codesign.plan.facts import GraphFacts, NodeFacts
from codesign.quantization.scheme import BitWidths
from codesign.search.joint_devices import link_of
from codesign.search.joint_front import front
from codesign.search.joint_mesh import problem_on_mesh
from codesign.testing.joint_problems import best_points, near_best

CHOICES = (BitWidths(8, 8), BitWidths(4, 8))
PROFILE = load_profile("raspberry-pi-4")


def chain(sizes: list[int], batch: int = 4) -> tuple[Network, GraphFacts]:
    """Dense layers, and what is known of them."""
    operators, nodes = [], []
    value = Operand("x", (batch, sizes[0]), "activation")
    for i, outputs in enumerate(sizes[1:]):
        inputs = value.shape[1]
        loops = (
            Loop("batch", batch, (0, None), 0),
            Loop("out", outputs, (None, 0), 1),
            Loop("in", inputs, (1, 1), None),
        )
        weight, result = Operand(f"w{i}", (outputs, inputs), "parameter"), Result(f"y{i}", (batch, outputs))
        macs = batch * outputs * inputs
        operators.append(Operator(f"fc{i}", "Gemm", (value, weight), (result,), loops, macs, True, True))
        losses = {CHOICES[0]: 0.001, CHOICES[1]: 0.02 + 0.001 * i}
        nodes.append(
            NodeFacts(
                f"fc{i}", "Gemm", macs, outputs * inputs, outputs, batch * inputs, batch * outputs, 0, None, losses, ()
            )
        )
        value = Operand(result.value, result.shape, "activation")
    operators.append(Operator("output", "Output", (value,), (), (Loop("batch", batch, (0,), 0),)))
    return Network("chain", "chain", tuple(operators), batch, "x"), GraphFacts(tuple(nodes), "chain")


@pytest.mark.parametrize("target", ["pi4-x4", "host-2proc"])
@pytest.mark.parametrize("metric", ["latency_s", "energy_j", "weight_bytes", "peak_memory_bytes"])
def test_fronts_equal_enumeration(target: str, metric: str) -> None:
    found = load_target(target)
    network, facts = chain([32, 512, 16])
    mesh = grid_of_devices(found.mesh_shape[0], link_of(found))
    problem = problem_on_mesh(network, facts, mesh, PROFILE, CHOICES)
    points = [(a.metrics[metric], a.loss_increase_nats) for a in front(problem, metric)]
    assert points == best_points(near_best(problem, metric).values(), metric)


def test_parts_of_a_weight_and_copies_of_values_are_counted() -> None:
    network, facts = chain([32, 512, 16])
    problem = problem_on_mesh(network, facts, grid_of_devices(2, Link(1e-4, 1e8, 1e-9)), PROFILE, CHOICES[:1])
    places = [{o.place: i for i, o in enumerate(offered)} for offered in problem.options]
    picks = [places[0]["outx2"], places[1]["inx2"], places[2]["samex2"]]
    totals = problem.totals_of(picks)
    packed = [32 * 512 + 8 * 512, 512 * 16 + 8 * 16]
    assert totals["weight_bytes"] == sum(packed) / 2
    # The halves of the first result are read where they are; the second is summed over both devices.
    assert problem.edges[0].metrics["latency_s"][picks[0], picks[1]] == 0.0
    sum_s = problem.edges[1].metrics["latency_s"][picks[1], picks[2]]
    assert sum_s == pytest.approx(2 * 1e-4 + 4 * 16 / 1e8, rel=1e-9)
    assert problem.edges[1].metrics["energy_j"][picks[1], picks[2]] == pytest.approx(2 * 4 * 16 * 1e-9)
    # While the first layer runs, a device has the whole input and half of the result.
    assert problem.table_of(problem.loads[0])[1][picks[0]] == 4 * 32 + 4 * 512 / 2


def test_widths_without_a_rate_and_other_networks_are_refused() -> None:
    network, facts = chain([32, 64])
    mesh = grid_of_devices(2, Link(1e-4, 1e8))
    with pytest.raises(InputError, match=r"operator 'fc0': profile 'edge-tpu' has no rate.*it has w8a8"):
        problem_on_mesh(network, facts, mesh, load_profile("edge-tpu"), CHOICES[1:])
    with pytest.raises(InputError, match="operator 'fc0': is not in the facts"):
        problem_on_mesh(network, GraphFacts((), "none"), mesh, PROFILE, CHOICES)
