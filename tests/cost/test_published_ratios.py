"""Ratios between networks on 16x16 elements against those that the SqueezeNext paper publishes."""

import csv
from pathlib import Path

import pytest

from codesign.cost.squeezelerator import SqueezeleratorModel
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry

LAYERS = Path(__file__).parents[2] / ".." / "shared" / "reference" / "network_layers.csv"
pytestmark = pytest.mark.skipif(not LAYERS.is_file(), reason="needs ../shared/reference/network_layers.csv")

PROFILE = load_profile("squeezelerator-16x16")
WORD_BITS = 16


def _geometry(row: dict[str, str]) -> ConvGeometry:
    def pair(first: str, second: str) -> tuple[int, int]:
        return int(row[first]), int(row[second])

    return ConvGeometry(
        batch=1,
        input_channels=int(row["C"]),
        output_channels=int(row["K"]),
        kernel=pair("R", "S"),
        stride=pair("sh", "sw"),
        output_size=pair("OH", "OW"),
        input_size=pair("H", "W"),
        groups=int(row["groups"]),
    )


def _totals(model: SqueezeleratorModel) -> dict[str, tuple[float, float]]:
    totals: dict[str, tuple[float, float]] = {}
    with LAYERS.open(newline="") as file:
        for row in csv.DictReader(file):
            mapping = model.best_mapping(_geometry(row), WORD_BITS, WORD_BITS)
            latency_s, energy_j = totals.get(row["net"], (0.0, 0.0))
            totals[row["net"]] = (latency_s + mapping.latency_s, energy_j + mapping.energy_j)
    return totals


@pytest.fixture(scope="module")
def totals() -> dict[str, tuple[float, float]]:
    return _totals(SqueezeleratorModel(PROFILE))


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
        alone = _totals(SqueezeleratorModel(PROFILE.model_copy(update={"array": array})))
        assert alone["SqueezeNet_v1.0"][0] > 1.2 * totals["SqueezeNet_v1.0"][0]


def _squeezenext_blocks(stem_kernel: int, blocks: tuple[int, int, int, int]) -> list[ConvGeometry]:
    """Convolutions of 1.0-SqNxt-23 with other block counts, 227x227 input; the released forms match the table."""

    def convolution(
        channels: int, filters: int, kernel: tuple[int, int], stride: int, size: int, out: int
    ) -> ConvGeometry:
        return ConvGeometry(1, channels, filters, kernel, (stride, stride), (out, out), (size, size), 1)

    size = (227 - stem_kernel) // 2 + 1
    layers = [convolution(3, 64, (stem_kernel, stem_kernel), 2, 227, size)]
    size = -(-(size - 3) // 2) + 1
    channels = 64
    for stage, (width, count) in enumerate(zip((32, 64, 128, 256), blocks, strict=True)):
        for block in range(count):
            stride = 2 if block == 0 and stage > 0 else 1
            out = -(-size // stride)
            if block == 0:
                layers.append(convolution(channels, width, (1, 1), stride, size, out))
            layers.append(convolution(channels, width // 2, (1, 1), stride, size, out))
            layers.append(convolution(width // 2, width // 4, (1, 1), 1, out, out))
            taps = [(3, 1), (1, 3)] if block % 2 == 0 else [(1, 3), (3, 1)]
            layers.append(convolution(width // 4, width // 2, taps[0], 1, out, out))
            layers.append(convolution(width // 2, width // 2, taps[1], 1, out, out))
            layers.append(convolution(width // 2, width, (1, 1), 1, out, out))
            channels, size = width, out
    layers.append(convolution(256, 128, (1, 1), 1, size, size))
    layers.append(ConvGeometry(1, 128, 1000, (1, 1), (1, 1), (1, 1), (1, 1), 1))
    return layers


def test_each_published_revision_of_squeezenext_improves_on_the_one_before() -> None:
    model = SqueezeleratorModel(PROFILE)
    revisions = [(7, (6, 6, 8, 1)), (5, (6, 6, 8, 1)), (5, (4, 8, 8, 1)), (5, (2, 10, 8, 1)), (5, (2, 4, 14, 1))]
    times, energies = [], []
    for stem, blocks in revisions:
        mappings = [model.best_mapping(layer, WORD_BITS, WORD_BITS) for layer in _squeezenext_blocks(stem, blocks)]
        times.append(sum(mapping.latency_s for mapping in mappings))
        energies.append(sum(mapping.energy_j for mapping in mappings))
    assert times == sorted(times, reverse=True)
    assert energies == sorted(energies, reverse=True)


def test_the_generated_first_version_is_the_tabulated_one(totals: dict[str, tuple[float, float]]) -> None:
    model = SqueezeleratorModel(PROFILE)
    layers = _squeezenext_blocks(7, (6, 6, 8, 1))
    total_s = sum(model.best_mapping(layer, WORD_BITS, WORD_BITS).latency_s for layer in layers)
    assert total_s == pytest.approx(totals["SqNxt-23"][0], rel=1e-9)
