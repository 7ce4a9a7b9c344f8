"""`report.html`: one self-contained page."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
import plotly.offline

from codesign.files import write_bytes
from codesign.report import figures
from codesign.report.contents import TEST, Candidate, RunReport, latency_columns
from codesign.report.quantities import joules, nats, percent, seconds, size

_STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 8px; }
p.soft, caption, .soft { color: var(--soft); } caption { text-align: left; padding-bottom: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 5px 8px; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.chosen { background: #fff1f0; } tr.baseline { background: #f0fff4; }
.scroll { overflow-x: auto; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 16px; min-width: 150px; }
.tile b { display: block; font-size: 21px; } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
@media (max-width: 900px) { .pair { grid-template-columns: 1fr; } }
.tag { font-size: 11px; border-radius: 9px; padding: 0 7px; margin-left: 4px; white-space: nowrap;
  font-weight: normal; }
.exact { background: #ddf4ff; } .estimated { background: #fff8c5; } .simulated { background: #fbefff; }
.calibrated { background: #ffe7d6; } .measured { background: #dafbe1; }
"""


def write_report_html(report: RunReport, path: Path) -> None:
    """Writes the page; it needs no network and no other file.

    Args:
        report: What the run found.
        path: Destination.
    """
    sections = [
        _header(report),
        _tiles(report),
        "<h2>Candidates</h2>",
        _candidates(report),
        "<h2>Accuracy against cost</h2>",
        f'<div class="pair">{_figure(figures.pareto_figure(report, "latency"))}'
        f"{_figure(figures.pareto_figure(report, 'weights'))}</div>",
        "<h2>The choice, layer by layer</h2>",
        _figure(figures.bits_figure(report)),
        _budgets(report),
        "<h2>Sensitivity</h2>",
        f'<p class="soft">Expected loss increase when one layer alone is quantised ({_method(report)}).</p>',
        _figure(figures.sensitivity_figure(report)),
        "<h2>Predicted against measured loss</h2>",
        '<p class="soft">A sum over layers only proposes a plan; plans are judged by the measured value.</p>',
        _figure(figures.prediction_figure(report)),
        "<h2>Layers</h2>",
        _layers(report),
        "<h2>How this was made</h2>",
        _provenance(report),
    ]
    script = plotly.offline.get_plotlyjs()
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(report.run)} · codesign</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><script>{script}</script></head>'
        f"<body>{''.join(sections)}</body></html>\n"
    )
    write_bytes(path, page.encode())


def _header(report: RunReport) -> str:
    notes = "".join(f'<p class="soft">⚠ {escape(note)}</p>' for note in report.profile_notes)
    return (
        f"<h1>{escape(report.run)} on {escape(report.target)}</h1>"
        f'<p class="soft">{escape(report.target_description)}</p>{notes}'
    )


