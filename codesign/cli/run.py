"""`codesign run` and `codesign opt`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.options import Layout, Mean, Scale, Seed, Std, integers, numbers
from codesign.cli.terminal import console_progress, show


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
        with console_progress() as progress:
            for line in describe(settled, run_file.parent, folder, progress):
                progress.note(line)
        return
    from codesign.console import report_table

    with console_progress() as progress:
        report = execute(settled, run_file.parent, folder, progress)
    show(report_table(report))
    show(f"Report: {folder / 'report.html'}   numbers: {folder / 'report.json'}")
    show(f"Chosen network: {folder / 'artifacts' / report.chosen.identity}")


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

    images = ImageOptions(scale, numbers(mean), numbers(std), layout)
    request = OptRequest(
        graph, passes, output, weights, integers(input_shape), data, samples, images, seed, print_after_all, dump,
        time_passes,
    )  # fmt: skip
    with console_progress() as progress:
        run_opt(request, sys.stdout, progress)
