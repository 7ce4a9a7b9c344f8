"""The page of an analysis: one self-contained file."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from codesign.report import analysis_figures as figures
from codesign.report.analysis_contents import Analysis, Curvature, LayerAnalysis, Tau, Validation
from codesign.report.page import figure_block, origin_block, table, tag, tiles, write_page
from codesign.report.quantities import nats, seconds, size


def write_analysis_html(analysis: Analysis, path: Path) -> None:
    """Writes the page; it needs no network and no other file.

    Args:
        analysis: What was found.
        path: Destination.
    """
    sections = (_header, _curvature, _network, _losses, _validation, _activations, _spreads, _origin)
    write_page(f"Analysis of {analysis.model}", (section(analysis) for section in sections), path)


def _header(analysis: Analysis) -> str:
    cost = analysis.cost
    weights = "folded weights, as they are quantised" if analysis.weights_of == "folded" else "the module's own weights"
    target = f", widths of {analysis.target}" if analysis.target else ""
    shown = (
        ("time", seconds(cost.seconds), "measured", f"{seconds(cost.cpu_seconds)} of CPU, loading apart"),
        ("peak memory", size(cost.peak_memory_bytes), "measured", "of one process, loading included"),
        ("passes over the data", f"{cost.passes_over_data:,.1f}", "exact", "for Hessian traces and eigenvalues"),
        ("samples", str(analysis.samples), "exact", f"{analysis.processes} process(es)"),
    )
    return (
        f"<h1>Curvature and sensitivity of {escape(analysis.model)}</h1>"
        f'<p class="soft">{analysis.samples} samples of {escape(analysis.data)}; {escape(weights)}; '
        f"{escape(analysis.dtype)}{escape(target)}</p>{tiles(shown)}"
    )


def _curvature(analysis: Analysis) -> str:
    known = [(layer, layer.curvature) for layer in analysis.layers if layer.curvature is not None]
    if not known:
        return ""
    shown = table(
        ["layer", "weights", "Hessian trace", "of each weight", "matrix", "method", "", "top eigenvalues", ""],
        [_curvature_cells(layer, curvature) for layer, curvature in known],
        "± is one standard error of the estimate; blocks without one are exact for the samples given.",
    )
    eigenvalues = ""
    if any(curvature.top_eigenvalues for _, curvature in known):
        eigenvalues = "<h2>Top eigenvalue of each block</h2>" + figure_block(figures.eigenvalue_figure(analysis.layers))
    return f"<h2>Curvature of each layer</h2>{shown}{eigenvalues}"


def _curvature_cells(layer: LayerAnalysis, found: Curvature) -> list[str]:
    return [
        escape(layer.name),
        f"{layer.parameters:,}",
        f"{found.trace:.5g}" + (f" ± {found.standard_error:.2g}" if found.standard_error else ""),
        f"{found.trace / layer.parameters:.3g}",
        escape(found.matrix),
        escape(found.method),
        tag(found.provenance),
        *_eigenvalue_cells(found),
    ]


def _eigenvalue_cells(found: Curvature) -> tuple[str, str]:
    if not found.top_eigenvalues:
        return ("–", "")
    return (", ".join(f"{value:.4g}" for value in found.top_eigenvalues), tag(found.eigenvalue_provenance))


def _network(analysis: Analysis) -> str:
    network = analysis.network
    if network is None:
        return ""
    tops = ", ".join(f"{v:.5g} ± {r:.1g}" for v, r in zip(network.top_eigenvalues, network.residuals, strict=True))
    return (
        f"<h2>Hessian in all {network.parameters:,} weights</h2><p>Trace {network.trace:.5g} ± "
        f"{network.standard_error:.2g} {tag('estimated')}; top eigenvalues {tops} {tag('estimated')}</p>"
        f'<p class="soft">Density of eigenvalues by stochastic Lanczos quadrature, {len(network.nodes)} start(s) of '
        f"{len(network.nodes[0])} steps.</p>{figure_block(figures.density_figure(network))}"
    )


def _losses(analysis: Analysis) -> str:
    predictor = analysis.main_predictor
    if predictor is None:
        return ""
    head = ["layer", *(f"{bits} bits" for bits in analysis.layers[0].loss_increase)]
    methods = {
        entry.method for layer in analysis.layers for row in layer.loss_increase.values() for entry in row.values()
    }
    rows = [
        [escape(layer.name), *(_loss_cell(row[predictor].nats, row[predictor].standard_error, row[predictor].provenance)
                               for row in layer.loss_increase.values())]
        for layer in analysis.layers
    ]  # fmt: skip
    return (
        "<h2>Loss increase when one layer alone is quantised</h2>"
        f'<p class="soft">Nats, by {escape(predictor)}. What is measured is the KL divergence of the outputs on the '
        "analysed samples; as a prediction of other samples' loss it is an estimate."
        f"{'' if methods == {'kl'} else ' Estimates are marked.'}</p>"
        f"{figure_block(figures.loss_figure(analysis.layers, predictor))}{table(head, rows)}"
    )


def _loss_cell(value: float, error: float, provenance: str) -> str:
    mark = "" if provenance == "measured" else tag(provenance)
    return f"{nats(value)} ± {error:.1g}{mark}"


def _validation(analysis: Analysis) -> str:
    found = analysis.validation
    if found is None:
        return ""
    return (
        f"<h2>How far to trust the predictors on this network</h2>"
        f'<p class="soft">Kendall\'s tau with what {found.samples} held-out samples of {escape(found.source)} gave: 1 '
        "is the same order, 0 none. The noise ceiling is that of one half of these samples with the other half.</p>"
        f"{_tau_table('KL divergence', found, 'kl')}{_tau_table('loss', found, 'loss')}"
        f'<div class="pair"><div><p>Single layers, every width</p>'
        f"{figure_block(figures.layer_prediction_figure(analysis, found), 520)}</div>"
        f"<div><p>{len(found.assignments)} random assignments</p>"
        f"{figure_block(figures.assignment_prediction_figure(found), 520)}</div></div>"
    )


def _tau_table(what: str, found: Validation, side: str) -> str:
    widths = found.layer_taus
    names = dict.fromkeys([*next(iter(widths.values())), *found.assignment_taus])
    columns: Sequence[Mapping[str, Tau]] = [*widths.values(), found.assignment_taus]
    rows = [[escape(name), *(_tau_cell(column.get(name), side) for column in columns)] for name in names]
    head = ["predictor", *(f"layers, {bits} bits" for bits in widths), "assignments"]
    return table(head, rows, f"Kendall's tau with the measured {what}; for assignments, of the sum over layers.")


def _tau_cell(tau: Tau | None, side: str) -> str:
    value = None if tau is None else tau.kl if side == "kl" else tau.loss
    return "–" if value is None else f"{value:.2f}"


def _activations(analysis: Analysis) -> str:
    parts = ""
    rounded = tuple(layer for layer in analysis.layers if layer.activation is not None and layer.activation.kl)
    if rounded:
        parts += (
            f"<h2>Loss increase when one activation tensor alone is rounded {tag('measured')}</h2>"
            '<p class="soft">The tensor that enters the layer, rounded for all its readers.</p>'
            f"{figure_block(figures.activation_figure(rounded))}"
        )
    traced = [(layer.name, a) for layer in analysis.layers if (a := layer.activation) is not None and a.trace]
    rows = [
        [
            escape(name),
            escape(a.value),
            f"{a.elements:,}",
            f"{a.trace.trace:.5g}" + (f" ± {a.trace.standard_error:.2g}" if a.trace.standard_error else ""),
            escape(a.trace.matrix),
            tag(a.trace.provenance),
        ]
        for name, a in traced
        if a.trace is not None
    ]
    if rows:
        head = ["layer", "tensor", "elements", "trace", "matrix", "provenance"]
        parts += (
            f"<h2>Hessian traces of activations</h2>{table(head, rows, 'Of one sample’s loss, mean over samples.')}"
        )
    return parts


def _spreads(analysis: Analysis) -> str:
    """Fisher traces, spread over data subsets, and cross-layer terms: each where it was asked for."""
    fisher = [[escape(layer.name), f"{layer.fisher:.5g}"] for layer in analysis.layers if layer.fisher is not None]
    subsets = [
        [escape(layer.name), escape(name), f"{s.mean:.5g}", f"{s.standard_deviation:.3g}"]
        for layer in analysis.layers
        for name, s in layer.subsets.items()
    ]
    terms = sorted(
        ((layer.name, t) for layer in analysis.layers for t in layer.cross_terms), key=lambda p: -abs(p[1].nats)
    )
    crossed = [
        [escape(name), str(t.bits), escape(t.other), str(t.other_bits), f"{nats(t.nats)} ± {t.standard_error:.1g}"]
        for name, t in terms[:50]
    ]
    return (
        _titled(f"Trace of the empirical Fisher matrix {tag('exact')}", ["layer", "trace"], fisher)
        + _titled("Spread over subsets of the data", ["layer", "number", "mean", "standard deviation"], subsets)
        + _titled(
            f"Cross-layer terms, the largest {len(crossed)} of {len(terms)} {tag('measured')}",
            ["layer", "bits", "other layer", "bits", "nats beyond each alone"],
            crossed,
        )
    )


def _titled(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    listed = list(rows)
    return f"<h2>{title}</h2>{table(head, listed)}" if listed else ""


def _origin(analysis: Analysis) -> str:
    facts = {
        "passes": analysis.pipeline,
        "seed": str(analysis.seed),
        **{f"time of {step}": seconds(value) for step, value in analysis.cost.seconds_of.items()},
        **analysis.environment,
    }
    return f"<h2>How this was made</h2>{origin_block(facts)}"
