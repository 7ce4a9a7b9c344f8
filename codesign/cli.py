"""The `codesign` command."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from codesign import __version__
from codesign.cli_partition import calibrate_link, partition
from codesign.errors import CodesignError

if TYPE_CHECKING:
    from codesign.console import ConsoleProgress
    from codesign.flow.analyze_request import AnalyzeRequest

app = typer.Typer(
    help="Chooses a network's bit widths together with the hardware that runs it, compiles the choice with TVM and "
    "measures it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(partition)
app.command()(calibrate_link)

INTERRUPTED = 130

Scale = Annotated[
    float | None, typer.Option(help="Factor of raw values; if left out, 1/255 for images of bytes and 1 for others.")
]
Mean = Annotated[str, typer.Option(help="Taken off scaled values; comma-separated, one for each channel or for all.")]
Std = Annotated[str, typer.Option(help="Divides what is left; comma-separated, one for each channel or for all.")]
Layout = Annotated[str, typer.Option(help="Of the raw data: NHWC or NCHW.")]
Seed = Annotated[int, typer.Option(min=0, help="Source of all randomness.")]
DType = Literal["float32", "float64"]
WeightsOf = Literal["module", "folded"]
TraceMethod = Literal["auto", "hutchinson", "hutch++", "xtrace", "gauss-newton"]
ArrayKind = Literal["skewed", "broadcast", "squeezelerator"]
DataflowChoice = Literal["os", "ws", "is", "best"]


def main() -> None:
    """Runs the command; a mistake of the user's ends in one clear message and a non-zero exit code."""
    # Before torch is imported: threads that wait for work must not spin, or a second busy program slows us 20-fold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except CodesignError as error:
        print(f"codesign: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns Ctrl-C into an exit without a word
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        print("codesign: interrupted; what is finished is kept, repeat the command to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"codesign: error: {place}{error.strerror or error}; check the path and the free space", file=sys.stderr)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def run(
    run_file: Annotated[Path, typer.Argument(help="The run file (TOML).", metavar="RUN.toml")],
    target: Annotated[str | None, typer.Option(help="Target to use instead of the run file's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; runs/NAME if left out.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the run file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
) -> None:
    """Choose, compile and measure: from a model and data to a Pareto set of networks for a target.

    Everything that is finished is kept: repeat the command after an interruption and it goes on from there.
    """
    from codesign.flow.run import describe, execute
    from codesign.run_file import load_run_file

    changes = [*(settings or []), *([f"target={target}"] if target else [])]
    settled = load_run_file(run_file, changes)
    folder = out or Path("runs") / settled.name
    if dry_run:
        with _progress() as progress:
            for line in describe(settled, run_file.parent, folder, progress):
                progress.note(line)
        return
    from codesign.console import report_table

    with _progress() as progress:
        report = execute(settled, run_file.parent, folder, progress)
    _print(report_table(report))
    _print(f"Report: {folder / 'report.html'}   numbers: {folder / 'report.json'}")
    _print(f"Chosen network: {folder / 'artifacts' / report.chosen.identity}")


@app.command()
def opt(
    graph: Annotated[str, typer.Argument(help=".onnx, .pt2, package.module:factory or path/to/file.py:factory.")],
    passes: Annotated[str, typer.Option("--passes", "-p", help="Such as 'count-work,hessian-trace{samples=256}'.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the graph to this .onnx file.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights for a factory.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Such as 1,3,32,32.")] = None,
    data: Annotated[str | None, typer.Option(help="Calibration data: .npz, folder, zip, digits, ...")] = None,
    samples: Annotated[int | None, typer.Option(help="Use only the first samples.")] = None,
    scale: Scale = None,
    mean: Mean = "0",
    std: Std = "1",
    layout: Layout = "NHWC",
    seed: Seed = 0,
    print_after_all: Annotated[
        bool, typer.Option("--print-after-all", help="Print the graph after every pass.")
    ] = False,
    dump: Annotated[Path | None, typer.Option(help="Write the graph after every pass into this folder.")] = None,
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Show how long each pass took.")] = False,
) -> None:
    """Run passes over a graph and print it with its facts."""
    from codesign.flow.opt import OptRequest, run_opt
    from codesign.flow.samples import ImageOptions

    images = ImageOptions(scale, _numbers(mean), _numbers(std), layout)
    request = OptRequest(
        graph, passes, output, weights, _integers(input_shape), data, samples, images, seed, print_after_all, dump,
        time_passes,
    )  # fmt: skip
    with _progress() as progress:
        run_opt(request, sys.stdout, progress)


@app.command()
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

    judged = ValidationRequest(held_out, held_out_samples, assignments, _integers(assignment_bits))
    request = AnalyzeRequest(
        model, data, weights, _integers(input_shape), ImageOptions(scale, _numbers(mean), _numbers(std), layout),
        tuple(dict.fromkeys(metric)) if metric else DEFAULT_METRICS, samples, dtype, weights_of,
        trace_method, target,
        _integers(bits) or (), eigenvalues, drop, relative_error, seconds, max_forwards, bytes_of(memory_limit),
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
        with _progress() as progress:
            found = analyze(request, progress, shard)
        for part in analysis_lines(found):
            _print(part)
        if json is not None:
            write_analysis_json(found, json)
        if html is not None:
            from codesign.report.analysis_html import write_analysis_html

            write_analysis_html(found, html)


@app.command()
def simulate(
    source: Annotated[
        str,
        typer.Argument(help="A network (.onnx, .pt2 or a factory), or a table of layers.", metavar="MODEL|LAYERS.csv"),
    ],
    profile: Annotated[str, typer.Option("--profile", "-p", help="Hardware profile: a name, or the path of a file.")],
    array: Annotated[str | None, typer.Option(metavar="RxC", help="Rows and columns instead of the profile's.")] = None,
    array_model: Annotated[ArrayKind | None, typer.Option(help="Kind of array instead of the profile's.")] = None,
    dataflow: Annotated[
        DataflowChoice, typer.Option(help="Output-, weight- or input-stationary, or the fastest for each layer.")
    ] = "best",
    weight_bits: Annotated[int | None, typer.Option(help="8 if left out; 32 for floating point.")] = None,
    activation_bits: Annotated[int | None, typer.Option(help="8 if left out; 32 for floating point.")] = None,
    net: Annotated[str | None, typer.Option(help="Only this network of a table that holds several.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights for a factory.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Such as 1,3,32,32; for a factory.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with a roofline plot to this file.")] = None,
) -> None:
    """Price every layer on a described device: cycles, traffic, latency, energy and what limits it. Nothing is run."""
    from codesign.files import write_json
    from codesign.flow import simulate as flow
    from codesign.flow.simulation_table import simulation_lines

    size = None if array is None else flow.parse_array(array)
    result = flow.simulate(
        flow.SimulateRequest(
            source, profile, size, array_model, dataflow, weight_bits, activation_bits, weights,
            _integers(input_shape), net,
        )
    )  # fmt: skip
    for part in simulation_lines(result):
        _print(part)
    if json is not None:
        write_json(json, result.to_json())
    if html is not None:
        from codesign.report.simulation_html import write_simulation_html

        write_simulation_html(result, html)


@app.command()
def calibrate(
    target: Annotated[str, typer.Argument(help="Name of a target, or path of its TOML file; it must be reachable.")],
    budget: Annotated[str, typer.Option(help="Time for measuring, such as 90s or 10m.")] = "10m",
    out: Annotated[Path | None, typer.Option(help="The profile; TARGET-calibrated.toml if left out.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A network whose layers are measured too.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Of these networks, such as 1,3,32,32.")] = None,
    seed: Annotated[int, typer.Option(help="Source of all draws.")] = 0,
) -> None:
    """Measure kernels on a device, fit its cost model to them, and write a profile with its held-out error.

    Measurements are kept beside the profile: repeat the command to go on from there.
    """
    from codesign.flow.calibrate import CalibrateRequest, seconds_of
    from codesign.flow.calibrate import calibrate as run_calibration
    from codesign.flow.calibration_table import calibration_tables

    request = CalibrateRequest(target, seconds_of(budget), out, tuple(model or ()), _integers(input_shape), seed)
    with _progress() as progress:
        result = run_calibration(request, progress)
    for table in calibration_tables(result):
        _print(table)
    _print(f"Profile: {result.profile}   measurements: {result.measured.file.path}")


@app.command()
def allocate(
    table: Annotated[Path, typer.Argument(help="Layers with their options, ties and cases (JSON).")],
    json: Annotated[Path | None, typer.Option("--json", help="Write the answers to this file.")] = None,
) -> None:
    """Solve a table of layers and options exactly, for each of its cases."""
    from rich.table import Table

    from codesign.files import write_json
    from codesign.search.allocation_table import allocate_table

    results = allocate_table(table)
    shown = Table("limit", "bits", "loss increase", "gap", "seconds")
    for result in results:
        limit = ", ".join(f"{metric} ≤ {value:.6g}" for metric, value in result.limit.items()) or "none"
        bits = " ".join(str(b) for _, b in result.allocation.choice)
        gap, took = result.allocation.gap, result.allocation.seconds
        shown.add_row(limit, bits, f"{result.allocation.loss_increase:.6g}", f"{gap:.1g}", f"{took:.3f}")
    _print(shown)
    if json is not None:
        write_json(json, {"cases": [result.to_json() for result in results]})


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None,
) -> None:
    """List targets, or show one."""
    from codesign.flow.listing import show_target, target_table

    _print(target_table() if name is None else show_target(name))


@app.command()
def profiles(
    name: Annotated[str | None, typer.Argument(help="Show this one whole, with the source of each number.")] = None,
) -> None:
    """List hardware profiles, or show one."""
    from codesign.flow.listing import profile_table, show_profile

    _print(profile_table() if name is None else show_profile(name))


@app.command()
def passes(
    name: Annotated[str | None, typer.Argument(help="Show this one's options.")] = None,
) -> None:
    """List passes, or show one's options."""
    from codesign.flow.listing import pass_table, show_pass

    _print(pass_table() if name is None else show_pass(name))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise CodesignError(f"{text!r}: expected numbers separated by commas, such as 0.485,0.456,0.406") from None


def _integers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise CodesignError(f"{text!r}: expected whole numbers separated by commas, such as 1,3,32,32") from None


@contextmanager
def _progress() -> "Iterator[ConsoleProgress]":
    from rich.console import Console

    from codesign.console import ConsoleProgress

    with ConsoleProgress(Console(stderr=True, markup=False)).live() as progress:
        yield progress


def _print(what: object) -> None:
    from rich.console import Console

    console = Console(markup=False)  # names and messages may hold brackets
    if not console.is_terminal:
        console = Console(width=200, markup=False)
    console.print(what, soft_wrap=isinstance(what, str))
