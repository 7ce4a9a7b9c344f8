"""Widths and places together: the optimum of enumeration, and a cut whose width follows the link."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.hardware.catalog import load_profile, load_target
from codesign.partition.mesh import Device, Link, grid_of_devices
from codesign.partition.network import Loop, Network, Operand, Operator, Result
from codesign.partition.objective import Objective
from codesign.partition.strategies import Pricing
from codesign.quantization.scheme import Widths
from codesign.search.placed_allocation import (
    PlacedProblem,
    WidthChoice,
    allocate_placed,
    problem_on_devices,
    problem_on_mesh,
)

WIDE, NARROW = Widths(8, 8), Widths(4, 4)
CHOICES = (WidthChoice(WIDE, 0.001), WidthChoice(NARROW, 0.02))


def chain(sizes: list[int], batch: int = 1) -> Network:
    operators = []
    value = Operand("x", (batch, sizes[0]), "activation")
    for i, outputs in enumerate(sizes[1:]):
        loops = (
            Loop("batch", batch, (0, None), 0),
            Loop("out", outputs, (None, 0), 1),
            Loop("in", value.shape[1], (1, 1), None),
        )
        weight = Operand(f"w{i}", (outputs, value.shape[1]), "parameter")
        result = Result(f"y{i}", (batch, outputs))
        macs = batch * outputs * value.shape[1]
        operators.append(Operator(f"fc{i}", "Gemm", (value, weight), (result,), loops, macs, True, True))
        value = Operand(result.value, result.shape, "activation")
    operators.append(Operator("output", "Output", (value,), (), (Loop("batch", batch, (0,), 0),)))
    return Network("chain", "chain", tuple(operators), batch, "x")


def best_by_enumeration(problem: PlacedProblem, latency_s: float) -> float:
    best = math.inf
    for picks in product(*(range(len(offered)) for offered in problem.options)):
        chosen = [offered[pick] for offered, pick in zip(problem.options, picks, strict=True)]
        seconds = sum(o.seconds for o in chosen) + sum(table[picks[u], picks[v]] for u, v, table in problem.edges)
        if seconds <= latency_s:
            best = min(best, sum(o.loss_increase_nats for o in chosen))
    return best


@settings(max_examples=25, deadline=None)
@given(data=st.data(), share=st.floats(0.2, 1.0))
def test_devices_equal_enumeration(data: st.DataObject, share: float) -> None:
    sizes = data.draw(st.lists(st.sampled_from([8, 64, 256]), min_size=2, max_size=4))
    network = chain(sizes)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    table = {
        (op.name, device, widths): float(rng.integers(1, 20)) * 1e-5
        for op in network.operators
        for device in ("a", "b")
        for widths in (WIDE, NARROW)
    }
    choices = {op.name: CHOICES for op in network.operators}
    link = Link(1e-6, 1e7)
    problem = problem_on_devices(network, choices, ("a", "b"), lambda op, d, w: table[op.name, d, w], link, WIDE)
    slowest = sum(max(o.seconds for o in offered) for offered in problem.options)
    limit = share * slowest
    expected = best_by_enumeration(problem, limit)
    if math.isinf(expected):
        with pytest.raises(InfeasibleBudgetError, match="the fastest takes"):
            allocate_placed(problem, limit)
    else:
        found = allocate_placed(problem, limit)
        assert found.loss_increase_nats == pytest.approx(expected)
        assert found.seconds <= limit * (1 + 1e-12)
        assert found.gap == 0


def test_a_mesh_equals_enumeration() -> None:
    network = chain([32, 64, 16], batch=4)
    mesh = grid_of_devices(2, Link(1e-5, 1e7))

    def pricing_of(widths: Widths) -> Pricing:
        rate = 1e9 * 64 / (widths.weight * widths.activation)
        return Pricing(mesh, False, Objective(1.0), widths.activation / 8, Device(rate, 1e9))

    problem = problem_on_mesh(network, {op.name: CHOICES for op in network.operators}, pricing_of, WIDE)
    fastest = min(allocate_placed(problem, 1.0).seconds, 1.0)
    for limit in (fastest, fastest * 0.8, fastest * 0.6):
        expected = best_by_enumeration(problem, limit)
        if math.isfinite(expected):
            assert allocate_placed(problem, limit).loss_increase_nats == pytest.approx(expected)


def test_a_slow_link_narrows_what_crosses_it() -> None:
    """The target cpu+npu; the first layers run on the NPU only, the last ones on the CPU only."""
    target = load_target("cpu+npu")
    assert target.link is not None
    rates = {group.name: load_profile(group.profile, target.threads).rate(8, 8) for group in target.devices}
    network = chain([512, 8192, 8192, 512])
    only = {"fc0": "npu", "fc1": "npu", "fc2": "cpu"}

    def seconds(op: Operator, device: str, widths: Widths) -> float | None:
        if only.get(op.name, device) != device:
            return None
        return op.macs / (rates[device].macs_per_s * rates[device].efficiency)

    def widths_with(bandwidth: float) -> dict[str, Widths]:
        link = Link(target.link.latency_s if target.link else 0.0, bandwidth)
        choices = dict.fromkeys(only, CHOICES)
        problem = problem_on_devices(network, choices, ("cpu", "npu"), seconds, link, WIDE)
        found = allocate_placed(problem, 0.00058)
        assert [option.place for _, option in found.choice] == ["npu", "npu", "cpu", "cpu"]
        return {name: option.widths for name, option in found.choice if name in only}

    assert set(widths_with(1e12).values()) == {WIDE}
    narrowed = widths_with(target.link.bandwidth_bytes_per_s * 0.1)
    assert narrowed == {"fc0": WIDE, "fc1": WIDE, "fc2": NARROW}


def test_what_no_device_can_run_is_named() -> None:
    with pytest.raises(InputError, match=r"operator 'fc0' .*: no device can run it"):
        problem_on_devices(chain([4, 4]), {"fc0": CHOICES}, ("a",), lambda *_: None, Link(0.0, 1.0), WIDE)
    with pytest.raises(InputError, match="layer 'fc0': no widths"):
        problem_on_devices(chain([4, 4]), {}, ("a",), lambda *_: 1.0, Link(0.0, 1.0), WIDE)
