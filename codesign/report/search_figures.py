"""How a joint search went and how far its predictions hold, as plotly graphs; `search_front_figures` has its front."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from codesign.report.figures import CHOSEN, FRONT, LAYOUT, OTHER, layers_against
from codesign.report.search_contents import TargetResult
from codesign.report.search_point import SearchPoint
from codesign.report.search_rows import latency_kinds
from codesign.report.simulation_figures import PALETTE

_LOWEST = {**LAYOUT, "legend": {"orientation": "h", "y": -0.25, "yanchor": "top"}}


def progress_figure(target: TargetResult) -> go.Figure:
    """Hypervolume of the front so far, as a share of the box between zero and the reference point, over time.

    Args:
        target: With the trials that ended.

    Returns:
        A line of steps, and a mark for each trial in the colour of its worker.
    """
    box = target.reference_volume or 1.0  # no volume, where some cost is always 0
    shares = [100 * trial.hypervolume / box for trial in target.trials]
    figure = go.Figure(
        go.Scatter(
            x=[trial.seconds for trial in target.trials],
            y=shares,
            mode="lines",
            line={"shape": "hv", "color": OTHER},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for index, worker in enumerate(dict.fromkeys(trial.worker for trial in target.trials)):
        own = [(t, share) for t, share in zip(target.trials, shares, strict=True) if t.worker == worker]
        figure.add_trace(
            go.Scatter(
                x=[trial.seconds for trial, _ in own],
                y=[share for _, share in own],
                text=[f"trial {trial.number}" for trial, _ in own],
                mode="markers",
                name=escape(worker, quote=False),
                marker={"color": PALETTE[index % len(PALETTE)], "size": 7},
                hovertemplate="%{text}: %{y:.4g} % after %{x:.4g} s<extra></extra>",
            )
        )
    figure.update_xaxes(title="seconds since the search began (measured)", rangemode="tozero")
    figure.update_yaxes(title="hypervolume, % of the reference box")
    figure.update_layout(**_LOWEST)
    return figure


def latency_agreement_figure(target: TargetResult) -> go.Figure:
    """Predicted against measured latency of what was built, on logarithmic axes.

    Args:
        target: With its points.

    Returns:
        The figure; bars are the quartiles of the samples.
    """
    pairs = [
        (p, p.finalist.predicted_latency_s, p.finalist.latency.median_s, p.finalist.latency.spread_s / 2)
        for p in target.points
        if p.finalist is not None
    ]
    kinds = ", ".join(latency_kinds(target))
    figure = _against(target, pairs)
    ticks = {"tickformat": "~s", "dtick": "D2"}  # logarithmic axes drop suffixes
    figure.update_xaxes(title=f"predicted latency, s ({target.cost_provenance})", **ticks)
    figure.update_yaxes(title=f"latency of the product, s ({kinds or 'none was built'})", **ticks)
    return figure


def layer_agreement_figure(target: TargetResult) -> go.Figure:
    """Predicted against measured latency of the layers of what was built, on logarithmic axes.

    Args:
        target: With its points.

    Returns:
        The figure, in microseconds; layers that took nothing by themselves are left out.
    """
    layers = [
        (f"{escape(x.name, quote=False)} of {escape(p.identity, quote=False)}", x.predicted_s * 1e6, x.measured_s * 1e6)
        for p in target.points
        if p.finalist is not None
        for x in p.finalist.layers
        if min(x.predicted_s, x.measured_s) > 0
    ]
    figure = layers_against(layers)
    figure.update_xaxes(title=f"predicted latency, µs ({target.cost_provenance})")
    figure.update_yaxes(title="share of the product’s latency, µs (measured)")
    return figure


def loss_agreement_figure(target: TargetResult) -> go.Figure:
    """Predicted against measured loss of points that were measured whole, with shared weights.

    Args:
        target: With its points.

    Returns:
        The figure on logarithmic axes; bars are one standard error.
    """
    pairs = [
        (p, p.predicted.loss_nats, p.loss.value, p.loss.standard_error) for p in target.points if p.loss is not None
    ]
    figure = _against(target, pairs)
    figure.update_xaxes(title="predicted loss, nats (estimated)")
    figure.update_yaxes(title="loss on search data, nats (measured)")
    return figure


def _against(target: TargetResult, pairs: Sequence[tuple[SearchPoint, float, float, float]]) -> go.Figure:
    """Predicted numbers across, what was found and its spread up; the line is where they agree."""
    figure = go.Figure()
    if pairs:
        values = [value for _, *both, _ in pairs for value in both]
        ends = [min(values) * 0.9, max(values) * 1.1]
        line = {"color": OTHER, "dash": "dot"}
        figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", name="agreement", line=line, hoverinfo="skip"))
    figure.add_trace(
        go.Scatter(
            x=[predicted for _, predicted, _, _ in pairs],
            y=[found for _, _, found, _ in pairs],
            error_y={"type": "data", "array": [spread for *_, spread in pairs], "thickness": 1, "width": 3},
            text=[escape(point.identity, quote=False) for point, *_ in pairs],
            customdata=[target.points.index(point) for point, *_ in pairs],
            mode="markers",
            name="points",
            marker={
                "color": [
                    CHOSEN if point is target.chosen else FRONT if point.on_front else OTHER for point, *_ in pairs
                ],
                "size": 10,
            },
            hovertemplate="%{text}<br>predicted %{x:.3g}, found %{y:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    figure.update_layout(**{**LAYOUT, "showlegend": False})
    return figure
