"""`report.html`: one self-contained page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from codesign.report import figures
from codesign.report.contents import TEST, Candidate, RunReport, latency_columns
from codesign.report.page import figure_block, origin_block, row, tag, tiles, write_page
from codesign.report.quantities import joules, nats, percent, seconds, size


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
        f'<div class="pair">{figure_block(figures.pareto_figure(report, "latency"))}'
        f"{figure_block(figures.pareto_figure(report, 'weights'))}</div>",
        "<h2>The choice, layer by layer</h2>",
        figure_block(figures.bits_figure(report)),
        _budgets(report),
        "<h2>Sensitivity</h2>",
        f'<p class="soft">Expected loss increase when one layer alone is quantised ({_method(report)}).</p>',
        figure_block(figures.sensitivity_figure(report)),
        "<h2>Predicted against measured loss</h2>",
        '<p class="soft">A sum over layers only proposes a plan; plans are judged by the measured value.</p>',
        figure_block(figures.prediction_figure(report)),
        *_latency_by_layer(report),
        "<h2>Layers</h2>",
        _layers(report),
        "<h2>How this was made</h2>",
        _provenance(report),
    ]
    write_page(report.run, sections, path)


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
    shown = [
        ("accuracy on test data", percent(now.accuracy[TEST].value), "measured",
         f"float32: {percent(then.accuracy[TEST].value)}"),
        (f"latency, {latency.compiler}", seconds(latency.median_s), latency.provenance, faster),
        ("weights as stored", size(now.artifact_weight_bytes), "exact",
         f"float32: {size(then.artifact_weight_bytes)} "
         f"({then.artifact_weight_bytes / now.artifact_weight_bytes:.1f}x)"),
        ("average width", f"{chosen.average_bits:.2f} bits", "exact", f"budget: {report.choices[0].budget}"),
    ]  # fmt: skip
    return tiles(shown)


def _candidates(report: RunReport) -> str:
    others = [name for name in (report.baseline.measured.accuracy if report.baseline.measured else {}) if name != TEST]
    columns = latency_columns(report)
    compilers = [column.compiler for column in columns]
    by_model = next((c.predicted.cost_provenance for c in report.candidates if c.predicted), "estimated")
    head = [
        "plan", "bits", f"accuracy {tag('measured')}", *(f"{escape(n)} {tag('measured')}" for n in others),
        f"loss +nats {tag('measured')}", f"loss +nats {tag('estimated')}",
        *(f"{escape(x.compiler)} {tag(x.provenance)}" for x in columns), f"latency {tag(by_model)}",
        f"energy {tag(by_model)}", f"weights {tag('exact')}", "TVM − onnxruntime",
    ]  # fmt: skip
    rows = [
        row(_candidate_cells(c, others, compilers, c is report.chosen), _row_class(report, c))
        for c in report.candidates
    ]
    return (
        '<div class="scroll"><table><caption>★ chosen, ◆ on the Pareto front of accuracy, latency and weights. '
        "± is one standard error over test samples; latencies are medians.</caption>"
        f"{row(head, element='th')}{''.join(rows)}</table></div>"
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
    return f"<table>{row(head, element='th')}{''.join(row(r) for r in rows)}</table>"


def _latency_by_layer(report: RunReport) -> list[str]:
    if not any(layer.measured_s for layer in report.layers):
        return []
    return [
        "<h2>Predicted against measured latency of each layer</h2>",
        '<p class="soft">The chosen network. Kernels are timed one by one and scaled so that they add up to the '
        "network's median latency.</p>",
        figure_block(figures.layer_latency_figure(report)),
    ]


def _layers(report: RunReport) -> str:
    assert report.chosen.plan is not None
    bits_of = report.chosen.plan.bits_of
    head = ["layer", "operator", "MACs", "weights", "bits", "Hessian trace", "provenance"]
    predicted = report.chosen.predicted
    assert predicted is not None
    timed = any(layer.measured_s is not None for layer in report.layers)
    head += [f"latency {tag(predicted.cost_provenance)}", *([f"latency {tag('measured')}"] if timed else [])]
    rows = []
    for layer in report.layers:
        trace, label = "–", "–"
        if layer.trace is not None:
            trace = f"{layer.trace:.4g} ± {layer.trace_standard_error:.1g}"
            label = tag("exact" if layer.trace_is_exact else "estimated")
        bits = str(bits_of[layer.name].weight) if layer.name in bits_of else "–"
        counts = [f"{layer.macs:,}", f"{layer.weight_elements:,}"]
        found = (layer.predicted_s, layer.measured_s) if timed else (layer.predicted_s,)
        times = ["–" if value is None else seconds(value) for value in found]
        rows.append(row([escape(layer.name), escape(layer.op_type), *counts, bits, trace, label, *times]))
    return f'<div class="scroll"><table>{row(head, element="th")}{"".join(rows)}</table></div>'


def _provenance(report: RunReport) -> str:
    return origin_block({**report.data, "seed": str(report.seed), **report.environment})


def _row_class(report: RunReport, candidate: Candidate) -> str:
    if candidate is report.baseline:
        return "baseline"
    return "chosen" if candidate is report.chosen else ""


_METHODS = {
    "kl": "KL divergence of the outputs, measured on calibration data; as a prediction of plans it is estimated",
    "hawq-v2": "1/2 (tr H / n) |Q(w) - w|², estimated",
    "gauss-newton": "1/2 dᵀ G d with the error d of weight and bias, estimated",
}


def _method(report: RunReport) -> str:
    if report.sensitivity_method == "auto":
        return f"{_METHODS['kl']}; where forward passes did not suffice, {_METHODS['hawq-v2']}"
    return _METHODS[report.sensitivity_method]
