"""Ratios between networks on 16x16 elements against those that the SqueezeNext paper publishes."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from codesign.architecture.squeezenext import (
    SqueezeNext,
    squeezenext_23,
    squeezenext_23_v2,
    squeezenext_23_v3,
    squeezenext_23_v4,
    squeezenext_23_v5,
)
from codesign.cost.array_model import best_mappings
from codesign.cost.layers_csv import read_layers
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import HardwareProfile
from codesign.plan.facts import ConvGeometry
from codesign.testing.module_geometry import geometries_of

LAYERS = Path(__file__).parents[2] / ".." / "shared" / "reference" / "network_layers.csv"
pytestmark = pytest.mark.skipif(not LAYERS.is_file(), reason="needs ../shared/reference/network_layers.csv")

PROFILE = load_profile("squeezelerator-16x16")
WORDS = (16, 16)


def _total(profile: HardwareProfile, geometries: Sequence[ConvGeometry]) -> tuple[float, float]:
    mappings = best_mappings(profile, geometries, WORDS)
    return sum(mapping.latency_s for mapping in mappings), sum(mapping.energy_j for mapping in mappings)


def _totals(profile: HardwareProfile) -> dict[str, tuple[float, float]]:
    networks = itertools.groupby(read_layers(LAYERS), lambda layer: layer.network)
    return {name: _total(profile, [layer.geometry for layer in layers]) for name, layers in networks}


@pytest.fixture(scope="module")
def totals() -> dict[str, tuple[float, float]]:
    return _totals(PROFILE)


@pytest.mark.parametrize(
    ("net", "time_ratio", "energy_ratio"), [("SqueezeNet_v1.0", 2.59, 2.25), ("AlexNet", 8.26, 7.5)]
)
def test_published_ratios_to_the_last_squeezenext(
    totals: dict[str, tuple[float, float]], net: str, time_ratio: float, energy_ratio: float
) -> None:
    latency_s, energy_j = totals["SqNxt-23v5"]
    assert totals[net][0] / latency_s == pytest.approx(time_ratio, rel=0.3)
    assert totals[net][1] / energy_j == pytest.approx(energy_ratio, rel=0.3)


def test_the_hardware_aware_redesign_is_faster_and_cheaper_than_the_first_version(
    totals: dict[str, tuple[float, float]],
) -> None:
    first, last = totals["SqNxt-23"], totals["SqNxt-23v5"]
    assert first[0] > 1.1 * last[0]
    assert first[1] > 1.1 * last[1]


def test_networks_keep_the_published_order(totals: dict[str, tuple[float, float]]) -> None:
    order = ["AlexNet", "SqueezeNet_v1.0", "SqueezeNet_v1.1", "SqNxt-23v5"]
    for metric in (0, 1):
        values = [totals[net][metric] for net in order]
        assert values == sorted(values, reverse=True)


def test_choosing_a_dataflow_for_each_layer_beats_either_alone(totals: dict[str, tuple[float, float]]) -> None:
    assert PROFILE.array is not None
    for dataflow in PROFILE.array.dataflows:
        array = PROFILE.array.model_copy(update={"dataflows": (dataflow,)})
        alone = _totals(PROFILE.model_copy(update={"array": array}))
        assert alone["SqueezeNet_v1.0"][0] > 1.2 * totals["SqueezeNet_v1.0"][0]


def _total_of(build: Callable[[], SqueezeNext]) -> tuple[float, float]:
    return _total(PROFILE, geometries_of(build, (1, 3, 227, 227)))


def test_each_published_revision_of_squeezenext_improves_on_the_one_before() -> None:
    revisions = [
        squeezenext_23,
        squeezenext_23_v2,
        squeezenext_23_v3,
        squeezenext_23_v4,
        squeezenext_23_v5,
    ]
    totals = [_total_of(revision) for revision in revisions]
    for better, worse in zip(totals[1:], totals[:-1], strict=True):
        assert better[0] < worse[0]
        assert better[1] < worse[1]


@pytest.mark.parametrize(
    ("build", "tabulated"), [(squeezenext_23, "SqNxt-23"), (squeezenext_23_v5, "SqNxt-23v5")], ids=["v1", "v5"]
)
def test_built_networks_are_the_released_ones(
    totals: dict[str, tuple[float, float]], build: Callable[[], SqueezeNext], tabulated: str
) -> None:
    assert _total_of(build) == pytest.approx(totals[tabulated], rel=1e-9)
