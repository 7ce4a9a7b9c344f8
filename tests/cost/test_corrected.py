"""Corrections of a cost model by measured networks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.corrected import CorrectedModel, Correction, MeasuredNetwork, fit_correction
from codesign.cost.select import cost_model_for
from codesign.errors import InputError
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import BitWidths
from codesign.testing.cost_conformance import move_node, multiply_node

BASE = cost_model_for(load_profile("raspberry-pi-4"))
CONV = multiply_node("c", "Conv", ConvGeometry(1, 16, 16, (3, 3), (1, 1), (32, 32), (32, 32), 1))
RELU = move_node("r", "Relu", 1000, 1000)
BITS = BitWidths(8, 8)


NETWORKS = st.lists(st.tuples(st.floats(1e-5, 1e-2), st.integers(1, 90)), min_size=3)


@given(st.floats(0.2, 5), NETWORKS)
def test_a_true_scale_is_found(scale: float, networks: list[tuple[float, int]]) -> None:
    found = fit_correction([MeasuredNetwork(p, 0.0, n, scale * p) for p, n in networks])
    for predicted_s, calls in networks:
        assert found.scale * predicted_s + calls * found.call_s == pytest.approx(scale * predicted_s, rel=1e-6)


def test_calls_are_told_from_the_rest_where_depths_differ() -> None:
    networks = [(1e-5, 10), (1e-5, 80), (8e-5, 10), (8e-5, 80), (4e-5, 40), (4e-5, 20)]
    found = fit_correction([MeasuredNetwork(p, 0.0, n, 1.5 * p + n * 1e-6) for p, n in networks])
    assert found.scale == pytest.approx(1.5, rel=0.1)
    assert found.call_s == pytest.approx(1e-6, rel=0.1)


def test_networks_of_one_depth_keep_their_order() -> None:
    found = fit_correction([MeasuredNetwork(p, 0.0, 40, 5e-5) for p in (1e-5, 2e-5, 3e-5)])
    assert found.scale > 0.2


def test_few_networks_give_the_scale_alone() -> None:
    found = fit_correction([MeasuredNetwork(1.0, 0.5, 10, 2.0), MeasuredNetwork(1.0, 0.0, 20, 2.0)])
    assert found.scale == pytest.approx(2.0)
    assert found.grouped_scale == found.scale
    assert (found.call_s, found.networks) == (0.0, 2)
    assert fit_correction([]) == Correction()


def test_a_latency_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="not above 0"):
        fit_correction([MeasuredNetwork(0.0, 0.0, 1, 1.0)])


def test_prices_are_corrected_and_idle_power_follows() -> None:
    before = BASE.price_node(CONV, BITS)
    model = CorrectedModel(BASE, Correction(2.0, 9.0, 1e-6, 4))
    after = model.price_node(CONV, BITS)
    assert after.latency_s == pytest.approx(2 * before.latency_s + 1e-6)
    idle_j = BASE.profile.idle_power_w * (after.latency_s - before.latency_s)
    assert after.energy_j == pytest.approx(before.energy_j + idle_j)
    assert model.provenance == "calibrated"


def test_convolutions_with_groups_have_a_scale_of_their_own() -> None:
    networks = [(5e-6, 0.0, 20), (6e-6, 0.0, 24), (5e-6, 2e-6, 20), (9e-6, 0.0, 30)]
    found = fit_correction([MeasuredNetwork(p, g, n, 1.2 * (p - g) + 10 * g) for p, g, n in networks])
    assert found.scale == pytest.approx(1.2, rel=0.05)
    assert found.grouped_scale == pytest.approx(10, rel=0.05)
    grouped = multiply_node("g", "Conv", ConvGeometry(1, 16, 16, (3, 3), (1, 1), (32, 32), (32, 32), 2))
    before = BASE.price_node(grouped, BITS)
    after = CorrectedModel(BASE, Correction(1.0, 3.0, 0.0, 4)).price_node(grouped, BITS)
    assert after.latency_s == pytest.approx(3 * before.latency_s)


def test_no_correction_changes_nothing() -> None:
    model = CorrectedModel(BASE, Correction())
    assert model.price_node(CONV, BITS) == BASE.price_node(CONV, BITS)
    assert model.price_node(RELU, BITS) == BASE.price_node(RELU, BITS)
    assert model.provenance == BASE.provenance