def _tiles(report: RunReport) -> str:
    chosen, baseline = report.chosen, report.baseline
    if chosen.measured is None or baseline.measured is None:
        return f"<p><b>The chosen plan failed:</b> {escape(chosen.failure or '')}</p>"
    now, then = chosen.measured, baseline.measured
    latency, before = now.latency, then.latency
    assert latency is not None
    faster = f"float32: {seconds(before.median_s)} ({before.median_s / latency.median_s:.2f}x)" if before else ""
    tiles = [
        ("accuracy on test data", percent(now.accuracy[TEST].value), "measured",
         f"float32: {percent(then.accuracy[TEST].value)}"),
        (f"latency, {latency.compiler}", seconds(latency.median_s), latency.provenance, faster),
        ("weights as stored", size(now.artifact_weight_bytes), "exact",
         f"float32: {size(then.artifact_weight_bytes)} "
         f"({then.artifact_weight_bytes / now.artifact_weight_bytes:.1f}x)"),
        ("average width", f"{chosen.average_bits:.2f} bits", "exact", f"budget: {report.choices[0].budget}"),
    ]  # fmt: skip
    cells = "".join(
        f'<div class="tile">{escape(label)} {_tag(kind)}<b>{escape(value)}</b>'
        f'<span class="soft">{escape(more)}</span></div>'
        for label, value, kind, more in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _candidates(report: RunReport) -> str:
    others = [name for name in (report.baseline.measured.accuracy if report.baseline.measured else {}) if name != TEST]
    columns = latency_columns(report)
    compilers = [column.compiler for column in columns]
    by_model = next((c.predicted.cost_provenance for c in report.candidates if c.predicted), "estimated")
    head = [
        "plan", "bits", f"accuracy {_tag('measured')}", *(f"{escape(n)} {_tag('measured')}" for n in others),
        f"loss +nats {_tag('measured')}", f"loss +nats {_tag('estimated')}",
        *(f"{escape(x.compiler)} {_tag(x.provenance)}" for x in columns), f"latency {_tag(by_model)}",
        f"energy {_tag(by_model)}", f"weights {_tag('exact')}", "TVM − onnxruntime",
    ]  # fmt: skip
    rows = [
        _row(_candidate_cells(c, others, compilers, c is report.chosen), _row_class(report, c))
        for c in report.candidates
    ]
    return (
        '<div class="scroll"><table><caption>★ chosen, ◆ on the Pareto front of accuracy, latency and weights. '
        "± is one standard error over test samples; latencies are medians.</caption>"
        f"{_row(head, '', 'th')}{''.join(rows)}</table></div>"
    )


def _candidate_cells(candidate: Candidate, others: Sequence[str], compilers: Sequence[str], chosen: bool) -> list[str]:
    mark = ("★ " if chosen else "") + ("◆ " if candidate.on_front else "")
    name = f"{mark}{escape(', '.join(candidate.roles))}<br><span class='soft'>{escape(candidate.identity)}</span>"
    bits = f"{candidate.average_bits:.2f}"
    found, predicted = candidate.measured, candidate.predicted
    if found is None:
        return [name, bits, f"failed: {escape(candidate.failure or '')}"]
    latency_of = {latency.compiler: latency for latency in found.latencies}
    loss = found.loss_increase_nats
    return [
        name,
        bits,
        *(percent(found.accuracy[n].value, found.accuracy[n].standard_error) for n in (TEST, *others)),
        f"{nats(loss.value)} ± {nats(loss.standard_error)}" if loss else "0",
        nats(predicted.loss_increase_nats) if predicted else "0",
        *(seconds(latency_of[c].median_s) if c in latency_of else "–" for c in compilers),
        seconds(predicted.cost.latency_s) if predicted else "–",
        joules(predicted.cost.energy_j) if predicted else "–",
        size(found.artifact_weight_bytes),
        _agreement(candidate),
    ]


def _agreement(candidate: Candidate) -> str:
    agreement = candidate.measured.agreement if candidate.measured else None
    if agreement is None:
        return "–"
    if agreement.largest_difference_steps is None:
        return f"{agreement.largest_difference:.1e}"
    return f"≤ {agreement.largest_difference_steps:.0f} LSB, {percent(agreement.exact_share)} equal"


def _budgets(report: RunReport) -> str:
    head = ["budget", "chosen", "proposal (additive optimum)", "lower bound, nats", "gap", "plans measured"]
    rows = [
        [
            escape(c.budget),
            escape(c.identity),
            escape(c.proposal),
            nats(c.lower_bound_nats),
            f"{c.gap:.1e}",
            str(c.evaluations),
        ]
        for c in report.choices
    ]
    return f"<table>{_row(head, '', 'th')}{''.join(_row(r, '') for r in rows)}</table>"


def _layers(report: RunReport) -> str:
    assert report.chosen.plan is not None
    bits_of = report.chosen.plan.bits_of
    head = ["layer", "operator", "MACs", "weights", "bits", "Hessian trace", "provenance"]
    rows = []
    for layer in report.layers:
        trace, label = "–", "–"
        if layer.trace is not None:
            trace = f"{layer.trace:.4g} ± {layer.trace_standard_error:.1g}"
            label = _tag("exact" if layer.trace_is_exact else "estimated")
        bits = str(bits_of[layer.name].weight) if layer.name in bits_of else "–"
        counts = [f"{layer.macs:,}", f"{layer.weight_elements:,}"]
        rows.append(_row([escape(layer.name), escape(layer.op_type), *counts, bits, trace, label], ""))
    return f'<div class="scroll"><table>{_row(head, "", "th")}{"".join(rows)}</table></div>'


def _provenance(report: RunReport) -> str:
    kinds = (
        ("exact", "follows from the graph or a formula without error"),
        ("estimated", "a model or a sample; its error is stated where it is known"),
        ("simulated", "the cost model of a device that was not there"),
        ("calibrated", "a model fitted to measurements of the device"),
        ("measured", "run and observed"),
    )
    legend = "".join(f"<p>{_tag(kind)} {escape(meaning)}</p>" for kind, meaning in kinds)
    facts = {**report.data, "seed": str(report.seed), **report.environment}
    rows = "".join(
        _row([escape(key), f'<span class="soft">{escape(value)}</span>'], "") for key, value in facts.items()
    )
    return f'<div class="pair"><div>{legend}</div><table>{rows}</table></div>'


def _figure(figure: go.Figure) -> str:
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, default_height="380px", config={"displayModeBar": False}
    )
    return f"<div>{html}</div>"


def _row(cells: Iterable[str], kind: str, tag: str = "td") -> str:
    return f'<tr class="{kind}">{"".join(f"<{tag}>{cell}</{tag}>" for cell in cells)}</tr>'


def _row_class(report: RunReport, candidate: Candidate) -> str:
    if candidate is report.baseline:
        return "baseline"
    return "chosen" if candidate is report.chosen else ""


def _method(report: RunReport) -> str:
    if report.sensitivity_method == "kl":
        return "KL divergence of the outputs, measured on calibration data; as a prediction of plans it is estimated"
    return "1/2 (tr H / n) |Q(w) - w|², estimated"


def _tag(kind: str) -> str:
    return f'<span class="tag {kind}">{kind}</span>'
