"""Both cost models keep the public invariants, on shipped and on random devices and nodes; broken models don't."""

import dataclasses
import functools
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.cost.array_model import ArrayModel
from codesign.cost.base import CostModel, NodeCost
from codesign.cost.roofline import RooflineModel
from codesign.cost.select import cost_model_for
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import DATAFLOWS, HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import ConvGeometry, NodeFacts
from codesign.quantization.scheme import BitWidths
from codesign.testing.cost_conformance import (
    ENERGY_CHECKS,
    EXAMPLE_NODES,
    LATENCY_CHECKS,
    Check,
    ModelFactory,
    check_costs_are_numbers,
    check_energy_is_bounded,
    check_fewer_bits_are_never_slower,
    check_fewer_bits_never_cost_more,
    check_latency_is_bounded,
    check_missing_rate_is_refused,
    check_more_resources_are_never_slower,
    check_more_resources_never_cost_more,
    multiply_node,
)

HOST = load_profile("host-cpu")
ARRAY = load_profile("squeezelerator-16x16")
FRUGAL = functools.partial(ArrayModel, objective="energy")


@pytest.mark.parametrize("check", LATENCY_CHECKS + ENERGY_CHECKS)
def test_the_roofline_model_on_this_machine(check: Check) -> None:
    check(RooflineModel, HOST, EXAMPLE_NODES)


@pytest.mark.parametrize("check", LATENCY_CHECKS)
def test_the_array_model_that_looks_for_speed(check: Check) -> None:
    check(ArrayModel, ARRAY, EXAMPLE_NODES)


@pytest.mark.parametrize("check", ENERGY_CHECKS)
def test_the_array_model_that_looks_for_energy(check: Check) -> None:
    check(FRUGAL, ARRAY, EXAMPLE_NODES)


@pytest.mark.parametrize("profile", [HOST, ARRAY], ids=lambda profile: profile.name)
def test_the_model_that_a_profile_asks_for(profile: HardwareProfile) -> None:
    model = cost_model_for(profile)
    assert model.profile == profile
    assert isinstance(model, RooflineModel if profile.model == "roofline" else ArrayModel)


@st.composite
def _nodes(draw: st.DrawFn) -> NodeFacts:
    groups = draw(st.sampled_from([1, 1, 1, 2, 8]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 1)]))
    stride = draw(st.integers(1, 2))
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    geometry = ConvGeometry(
        1,
        groups * draw(st.integers(1, 40)),
        groups * draw(st.integers(1, 40)),
        kernel,
        (stride, stride),
        (height, width),
        (height * stride, width * stride),
        groups,
    )
    return multiply_node("conv", "Conv", geometry)


@st.composite
def _arrays(draw: st.DrawFn) -> HardwareProfile:
    assert ARRAY.array is not None
    rows, columns = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    kind = draw(st.sampled_from(sorted(DATAFLOWS)))
    array = ARRAY.array.model_copy(
        update={
            "kind": kind,
            "rows": rows,
            "columns": columns,
            "filters_per_element": 1 if kind == "skewed" else draw(st.sampled_from([1, 4, 16])),
            "dataflows": DATAFLOWS[kind],
        }
    )
    storage = {"storage": draw(st.sampled_from(["packed", "bytes"]))}
    register, buffer, dram = (level.model_copy(update=storage) for level in ARRAY.memories)
    buffer = buffer.model_copy(
        update={"capacity_bytes": draw(st.integers(6000, 300000)), "bandwidth_bytes_per_s": draw(st.floats(1e9, 1e12))}
    )
    dram = dram.model_copy(update={"bandwidth_bytes_per_s": draw(st.floats(1e8, 1e11))})
    compute = tuple(row.model_copy(update={"macs_per_s": array.macs_per_s}) for row in ARRAY.compute)
    power = {"idle_power_w": draw(st.sampled_from([0.0, 0.1]))}
    return ARRAY.model_copy(update={"array": array, "compute": compute, "memories": (register, buffer, dram)} | power)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(profile=_arrays(), node=_nodes())
def test_random_arrays_and_layers(profile: HardwareProfile, node: NodeFacts) -> None:
    for check in LATENCY_CHECKS:
        check(ArrayModel, profile, [node])
    for check in ENERGY_CHECKS:
        check(FRUGAL, profile, [node])


@st.composite
def _processors(draw: st.DrawFn) -> HardwareProfile:
    memories = tuple(
        level.model_copy(
            update={
                "capacity_bytes": level.capacity_bytes * draw(st.floats(0.01, 4)),
                "bandwidth_bytes_per_s": level.bandwidth_bytes_per_s * draw(st.floats(0.1, 10)),
            }
        )
        for level in HOST.memories
    )
    rate = draw(st.floats(1e9, 1e12))
    compute = tuple(row.model_copy(update={"macs_per_s": rate}) for row in HOST.compute)
    return HOST.model_copy(update={"memories": memories, "compute": compute, "dispatch_s": draw(st.floats(0, 1e-5))})


@settings(max_examples=40, deadline=None)
@given(profile=_processors(), node=_nodes())
def test_random_processors_and_layers(profile: HardwareProfile, node: NodeFacts) -> None:
    for check in LATENCY_CHECKS + ENERGY_CHECKS:
        check(RooflineModel, profile, [node])


@dataclasses.dataclass(frozen=True)
class _Bent:
    """A model whose costs are bent by a rule."""

    inner: CostModel
    rule: str

    @property
    def profile(self) -> HardwareProfile:
        return self.inner.profile

    @property
    def provenance(self) -> Provenance:
        return self.inner.provenance

    def price_node(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        if self.rule == "guesses":
            bits = BitWidths(8, 8)
        cost = self.inner.price_node(node, bits)
        dram = self.profile.memories[-1].bandwidth_bytes_per_s / HOST.memories[-1].bandwidth_bytes_per_s
        factor = {
            "too-good": 1e-9,
            "bandwidth-hurts": dram,
            "narrow-hurts": 9 - bits.weight,
            "nan": float("nan"),
            "guesses": 1.0,
        }[self.rule]
        return NodeCost(cost.latency_s * factor, cost.energy_j * factor, cost.bound)


def _bent(rule: str) -> ModelFactory:
    return lambda profile: _Bent(RooflineModel(profile), rule)


@pytest.mark.parametrize(
    ("rule", "checks"),
    [
        ("too-good", [check_latency_is_bounded, check_energy_is_bounded]),
        ("bandwidth-hurts", [check_more_resources_are_never_slower, check_more_resources_never_cost_more]),
        ("narrow-hurts", [check_fewer_bits_are_never_slower, check_fewer_bits_never_cost_more]),
        ("nan", [check_costs_are_numbers]),
        ("guesses", [check_missing_rate_is_refused]),
    ],
)
def test_the_checks_catch_a_broken_model(rule: str, checks: Sequence[Check]) -> None:
    for check in checks:
        with pytest.raises(AssertionError):
            check(_bent(rule), HOST, EXAMPLE_NODES)
