from dataclasses import replace

import pytest

from codesign.cost.layer_report import report_layers
from codesign.cost.select import cost_model_for
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry, NodeFacts
from codesign.quantization.scheme import Widths
from codesign.report import simulation_figures as figures
from codesign.report.simulation_contents import SimulationResult
from codesign.testing.cost_conformance import move_node, multiply_node


def _matrix(name: str, rows: int, size: int, has_weight: bool = True) -> NodeFacts:
    return multiply_node(name, "MatMul", ConvGeometry(rows, size, size, (1, 1), (1, 1), (1, 1), (1, 1), 1), has_weight)


NODES = (
    _matrix("wide", 512, 512),
    _matrix("vector", 1, 2048),
    move_node("relu", "Relu", 4096, 4096),
    _matrix("attention", 64, 64, has_weight=False),
)


def _result(name: str, weight_bits: int = 8) -> SimulationResult:
    profile = load_profile(name)
    layers = report_layers(profile, NODES, weight_bits, 8)
    return SimulationResult("net", None, profile, cost_model_for(profile).provenance, Widths(weight_bits, 8), layers)


ARRAY, PROCESSOR = _result("squeezelerator-16x16", 4), _result("x86-vnni-core")


@pytest.mark.parametrize("result", [ARRAY, PROCESSOR], ids=lambda result: result.profile.name)
def test_no_layer_is_above_its_roof(result: SimulationResult) -> None:
    multiplying = [layer for layer in result.layers if layer.widths is not None]
    assert len(multiplying) == 3
    for layer in multiplying:
        level = figures.outermost_level(layer, result.profile)
        assert level is not None
        assert layer.widths is not None
        intensity = layer.macs / layer.traffic_bytes[level.name]
        roof = figures.attainable(result.profile, layer.widths, level, intensity)
        assert 0 < layer.macs / layer.latency_s <= roof * (1 + 1e-12)


def test_the_level_is_dram_on_arrays_and_where_the_data_lies_on_processors() -> None:
    def levels(result: SimulationResult) -> list[str]:
        found = [figures.outermost_level(layer, result.profile) for layer in result.layers]
        return [level.name for level in found if level is not None]

    assert levels(ARRAY) == ["dram"] * 4
    names = [level.name for level in PROCESSOR.profile.memories]
    assert len(set(levels(PROCESSOR))) > 1
    assert set(levels(PROCESSOR)) <= set(names)


def test_the_roof_bends_at_the_ridge() -> None:
    profile = ARRAY.profile
    dram, peak = profile.memories[-1], profile.rate(8, 8).macs_per_s
    ridge = peak / dram.bandwidth_bytes_per_s
    roof = [figures.attainable(profile, Widths(8, 8), dram, ridge * factor) for factor in (0.5, 1, 2)]
    assert roof == pytest.approx([peak / 2, peak, peak])


def test_roofline_shows_each_layer_that_multiplies_under_a_roof_for_each_pair_of_widths() -> None:
    figure = figures.roofline_figure(ARRAY)
    roofs = [trace for trace in figure.data if trace.mode == "lines"]
    assert [roof.name for roof in roofs] == ["roof: 4x8 bits, dram", "roof: 8x8 bits, dram"]
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    points = {
        text.partition("<br>")[0]: (x, y, size)
        for trace in marks
        for text, x, y, size in zip(trace.text, trace.x, trace.y, trace.marker.size, strict=True)
    }
    assert set(points) == {"wide", "vector", "attention"}
    for layer in ARRAY.layers:
        if layer.macs:
            x, y = layer.macs / layer.traffic_bytes["dram"], layer.macs / layer.latency_s
            assert points[layer.name][:2] == (x, y)
    by_latency = sorted((layer for layer in ARRAY.layers if layer.macs), key=lambda layer: layer.latency_s)
    sizes = [points[layer.name][2] for layer in by_latency]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    for roof in roofs:
        assert roof.x[0] < min(x for x, _, _ in points.values())
        assert roof.x[-1] > max(x for x, _, _ in points.values())


def test_a_processor_has_a_roof_for_each_level_in_use() -> None:
    roofs = [trace.name for trace in figures.roofline_figure(PROCESSOR).data if trace.mode == "lines"]
    assert len(roofs) > 1
    assert all(name.startswith("roof: 8x8 bits, ") for name in roofs)


def test_bars_have_the_latency_of_every_layer_and_the_colour_of_its_bound() -> None:
    figure = figures.latency_figure(ARRAY)
    colours = figures.bound_colours(ARRAY)
    shown: dict[int, tuple[str, float]] = {}
    for trace in figure.data:
        bound = trace.name.removeprefix("bound by ")
        assert trace.marker.color == colours[bound]
        shown |= {x: (bound, y) for x, y in zip(trace.x, trace.y, strict=True)}
    assert shown == {i: (layer.bound, layer.latency_s * 1e6) for i, layer in enumerate(ARRAY.layers)}
    assert len(set(colours.values())) == len(colours) > 1
    assert list(figure.layout.xaxis.ticktext) == [layer.name for layer in ARRAY.layers]


def test_of_many_layers_only_some_are_named() -> None:
    many = replace(ARRAY, layers=ARRAY.layers[:1] * 150)
    figure = figures.latency_figure(many)
    assert len(figure.data[0].x) == 150
    assert list(figure.layout.xaxis.tickvals) == list(range(0, 150, 3))
