"""The figures of a simulation, as plotly graphs."""

import math
from collections.abc import Iterator

import plotly.graph_objects as go

from codesign.cost.layer_report import LayerReport
from codesign.hardware.profile import HardwareProfile, MemoryLevel
from codesign.quantization.scheme import Widths
from codesign.report.figures import LAYOUT, OTHER
from codesign.report.simulation_contents import SimulationResult

PALETTE = ("#1f6feb", "#d1242f", "#bf8700", "#8250df", "#1a7f37", "#9aa4b2")
"""Of what bounds a layer; blue is arithmetic."""
_SMALLEST_MARK, _LARGEST_MARK = 6.0, 30.0
_MARGIN = 2.0
"""How far roofs reach beyond the points, as a factor."""


def bound_colours(result: SimulationResult) -> dict[str, str]:
    """A colour for everything that bounds a layer, the same in all figures.

    Args:
        result: What was found.

    Returns:
        Colours by name: arithmetic first, then memory levels from the outermost inwards, then the rest.
    """
    levels = [level.name for level in reversed(result.profile.memories)]
    met = {layer.bound for layer in result.layers}
    names = [name for name in ("compute", *levels) if name in met]
    names += sorted(met - set(names))
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def outermost_level(layer: LayerReport, profile: HardwareProfile) -> MemoryLevel | None:
    """The farthest memory that a layer moves data through: DRAM on arrays; on processors, the level that holds it all.

    Args:
        layer: The layer.
        profile: The device.

    Returns:
        The level; None where nothing is moved.
    """
    reached = [level for level in profile.memories if layer.traffic_bytes[level.name] > 0]
    return reached[-1] if reached else None


def attainable(profile: HardwareProfile, widths: Widths, level: MemoryLevel, intensity: float) -> float:
    """The roof: `min(peak, intensity x bandwidth)` (Williams, Waterman, Patterson, CACM 2009).

    Args:
        profile: The device.
        widths: Whose peak is meant.
        level: Whose bandwidth is meant.
        intensity: Multiply-accumulates by byte of the level's traffic.

    Returns:
        Multiply-accumulates by second.
    """
    peak = profile.rate(widths.weight, widths.activation).macs_per_s
    return min(peak, intensity * level.bandwidth_bytes_per_s)


def roofline_figure(result: SimulationResult) -> go.Figure:
    """Rate of each layer against its arithmetic intensity, under the roofs of the device; both axes are logarithmic.

    Args:
        result: What was found.

    Returns:
        The figure, with a roof for each pair of widths and each memory level that layers reach; layers without
        multiply-accumulates have no place in it.
    """
    figure = go.Figure()
    points = list(_points(result))
    for roof in _roofs(result.profile, points):
        figure.add_trace(roof)
    slowest = max((layer.latency_s for layer, _, _ in points), default=0.0)
    for bound, colour in bound_colours(result).items():
        members = [(layer, level, x) for layer, level, x in points if layer.bound == bound]
        if members:
            figure.add_trace(_marks(members, bound, colour, slowest))
    figure.update_xaxes(type="log", title="arithmetic intensity, MAC per byte", exponentformat="power")
    figure.update_yaxes(type="log", title=f"MAC/s ({result.provenance})", exponentformat="SI")
    figure.update_layout(**LAYOUT)
    return figure


def _points(result: SimulationResult) -> Iterator[tuple[LayerReport, MemoryLevel, float]]:
    """Layers that multiply, with the level and the arithmetic intensity at it."""
    for layer in result.layers:
        level = outermost_level(layer, result.profile)
        if layer.macs and layer.widths is not None and level is not None:
            yield layer, level, layer.macs / layer.traffic_bytes[level.name]


def _roofs(profile: HardwareProfile, points: list[tuple[LayerReport, MemoryLevel, float]]) -> Iterator[go.Scatter]:
    """One line for each pair of widths and level in use: up the bandwidth to the ridge, then along the peak."""
    combinations = sorted({(layer.widths, level.name) for layer, level, _ in points if layer.widths is not None})
    levels = {level.name: level for level in profile.memories}
    for index, (widths, name) in enumerate(combinations):
        level, peak = levels[name], profile.rate(widths.weight, widths.activation).macs_per_s
        ridge = peak / level.bandwidth_bytes_per_s
        ends = [min(*(x for _, _, x in points), ridge) / _MARGIN, max(*(x for _, _, x in points), ridge) * _MARGIN]
        x = [ends[0], ridge, ends[1]]
        yield go.Scatter(
            x=x,
            y=[attainable(profile, widths, level, value) for value in x],
            mode="lines",
            name=f"roof: {widths.weight}x{widths.activation} bits, {name}",
            line={"color": OTHER, "dash": ("solid", "dash", "dot", "dashdot")[index % 4]},
            hovertemplate="%{x:.3g} MAC/byte: %{y:.3g} MAC/s<extra>roof</extra>",
        )


def _marks(
    members: list[tuple[LayerReport, MemoryLevel, float]], bound: str, colour: str, slowest: float
) -> go.Scatter:
    """Points whose area grows with latency."""
    sizes = [
        _SMALLEST_MARK + (_LARGEST_MARK - _SMALLEST_MARK) * math.sqrt(layer.latency_s / slowest)
        for layer, _, _ in members
    ]
    return go.Scatter(
        x=[x for _, _, x in members],
        y=[layer.macs / layer.latency_s for layer, _, _ in members],
        text=[f"{layer.name}<br>{layer.latency_s * 1e6:.4g} µs, {level.name}" for layer, level, _ in members],
        mode="markers",
        name=f"bound by {bound}",
        marker={"color": colour, "size": sizes, "opacity": 0.65, "line": {"width": 1, "color": "white"}},
        hovertemplate="%{text}<br>%{x:.3g} MAC/byte, %{y:.3g} MAC/s<extra></extra>",
    )


def latency_figure(result: SimulationResult) -> go.Figure:
    """Latency of each layer, coloured by what bounds it.

    Args:
        result: What was found.

    Returns:
        The figure, layers in the order of the input; those of equal names stand apart.
    """
    figure = go.Figure()
    for bound, colour in bound_colours(result).items():
        members = [(index, layer) for index, layer in enumerate(result.layers) if layer.bound == bound]
        figure.add_trace(
            go.Bar(
                x=[index for index, _ in members],
                y=[layer.latency_s * 1e6 for _, layer in members],
                text=[layer.name for _, layer in members],
                textposition="none",
                name=f"bound by {bound}",
                marker_color=colour,
                hovertemplate="%{text}: %{y:.4g} µs<extra></extra>",
            )
        )
    figure.update_xaxes(**_name_ticks(result))
    figure.update_yaxes(title=f"latency, µs ({result.provenance})")
    figure.update_layout(bargap=0.15, **{**LAYOUT, "margin": {"l": 70, "r": 20, "t": 30, "b": 150}})
    return figure


def _name_ticks(result: SimulationResult, at_most: int = 60) -> dict[str, object]:
    """Names below the bars, of every n-th layer where there are too many to read."""
    step = -(-len(result.layers) // at_most)
    shown = range(0, len(result.layers), step)
    return {"tickvals": list(shown), "ticktext": [result.layers[index].name for index in shown], "tickangle": -60}
