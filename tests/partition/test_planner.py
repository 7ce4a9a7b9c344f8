"""The planner finds the optimum, which no restricted mode beats."""

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleBudgetError
from codesign.partition.mesh import Device, Link, Mesh, MeshAxis, grid_of_devices, parse_mesh
from codesign.partition.modes import MODES, candidates
from codesign.partition.network import Loop, Network, Operand, Operator, Result
from codesign.partition.objective import GOALS, Objective, is_training, objective_of
from codesign.partition.planner import plan
from codesign.partition.strategies import Pricing


def dense(name: str, source: Operand, outputs: int) -> Operator:
    batch, inputs = source.shape
    loops = (
        Loop("batch", batch, (0, None), 0),
        Loop("out", outputs, (None, 0), 1),
        Loop("in", inputs, (1, 1), None),
    )
    weight = Operand(f"{name}:weight", (outputs, inputs), "parameter")
    result = Result(f"{name}:y", (batch, outputs))
    return Operator(name, "Gemm", (source, weight), (result,), loops, batch * inputs * outputs, True, True)


def add(name: str, a: Operand, b: Operand) -> Operator:
    loops = (Loop("batch", a.shape[0], (0, 0), 0), Loop("axis1", a.shape[1], (1, 1), 1))
    return Operator(name, "Add", (a, b), (Result(f"{name}:y", a.shape),), loops)


@st.composite
def networks(draw: st.DrawFn, most: int = 4) -> Network:
    """Dense layers and additions of earlier values of the same shape."""
    batch = draw(st.sampled_from([4, 6, 8, 12]))
    values = [Operand("x", (batch, draw(st.sampled_from([4, 8, 9]))), "activation")]
    operators: list[Operator] = []
    for i in range(draw(st.integers(1, most))):
        source = values[draw(st.integers(0, len(values) - 1))]
        same = [v for v in values if v.shape == source.shape and v is not source]
        if same and draw(st.sampled_from([False, True])):
            operators.append(add(f"add{i}", source, same[0]))
        else:
            operators.append(dense(f"dense{i}", source, draw(st.sampled_from([4, 8, 9]))))
        result = operators[-1].results[0]
        values.append(Operand(result.value, result.shape, "activation"))
    sink = Operator("output", "Output", (values[-1],), (), (Loop("batch", batch, (0,), 0),))
    return Network("random", "random", (*operators, sink), batch, "x")


FAST, SLOW = Link(1e-6, 1e9, 1e-10), Link(2e-6, 1e8, 1e-9)


@st.composite
def pricings(draw: st.DrawFn) -> Pricing:
    mesh = draw(
        st.sampled_from([
            grid_of_devices(4, FAST),
            grid_of_devices(6, SLOW),
            parse_mesh("data=2,model=2", FAST),
            Mesh((MeshAxis("slow", 2, SLOW), MeshAxis("fast", 2, FAST))),
            parse_mesh("a=2,b=1,c=2", FAST),
        ])
    )
    goal = draw(st.sampled_from(GOALS))
    device = draw(st.sampled_from([None, Device(1e9, 1e9, 1e-6, power_w=2.0)]))
    return Pricing(mesh, is_training(goal), objective_of(goal), draw(st.sampled_from([1.0, 4.0])), device)


@settings(max_examples=25, deadline=None)
@given(network=networks(3), pricing=pricings(), redistribution=st.booleans())
def test_the_optimum_equals_enumeration(network: Network, pricing: Pricing, redistribution: bool) -> None:
    found = plan(network, pricing, "optimal", redistribution)
    assert found is not None
    (candidate,) = candidates(network, pricing, "optimal", redistribution)
    sizes = [range(len(offered)) for offered in candidate.options]
    if math.prod(len(size) for size in sizes) <= 20_000:
        assert found.value == pytest.approx(min(map(candidate.problem.value, product(*sizes))), rel=1e-12)
    assert found.gap == 0


