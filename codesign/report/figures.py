"""The figures of the report page, as plotly graphs."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from codesign.report.contents import TEST, Candidate, RunReport

FRONT, OTHER, CHOSEN, BASELINE = "#1f6feb", "#9aa4b2", "#d1242f", "#1a7f37"
SMALLEST_NATS = 1e-9
"""What logarithmic axes show in place of zero."""
LAYOUT = {
    "template": "plotly_white",
    "margin": {"l": 70, "r": 20, "t": 30, "b": 60},
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "legend": {"orientation": "h", "y": 1.12},
}


def pareto_figure(report: RunReport, metric: str) -> go.Figure:
    """Accuracy on the test data against one cost, with the front, the baseline and the choice.

    Args:
        report: What the run found.
        metric: `latency` (product's, microseconds) or `weights` (product's, kibibytes).

    Returns:
        The figure.
    """
    figure = go.Figure()
    good = [c for c in report.candidates if c.measured and (metric != "latency" or c.measured.latency)]
    groups = (
        ("other candidates", OTHER, "circle", [c for c in good if not c.on_front and c is not report.baseline]),
        ("Pareto front", FRONT, "circle", [c for c in good if c.on_front and c is not report.baseline]),
        ("baseline, float32", BASELINE, "square", [c for c in good if c is report.baseline]),
        ("chosen", CHOSEN, "star", [c for c in good if c is report.chosen]),
    )
    for name, colour, symbol, members in groups:
        figure.add_trace(_accuracy_points(name, colour, symbol, members, metric))
    title = "latency, µs" if metric == "latency" else "weights as stored, KiB"
    kinds = [c.measured.latency.provenance for c in good if c.measured and c.measured.latency]
    provenance = kinds[0] if kinds else "measured"
    figure.update_layout(
        xaxis_title=f"{title} ({provenance if metric == 'latency' else 'exact'})",
        yaxis_title="accuracy on test data, % (measured)",
        **LAYOUT,
    )
    return figure


def _accuracy_points(name: str, colour: str, symbol: str, members: list[Candidate], metric: str) -> go.Scatter:
    x, y, error, text = [], [], [], []
    for candidate in members:
        found = candidate.measured
        assert found is not None
        latency = found.latency.median_s * 1e6 if found.latency else 0.0
        x.append(latency if metric == "latency" else found.artifact_weight_bytes / 1024)
        y.append(100 * found.accuracy[TEST].value)
        error.append(100 * found.accuracy[TEST].standard_error)
        text.append("<br>".join((candidate.identity, *candidate.roles)))
    marker = {"color": colour, "symbol": symbol, "size": 16 if symbol == "star" else 10}
    bars = {"type": "data", "array": error, "thickness": 1, "width": 3}
    hover = "%{text}<br>%{x:.4g}, %{y:.2f} %<extra></extra>"
    return go.Scatter(x=x, y=y, error_y=bars, text=text, name=name, mode="markers", marker=marker, hovertemplate=hover)


def prediction_figure(report: RunReport) -> go.Figure:
    """Predicted against measured loss increase; the line is where they agree.

    Args:
        report: What the run found.

    Returns:
        The figure.
    """
    pairs = [
        (c, c.predicted.loss_increase_nats, c.measured.loss_increase_nats)
        for c in report.candidates
        if c.predicted is not None and c.measured is not None and c.measured.loss_increase_nats is not None
    ]
    figure = go.Figure()
    if pairs:
        values = [p for _, p, m in pairs] + [m.value for _, p, m in pairs]
        ends = [max(min(values), 1e-9) * 0.7, max(*values, 1e-9) * 1.4]
        figure.add_trace(
            go.Scatter(x=ends, y=ends, mode="lines", name="agreement", line={"color": OTHER, "dash": "dot"})
        )
    colours = [CHOSEN if c is report.chosen else FRONT for c, _, _ in pairs]
    figure.add_trace(
        go.Scatter(
            x=[p for _, p, _ in pairs],
            y=[m.value for _, _, m in pairs],
            error_y={"type": "data", "array": [m.standard_error for _, _, m in pairs], "thickness": 1, "width": 3},
            text=["<br>".join((c.identity, *c.roles)) for c, _, _ in pairs],
            mode="markers",
            name="candidates",
            marker={"color": colours, "size": 10},
            hovertemplate="%{text}<br>predicted %{x:.3g}, measured %{y:.3g} nats<extra></extra>",
        )
    )
    figure.update_xaxes(type="log", title="predicted loss increase, nats (estimated)")
    figure.update_yaxes(type="log", title="loss increase on search data, nats (measured)")
    figure.update_layout(**LAYOUT)
    return figure


def layer_latency_figure(report: RunReport) -> go.Figure:
    """Predicted against measured latency of the chosen network's layers; the line is where they agree.

    Args:
        report: What the run found.

    Returns:
        The figure, in microseconds on logarithmic axes.
    """
    pairs = [(x.name, x.predicted_s * 1e6, x.measured_s * 1e6) for x in report.layers if x.predicted_s and x.measured_s]
    predicted = report.chosen.predicted
    assert predicted is not None
    figure = layers_against(pairs)
    figure.update_xaxes(title=f"predicted latency, µs ({predicted.cost_provenance})")
    figure.update_yaxes(title="latency, µs (measured)")
    return figure


def layers_against(layers: Sequence[tuple[str, float, float]]) -> go.Figure:
    """Predicted latencies of layers across, measured ones up; the line is where they agree.

    Args:
        layers: Name, predicted and measured microseconds, all above 0.

    Returns:
        The figure on logarithmic axes, which have no titles yet.
    """
    values = [value for _, *both in layers for value in both] or [1.0]
    ends = [min(values) * 0.7, max(values) * 1.4]
    figure = go.Figure(go.Scatter(x=ends, y=ends, mode="lines", name="agreement", line={"color": OTHER, "dash": "dot"}))
    figure.add_trace(
        go.Scatter(
            x=[predicted for _, predicted, _ in layers],
            y=[measured for _, _, measured in layers],
            text=[name for name, _, _ in layers],
            mode="markers",
            name="layers",
            marker={"color": FRONT, "size": 10},
            hovertemplate="%{text}<br>predicted %{x:.3g}, measured %{y:.3g} µs<extra></extra>",
        )
    )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    figure.update_layout(**LAYOUT)
    return figure


def sensitivity_figure(report: RunReport) -> go.Figure:
    """Loss increase of each layer at each width, as a heat map on a logarithmic scale.

    Args:
        report: What the run found.

    Returns:
        The figure.
    """
    widths = sorted({bits for layer in report.layers for bits in layer.loss_increase_nats})
    nats = {bits: [layer.loss_increase_nats.get(bits, 0.0) for layer in report.layers] for bits in widths}
    return loss_heat_map([layer.name for layer in report.layers], nats)


def loss_heat_map(names: Sequence[str], nats_at: Mapping[int, Sequence[float]]) -> go.Figure:
    """Losses by layer and width, on a logarithmic scale.

    Args:
        names: Of the layers.
        nats_at: By width, one number for each layer; those below 1e-9, negative ones included, are shown as 1e-9.

    Returns:
        The figure.
    """
    figure = go.Figure(
        go.Heatmap(
            z=[[math.log10(max(value, SMALLEST_NATS)) for value in values] for values in nats_at.values()],
            x=list(names),
            y=[f"{bits} bits" for bits in nats_at],
            colorscale="YlOrRd",
            colorbar={"title": "log10 nats"},
            hovertemplate="%{x}, %{y}: 10^%{z:.2f} nats<extra></extra>",
        )
    )
    figure.update_xaxes(type="category")  # names such as "0" are no numbers
    figure.update_layout(**{**LAYOUT, "margin": {"l": 70, "r": 20, "t": 20, "b": 130}})
    return figure


def bits_figure(report: RunReport) -> go.Figure:
    """Width of each layer in the chosen plan, and in the optimum of the additive model that it started from.

    Args:
        report: What the run found.

    Returns:
        The figure.
    """
    figure = go.Figure()
    proposal = report.candidate(report.choices[0].proposal)
    shown = [("chosen", CHOSEN, report.chosen)]
    if proposal is not report.chosen:
        shown.insert(0, ("optimum of the additive model", OTHER, proposal))
    for name, colour, candidate in shown:
        assert candidate.plan is not None
        names = [node for node, _ in candidate.plan.bits]
        widths = [bits.weight for _, bits in candidate.plan.bits]
        figure.add_trace(go.Bar(x=names, y=widths, name=name, marker_color=colour))
    figure.update_yaxes(title="bits of the weight", dtick=1)
    figure.update_layout(barmode="group", **{**LAYOUT, "margin": {"l": 70, "r": 20, "t": 30, "b": 130}})
    return figure
