"""The page of a simulation: one self-contained file."""

from html import escape
from pathlib import Path

from codesign import __version__
from codesign.report import simulation_figures as figures
from codesign.report.page import figure_block, origin_block, table, tag, tiles, write_page
from codesign.report.quantities import joules, percent, seconds, size
from codesign.report.simulation_contents import SimulationResult
from codesign.report.simulation_rows import columns_of, layer_cells, total_cells


def write_simulation_html(result: SimulationResult, path: Path) -> None:
    """Writes the page; it needs no network and no other file.

    Args:
        result: What was found.
        path: Destination.
    """
    sections = (_header, _roofline, _latency, _layers, _origin)
    write_page(f"Simulation of {result.title}", (section(result) for section in sections), path)


def _header(result: SimulationResult) -> str:
    outermost = result.profile.memories[-1].name
    busy = "of the array's peak while it is busy" if result.profile.array is not None else "of the processor's peak"
    shown = [
        ("latency", seconds(result.latency_s), result.provenance, f"{len(result.layers)} layers, one after the other"),
        ("energy", joules(result.energy_j), result.energy_provenance, "arithmetic, memories and static power"),
        ("utilisation", percent(result.utilisation), result.provenance, busy),
        ("multiply-accumulates", f"{result.macs:,}", "exact", "of all layers"),
        (f"{outermost} traffic", size(result.traffic_bytes[outermost]), result.energy_provenance, "read and written"),
    ]
    if result.cycles is not None:
        shown.insert(2, ("cycles", f"{result.cycles:,.0f}", result.provenance, "in which the array is busy"))
    return (
        f"<h1>{escape(result.title)} on {escape(result.profile.name)}</h1>"
        f'<p class="soft">{escape(result.device)}; {result.widths.weight}-bit weights, '
        f"{result.widths.activation}-bit activations. Nothing was run.</p>{tiles(shown)}"
    )


def _roofline(result: SimulationResult) -> str:
    if not result.macs:
        return ""
    what = (
        f"byte of {escape(result.profile.memories[-1].name)} traffic"
        if result.profile.array is not None
        else "byte that the layer moves; its roof is that of the memory level which holds its data"
    )
    return (
        f'<h2>Roofline</h2><p class="soft">Multiply-accumulates per second against multiply-accumulates per {what}. '
        "A larger point takes longer. Lines are what the device attains at most.</p>"
        f"{figure_block(figures.roofline_figure(result), 480)}"
    )


def _latency(result: SimulationResult) -> str:
    return f"<h2>Latency of each layer</h2>{figure_block(figures.latency_figure(result), 460)}"


def _layers(result: SimulationResult) -> str:
    head = [
        escape(column.name) + ("" if column.provenance is None else f" {tag(column.provenance)}")
        for column in columns_of(result)
    ]
    rows = [[escape(cell) for cell in layer_cells(result, layer)] for layer in result.layers]
    rows.append([f"<b>{escape(cell)}</b>" for cell in total_cells(result)])
    return f"<h2>All layers</h2>{table(head, rows, 'Columns of memory levels: bytes read and written there.')}"


def _origin(result: SimulationResult) -> str:
    profile = result.profile
    facts = {
        "profile": f"{profile.name}: {profile.description}",
        "source of the profile": profile.source,
        "not verified in it": ", ".join(profile.unverified) or "nothing",
        "cost model": profile.model,
        "codesign": __version__,
    }
    return f"<h2>How this was made</h2>{origin_block(facts)}"
