"""`codesign analyze`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from codesign.cli.options import Layout, Mean, Scale, Seed, Std, integers, numbers
from codesign.cli.terminal import console_progress, show

if TYPE_CHECKING:
    from codesign.flow.analyze_request import AnalyzeRequest

DType = Literal["float32", "float64"]
WeightsOf = Literal["module", "folded"]
TraceMethod = Literal["auto", "hutchinson", "hutch++", "xtrace", "gauss-newton"]


def analyze(
    model: Annotated[str, typer.Argument(help=".onnx, .pt2, package.module:factory or path/to/file.py:factory.")],
    data: Annotated[str, typer.Option(help="Samples with labels: .npz, folder, zip, digits, ...")],
    weights: Annotated[str | None, typer.Option(help="Weights for a factory.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Such as 1,3,32,32; for a factory.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="May be repeated. Curvature: trace, eigenvalues, density (of the whole network), subsets, fisher, "
            "activation-trace. Loss increase: auto, kl, hawq, hawq-v2, gauss-newton, gradient-gauss-newton; "
            "activation-sensitivity, cross-layer. If left out: trace, eigenvalues, auto."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Analyse only the first samples.")] = 256,
    scale: Scale = None,
    mean: Mean = "0",
    std: Std = "1",
    layout: Layout = "NHWC",
    dtype: Annotated[DType, typer.Option(help="What the network is computed in; sums are in float64.")] = "float32",
    weights_of: Annotated[
        WeightsOf, typer.Option(help="Curvature in the module's own weights, or in those that are quantised.")
    ] = "folded",
    trace_method: Annotated[
        TraceMethod, typer.Option(help="Of layers: exact where possible, else by probes; or the same for all layers.")
    ] = "auto",
    target: Annotated[str | None, typer.Option(help="Only widths that this target has rates for.")] = None,
    bits: Annotated[str, typer.Option(help="Widths of weights.")] = "2,3,4,6,8",
    eigenvalues: Annotated[int, typer.Option(min=1, help="How many of each layer, and of the network.")] = 5,
    drop: Annotated[
        float | None, typer.Option(help="Share of the output Hessian that is sampled; 0 makes exact what can be.")
    ] = None,
    relative_error: Annotated[float | None, typer.Option(help="Standard error at which probing stops.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Time limit of sampling and probing.")] = None,
    max_forwards: Annotated[
        float, typer.Option(help="Forward passes that 'auto' may spend before it takes a quadratic model.")
    ] = 400.0,
    memory_limit: Annotated[str, typer.Option(help="For values held at once, such as 4GB or 512MiB.")] = "1GiB",
    subsets: Annotated[int, typer.Option(help="Parts of the data for the metric subsets.")] = 4,
    validate: Annotated[
        bool, typer.Option("--validate", help="Measure on held-out samples, and rank predictors by Kendall's tau.")
    ] = False,
    held_out: Annotated[
        str | None, typer.Option(help="Data for --validate; if left out, the samples after the first.")
    ] = None,
    held_out_samples: Annotated[int, typer.Option(help="Use only the first of them.")] = 512,
    assignments: Annotated[int, typer.Option(help="Random mixed assignments that --validate measures.")] = 100,
    assignment_bits: Annotated[str | None, typer.Option(help="Widths in them; if left out, all.")] = None,
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.")] = None,
) -> None:
    """Curvature and sensitivity of each layer: exact where that is possible, with an error bar where it is not.

    Under torchrun several processes share the samples and give the same numbers as one.
    """
    from codesign.flow.analyze_request import DEFAULT_METRICS, AnalyzeRequest, ValidationRequest, bytes_of
    from codesign.flow.samples import ImageOptions

    judged = ValidationRequest(held_out, held_out_samples, assignments, integers(assignment_bits))
    request = AnalyzeRequest(
        model, data, weights, integers(input_shape), ImageOptions(scale, numbers(mean), numbers(std), layout),
        tuple(dict.fromkeys(metric)) if metric else DEFAULT_METRICS, samples, dtype, weights_of,
        trace_method, target,
        integers(bits) or (), eigenvalues, drop, relative_error, seconds, max_forwards, bytes_of(memory_limit),
        subsets, seed, judged if validate else None,
    )  # fmt: skip
    _analyze(request, json, html)


def _analyze(request: "AnalyzeRequest", json: Path | None, html: Path | None) -> None:
    """Runs it and shows the result; of several processes only the first speaks and writes."""
    from codesign.console import analysis_lines
    from codesign.flow.analyze import analyze
    from codesign.flow.processes import joined_processes
    from codesign.progress import Silent
    from codesign.report.analysis_json import write_analysis_json

    with joined_processes() as shard:
        if shard.rank:
            analyze(request, Silent(), shard)
            return
        with console_progress() as progress:
            found = analyze(request, progress, shard)
        for part in analysis_lines(found):
            show(part)
        if json is not None:
            write_analysis_json(found, json)
        if html is not None:
            from codesign.report.analysis_html import write_analysis_html

            write_analysis_html(found, html)
