"""The page of a placement: one self-contained file."""

from html import escape
from pathlib import Path

import plotly.graph_objects as go

from codesign import __version__
from codesign.partition.modes import Mode
from codesign.report.figures import LAYOUT
from codesign.report.page import figure_block, origin_block, table, tiles, write_page
from codesign.report.partition_contents import PartitionResult, ratio_text
from codesign.report.quantities import seconds, size

COLOURS: dict[Mode, str] = {
    "batch": "#bf8700",
    "model": "#9aa4b2",
    "grid": "#8250df",
    "dense-grid": "#1a7f37",
    "mesh-tensorflow": "#d1242f",
    "optimal": "#1f6feb",
}


def write_partition_html(result: PartitionResult, path: Path) -> None:
    """Writes the page; it needs no network and no other file.

    Args:
        result: What was found.
        path: Destination.
    """
    parts = (_header(result), _modes(result), _scaling(result), _layers(result), _pipeline(result), _origin(result))
    write_page(f"Placement of {result.source}", parts, path)


def _header(result: PartitionResult) -> str:
    price = result.chosen.price
    what = "communication and computing" if result.with_compute else "communication"
    shown = [
        ("time", seconds(price.seconds), "simulated", f"{what}, mode {result.mode}"),
        ("sent by each device", size(price.traffic.bytes), "simulated", "in one step"),
        ("memory of each device", size(price.memory_bytes), "estimated", "parameters, gradients and results"),
        ("gap", f"{result.chosen.gap:.3g}", "exact", f"to the proven bound; {result.chosen.method}"),
    ]
    return (
        f"<h1>{escape(result.source)}</h1><p class='soft'>{escape(result.devices_text)}; batch {result.network.batch}; "
        f"objective {result.goal}. Nothing was run.</p>{tiles(shown)}"
    )


def _modes(result: PartitionResult) -> str:
    best = result.chosen.price.seconds
    rows = [
        [escape(mode), escape(ratio_text(None if p is None else p.price.seconds, best))]
        for mode, p in result.plans.items()
    ]
    return f"<h2>Modes</h2>{table(['mode', 'time'], rows, 'Impossible: more devices than there is to share out.')}"


def _scaling(result: PartitionResult) -> str:
    if not result.scaling:
        return ""
    return (
        '<h2>Time against devices</h2><p class="soft">A line ends where its mode is impossible: sharing samples alone '
        "needs as many samples as devices; sharing space and channels as well goes on.</p>"
        f"{figure_block(scaling_figure(result), 460)}"
    )


def scaling_figure(result: PartitionResult) -> go.Figure:
    """Time of each mode against the number of devices; both axes are logarithmic.

    Args:
        result: What was found.

    Returns:
        The figure, with the number of samples as a line.
    """
    figure = go.Figure()
    for mode, colour in COLOURS.items():
        points = [(p.devices, p.seconds[mode]) for p in result.scaling if p.seconds.get(mode) is not None]
        if points:
            figure.add_trace(
                go.Scatter(
                    x=[x for x, _ in points],
                    y=[y for _, y in points],
                    name=mode,
                    mode="lines+markers",
                    line={"color": colour},
                )
            )
    figure.add_vline(x=result.network.batch, line={"dash": "dot", "color": "#59636e"}, annotation_text="samples")
    figure.update_xaxes(type="log", title="devices")
    figure.update_yaxes(type="log", title="seconds (simulated)", exponentformat="SI")
    figure.update_layout(**LAYOUT)
    return figure


def _layers(result: PartitionResult) -> str:
    rows = [
        [
            escape(row.name),
            escape(row.placement),
            size(row.price.traffic.bytes),
            seconds(row.price.traffic.seconds),
            seconds(row.price.compute_s),
        ]
        for row in result.layers
    ]
    head = ["layer", "shared out by", "sent", "communication", "computing"]
    return f"<h2>Layers</h2>{table(head, rows, 'Each number: the busiest device, one step.')}"


def _pipeline(result: PartitionResult) -> str:
    if result.pipeline is None:
        return ""
    pipeline, devices = result.pipeline
    names = [op.name for op in result.network.operators]
    rows = [
        [escape(device), escape(names[stage.first]), escape(names[stage.end - 1]), seconds(stage.seconds)]
        for stage, device in zip(pipeline.stages, devices, strict=True)
    ]
    caption = f"{pipeline.micro_batches} micro-batches; the whole batch takes {seconds(pipeline.seconds)}."
    return f"<h2>Pipeline</h2>{table(['device', 'from', 'to', 'one micro-batch'], rows, caption)}"


def _origin(result: PartitionResult) -> str:
    facts = {
        "links": "; ".join(
            f"{axis.name}: {axis.link.latency_s:.3g} s, {axis.link.bandwidth_bytes_per_s:.4g} bytes/s"
            for axis in result.mesh.axes
        ),
        "cost model": "alpha-beta model of collectives; layouts from loops",
        "codesign": __version__,
    }
    return f"<h2>How this was made</h2>{origin_block(facts)}"
