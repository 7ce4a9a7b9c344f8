"""Kernels that are predicted by their likeness to measured ones."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost.base import kernel_latency_s, price
from codesign.cost.resembling import LEAST_KERNELS, ResemblingModel, TimedKernel, fit_resemblance
from codesign.cost.select import cost_model_for
from codesign.cost.table import workload_of
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry, GraphFacts, NodeFacts, with_merged
from codesign.plan.plan import Plan
from codesign.quantization.scheme import BitWidths
from codesign.testing.cost_conformance import move_node, multiply_node

BASE = cost_model_for(load_profile("raspberry-pi-4"))
WIDTHS = (BitWidths(4, 8), BitWidths(8, 8))


def _node(inputs: int, outputs: int, size: int, taps: int) -> NodeFacts:
    geometry = ConvGeometry(1, inputs, outputs, (taps, taps), (1, 1), (size, size), (size, size), 1)
    return multiply_node("conv", "Conv", geometry)


def _drawn(rng: np.random.Generator, count: int) -> list[tuple[NodeFacts, BitWidths]]:
    channels = [int(c) for c in rng.integers(4, 64, 2 * count)]
    return [
        (_node(channels[2 * i], channels[2 * i + 1], int(rng.integers(4, 32)), int(rng.choice([1, 3]))), WIDTHS[i % 2])
        for i in range(count)
    ]


def _timed(node: NodeFacts, bits: BitWidths, seconds: float) -> TimedKernel:
    return TimedKernel(workload_of(node, bits), kernel_latency_s(BASE, node, bits), seconds)


def test_a_smooth_error_is_found_for_kernels_that_were_not_measured() -> None:
    def truth_s(node: NodeFacts, bits: BitWidths) -> float:
        return kernel_latency_s(BASE, node, bits) * math.exp(0.3 * math.log(node.output_elements) - 2)

    rng = np.random.default_rng(0)
    found = fit_resemblance([_timed(n, b, truth_s(n, b)) for n, b in _drawn(rng, 80)], 0)
    assert found is not None
    model = ResemblingModel(BASE, found)
    others = _drawn(rng, 40)
    after = [abs(math.log(kernel_latency_s(model, n, b) / truth_s(n, b))) for n, b in others]
    before = [abs(math.log(kernel_latency_s(BASE, n, b) * math.exp(found.bias) / truth_s(n, b))) for n, b in others]
    assert np.median(after) < 0.02
    assert np.median(after) < np.median(before) / 10


@given(st.floats(0.01, 100.0))
def test_a_factor_on_all_kernels_is_a_factor_on_others(factor: float) -> None:
    drawn = _drawn(np.random.default_rng(1), 30)
    found = fit_resemblance([_timed(n, b, factor * kernel_latency_s(BASE, n, b)) for n, b in drawn], 0)
    assert found is not None
    model, far = ResemblingModel(BASE, found), _node(2048, 2048, 56, 3)
    for node in (drawn[0][0], far):
        expected_s = factor * kernel_latency_s(BASE, node, WIDTHS[0])
        assert kernel_latency_s(model, node, WIDTHS[0]) == pytest.approx(expected_s)
    assert model.provenance == "calibrated"
    assert model.price_node(far, WIDTHS[0]).energy_j >= 0


def test_merged_nodes_are_part_of_their_kernel_and_free_nodes_stay_free() -> None:
    drawn = _drawn(np.random.default_rng(2), 30)
    found = fit_resemblance([_timed(n, b, 2 * kernel_latency_s(BASE, n, b)) for n, b in drawn], 0)
    assert found is not None
    nodes = with_merged([
        _node(16, 16, 8, 3),
        move_node("relu", "Relu", 1024, 1024, fused_into="conv"),
        move_node("flat", "Reshape", 1024, 1024),
    ])
    model, facts = ResemblingModel(BASE, found), GraphFacts(nodes, "digest")
    plan = Plan("net", (("conv", WIDTHS[1]),))
    assert price(model, facts, plan).latency_s == pytest.approx(2 * price(BASE, facts, plan).latency_s, rel=0.05)
    assert [model.price_node(node, WIDTHS[1]).latency_s for node in nodes[1:]] == [0.0, 0.0]


def test_a_few_kernels_say_nothing_of_others() -> None:
    drawn = _drawn(np.random.default_rng(3), LEAST_KERNELS)
    timed = [_timed(n, b, 1e-6) for n, b in drawn]
    assert fit_resemblance(timed, 0) is not None
    assert fit_resemblance(timed[:-1], 0) is None
    assert fit_resemblance([*timed[:-1], dataclasses.replace(timed[-1], seconds=0.0)], 0) is None


def test_narrow_weights_cost_what_the_base_model_says_however_they_were_measured() -> None:
    early, late = _drawn(np.random.default_rng(4), 60)[:30], [(_node(c, 64, 2, 3), WIDTHS[0]) for c in range(8, 38)]
    timed = [_timed(n, WIDTHS[1], 2 * kernel_latency_s(BASE, n, WIDTHS[1])) for n, _ in early]
    timed += [_timed(n, b, 0.5 * kernel_latency_s(BASE, n, b)) for n, b in late]  # the only narrow ones
    found = fit_resemblance(timed, 0)
    assert found is not None
    model = ResemblingModel(BASE, found)
    for node, _ in early:
        narrow, wide = (kernel_latency_s(model, node, bits) for bits in WIDTHS)
        expected = kernel_latency_s(BASE, node, WIDTHS[0]) / kernel_latency_s(BASE, node, WIDTHS[1])
        assert narrow / wide == pytest.approx(expected)
