"""The figures of an analysis, as plotly graphs."""

import plotly.graph_objects as go

from codesign.report.analysis_contents import Analysis, LayerAnalysis, NetworkAnalysis, Validation
from codesign.report.figures import CHOSEN, FRONT, LAYOUT, OTHER, SMALLEST_NATS, loss_heat_map

_DENSITY_FLOOR = 1e-7
"""Added to a density so that a logarithmic axis can show it, as PyHessian does."""
_WIDE = {**LAYOUT, "margin": {"l": 70, "r": 20, "t": 30, "b": 130}}
_CROWDED = {**LAYOUT, "legend": {"orientation": "h", "y": -0.2}, "margin": {"l": 70, "r": 20, "t": 20, "b": 120}}


def loss_figure(layers: tuple[LayerAnalysis, ...], predictor: str) -> go.Figure:
    """Expected loss increase of each layer at each width.

    Args:
        layers: With the predictor's numbers.
        predictor: Its name.

    Returns:
        A heat map on a logarithmic scale.
    """
    widths = tuple(layers[0].loss_increase)
    nats = {bits: [layer.loss_increase[bits][predictor].nats for layer in layers] for bits in widths}
    return loss_heat_map([layer.name for layer in layers], nats)


def activation_figure(layers: tuple[LayerAnalysis, ...]) -> go.Figure:
    """Divergence of the outputs when the tensor that enters a layer is rounded, for each width.

    Args:
        layers: Those whose activations were rounded, at least one.

    Returns:
        A heat map on a logarithmic scale.
    """
    found = [layer.activation for layer in layers if layer.activation is not None]
    nats = {bits: [activation.kl[bits].value for activation in found] for bits in found[0].kl}
    return loss_heat_map([layer.name for layer in layers], nats)


def eigenvalue_figure(layers: tuple[LayerAnalysis, ...]) -> go.Figure:
    """Magnitude of each block's top eigenvalue, on a logarithmic axis; negative ones have a mark of their own.

    Args:
        layers: Those whose eigenvalues are known.

    Returns:
        The figure.
    """
    known = [(layer.name, layer.curvature) for layer in layers if layer.curvature and layer.curvature.top_eigenvalues]
    tops = [(name, curvature.top_eigenvalues[0], curvature.eigenvalue_provenance) for name, curvature in known]
    figure = go.Figure()
    groups = (
        ("exact", FRONT, "circle", [t for t in tops if t[1] > 0 and t[2] == "exact"]),
        ("estimated", OTHER, "circle", [t for t in tops if t[1] > 0 and t[2] != "exact"]),
        ("magnitude of a negative one", CHOSEN, "triangle-down", [t for t in tops if t[1] < 0]),
    )
    for name, colour, symbol, members in groups:
        if members:
            marker = {"color": colour, "symbol": symbol, "size": 11}
            x, y = [n for n, _, _ in members], [abs(value) for _, value, _ in members]
            hover = "%{x}: %{y:.4g}<extra></extra>"
            figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, hovertemplate=hover))
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=[name for name, _, _ in tops])
    figure.update_yaxes(type="log", title="top eigenvalue of the block", exponentformat="power")
    figure.update_layout(**_WIDE)
    return figure


def density_figure(network: NetworkAnalysis) -> go.Figure:
    """Density of the eigenvalues of the Hessian in all weights, on a logarithmic axis.

    Args:
        network: With its density.

    Returns:
        The figure.
    """
    figure = go.Figure(
        go.Scatter(
            x=list(network.grid),
            y=[value + _DENSITY_FLOOR for value in network.density],
            mode="lines",
            line={"color": FRONT},
            hovertemplate="%{x:.4g}: %{y:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(title="eigenvalue")
    figure.update_yaxes(type="log", title="density (estimated)", exponentformat="power")
    figure.update_layout(**LAYOUT)
    return figure


def layer_prediction_figure(analysis: Analysis, validation: Validation) -> go.Figure:
    """Predicted loss increase of single layers against the measured divergence, for every predictor.

    Args:
        analysis: With predictions.
        validation: With measurements.

    Returns:
        The figure.
    """
    points: dict[str, list[tuple[float, float, str]]] = {name: [] for name in analysis.predictors}
    for layer in analysis.layers:
        for bits, row in layer.loss_increase.items():
            measured = validation.layers[layer.name][bits].kl.value
            for name, entry in row.items():
                points[name].append((entry.nats, measured, f"{layer.name}, {bits} bits"))
    return _predictions(points, "KL on held-out samples, nats (measured)")


def assignment_prediction_figure(validation: Validation) -> go.Figure:
    """Predicted loss increase of whole assignments against the measured divergence, for every predictor.

    Args:
        validation: With predictions and measurements.

    Returns:
        The figure.
    """
    points = {
        name: [
            (a.predicted[name], a.measured.kl.value, " ".join(map(str, a.bits.values())))
            for a in validation.assignments
        ]
        for name in validation.assignments[0].predicted
    }
    return _predictions(points, "KL on held-out samples, nats (measured)")


def _predictions(points: dict[str, list[tuple[float, float, str]]], measured: str) -> go.Figure:
    """Points that are not above zero have no place on logarithmic axes; they stand at the edge."""
    positive = [value for members in points.values() for x, y, _ in members for value in (x, y) if value > 0]
    edge = min(positive, default=SMALLEST_NATS) / 2
    shown = {name: [(max(x, edge), max(y, edge), text) for x, y, text in members] for name, members in points.items()}
    figure = go.Figure()
    values = [value for members in shown.values() for x, y, _ in members for value in (x, y)]
    ends = [min(values) * 0.7, max(values) * 1.4]
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", name="agreement", line={"color": OTHER, "dash": "dot"}))
    for index, (name, members) in enumerate(shown.items()):
        figure.add_trace(
            go.Scatter(
                x=[x for x, _, _ in members],
                y=[y for _, y, _ in members],
                text=[text for _, _, text in members],
                mode="markers",
                name=name,
                marker={"size": 6, "opacity": 0.7, "symbol": index},
                hovertemplate="%{text}<br>predicted %{x:.3g}, measured %{y:.3g} nats<extra></extra>",
            )
        )
    figure.update_xaxes(type="log", title="predicted loss increase, nats", exponentformat="power")
    figure.update_yaxes(type="log", title=measured, exponentformat="power")
    figure.update_layout(**_CROWDED)
    return figure
