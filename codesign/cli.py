"""The `codesign` command."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codesign import __version__
from codesign.errors import CodesignError

if TYPE_CHECKING:
    from codesign.console import ConsoleProgress

app = typer.Typer(
    help="Chooses a network's bit widths together with the hardware that runs it, compiles the choice with TVM and "
    "measures it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130


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
    scale: Annotated[float, typer.Option(help="Factor of raw values, such as 0.00392157 for bytes.")] = 1.0,
    mean: Annotated[str, typer.Option(help="Comma-separated, one for each channel or one for all.")] = "0",
    std: Annotated[str, typer.Option(help="Comma-separated, one for each channel or one for all.")] = "1",
    layout: Annotated[str, typer.Option(help="Of the raw data: NHWC or NCHW.")] = "NHWC",
    seed: Annotated[int, typer.Option(help="Source of all randomness.")] = 0,
    print_after_all: Annotated[
        bool, typer.Option("--print-after-all", help="Print the graph after every pass.")
    ] = False,
    dump: Annotated[Path | None, typer.Option(help="Write the graph after every pass into this folder.")] = None,
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Show how long each pass took.")] = False,
) -> None:
    """Run passes over a graph and print it with its facts."""
    from codesign.flow.opt import OptRequest, run_opt

    request = OptRequest(
        graph, passes, output, weights, _integers(input_shape), data, samples, scale, _numbers(mean), _numbers(std),
        layout, seed, print_after_all, dump, time_passes,
    )  # fmt: skip
    with _progress() as progress:
        run_opt(request, sys.stdout, progress)


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