@settings(max_examples=40, deadline=None)
@given(network=networks(5), pricing=pricings(), redistribution=st.booleans())
def test_no_restricted_mode_is_better(network: Network, pricing: Pricing, redistribution: bool) -> None:
    best = plan(network, pricing, "optimal", redistribution)
    assert best is not None
    for mode in MODES:
        found = plan(network, pricing, mode, redistribution)
        if found is not None:
            assert best.value <= found.value * (1 + 1e-9) + 1e-11


def test_a_restricted_mode_may_not_leave_devices_alike_where_the_optimum_may_not() -> None:
    """A batch of 4 and 4 channels on 6 devices: divisible by no flat grid, shared by 3 x 2."""
    image, weight = Operand("x", (4, 4), "activation"), Operand("dense:weight", (4, 4), "parameter")
    loops = (Loop("batch", 4, (0, None), 0), Loop("out", 4, (None, 0), 1), Loop("in", 4, (1, 1), None))
    dense = Operator("dense", "Gemm", (image, weight), (Result("y", (4, 4)),), loops, 64, True, True)
    end = Operator("output", "Output", (Operand("y", (4, 4), "activation"),), (), (Loop("batch", 4, (0,), 0),), 0)
    network = Network("small", "small", (dense, end), 4, "x")
    pricing = Pricing(grid_of_devices(6, SLOW), True, Objective(1.0))
    best = plan(network, pricing, "optimal", False)
    assert best is not None
    for mode in MODES:
        found = plan(network, pricing, mode, False)
        assert found is None or best.value <= found.value * (1 + 1e-9) + 1e-11, mode


@settings(max_examples=15, deadline=None)
@given(network=networks(4), pricing=pricings())
def test_the_reported_price_is_what_was_minimised(network: Network, pricing: Pricing) -> None:
    for mode in MODES:
        found = plan(network, pricing, mode)
        if found is not None:
            assert pricing.objective.of(found.price) == pytest.approx(found.value, rel=1e-9, abs=1e-11)


@settings(max_examples=15, deadline=None)
@given(network=networks(4), factor=st.sampled_from([2.0, 10.0]))
def test_more_bandwidth_is_never_slower(network: Network, factor: float) -> None:
    times = []
    for link in (SLOW, replace(SLOW, bandwidth_bytes_per_s=SLOW.bandwidth_bytes_per_s * factor)):
        found = plan(network, Pricing(grid_of_devices(4, link), True, Objective(1.0)))
        assert found is not None
        times.append(found.price.seconds)
    assert times[1] <= times[0] + 1e-11


@settings(max_examples=10, deadline=None)
@given(network=networks(3))
def test_a_memory_limit_is_kept(network: Network) -> None:
    pricing = Pricing(grid_of_devices(4, FAST), True, Objective(1.0))
    free = plan(network, pricing)
    least = plan(network, replace(pricing, objective=objective_of("memory")))
    assert free is not None
    assert least is not None
    held = least.price.memory_bytes
    tight = plan(network, pricing, memory_bytes=held)
    assert tight is not None
    assert tight.price.memory_bytes <= held * (1 + 1e-12)
    assert tight.value >= free.value - 1e-11
    assert tight.method == "integer-programme"
    with pytest.raises(InfeasibleBudgetError, match="no plan of mode 'optimal' fits"):
        plan(network, pricing, memory_bytes=held * 0.99)


def test_more_devices_than_samples_leaves_no_pure_batch() -> None:
    layer = dense("fc", Operand("x", (4, 64), "activation"), 64)
    y = Operand(layer.results[0].value, (4, 64), "activation")
    sink = Operator("output", "Output", (y,), (), (Loop("batch", 4, (0,), 0),))
    network = Network("one", "one", (layer, sink), 4, "x")
    pricing = Pricing(grid_of_devices(8, FAST), True, Objective(1.0))
    assert plan(network, pricing, "batch") is None
    assert plan(network, pricing, "grid") is not None
