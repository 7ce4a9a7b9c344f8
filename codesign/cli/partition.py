"""`codesign partition`, kept apart from the other commands for its many options."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from codesign.errors import CodesignError, InputError

if TYPE_CHECKING:
    from codesign.flow.partition_execute import Executed
    from codesign.flow.partition_request import PartitionRequest
    from codesign.progress import Progress
    from codesign.report.partition_contents import PartitionResult

GoalName = Literal["training", "latency", "throughput", "energy", "memory"]
ModeName = Literal["batch", "model", "grid", "dense-grid", "mesh-tensorflow", "optimal"]


def partition(
    model: Annotated[
        str | None, typer.Argument(help=".onnx, .pt2, package.module:factory or path/to/file.py:factory.")
    ] = None,
    layers: Annotated[Path | None, typer.Option(help="Table of layers instead of MODEL.", metavar="LAYERS.csv")] = None,
    target: Annotated[str | None, typer.Option(help="Several devices: a name, or the path of a file.")] = None,
    mesh: Annotated[str | None, typer.Option(help="Such as data=4,model=8.")] = None,
    devices: Annotated[int | None, typer.Option(help="Arranged as a grid that each layer chooses.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of one step.")] = 1,
    objective: Annotated[GoalName, typer.Option(help="What to minimise.")] = "training",
    mode: Annotated[ModeName, typer.Option(help="Whose layers to show; all modes are compared.")] = "optimal",
    alpha: Annotated[float | None, typer.Option(help="Seconds to start a message; 2e-6 without a target.")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Bytes per second of a link; 6e9 without a target.")] = None,
    element_bytes: Annotated[float, typer.Option(help="Bytes of one number.")] = 4.0,
    no_redistribution: Annotated[
        bool, typer.Option("--no-redistribution", help="Leave out changes of layout between layers.")
    ] = False,
    micro_batches: Annotated[int | None, typer.Option(help="Also cut the network into pipeline stages.")] = None,
    memory: Annotated[float | None, typer.Option(help="Bytes that a device can hold.")] = None,
    overlap: Annotated[bool, typer.Option("--overlap", help="Halos travel while interiors are computed.")] = False,
    execute: Annotated[
        bool, typer.Option("--execute", help="Carry the plan out on local processes, or under torchrun, and compare.")
    ] = False,
    plan: Annotated[Path | None, typer.Option(help="Write MODEL with its plan to this .onnx file.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights for a factory.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Such as 1,3,32,32; for a factory.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.")] = None,
) -> None:
    """Plan how a network is spread over devices: by samples, channels, space or mixtures of them, layer by layer."""
    from codesign.flow.partition_request import PartitionRequest

    request = PartitionRequest(
        model, layers, target, mesh, devices, batch, objective, mode, alpha, bandwidth, element_bytes,
        not no_redistribution, micro_batches, memory, overlap, weights, _shape(input_shape), html is not None,
    )  # fmt: skip
    _partition(request, execute, plan, json, html)


def _partition(
    request: "PartitionRequest", execute: bool, plan_file: Path | None, json: Path | None, html: Path | None
) -> None:
    from codesign.flow.partition import partition as run
    from codesign.flow.partition_table import partition_lines

    if execute:
        from codesign.flow.partition_execute import check_processes

        check_processes(request)
    with _progress() as progress:
        result = run(request, progress)
    if not _is_first():
        _carried_out(request, result, execute, None)
        return
    for part in partition_lines(result):
        _print(part)
    executed = _carried_out(request, result, execute, plan_file) if execute or plan_file is not None else None
    if json is not None:
        from codesign.files import write_json

        write_json(json, {**result.to_json(), "execution": None if executed is None else executed.to_json()})
    if html is not None:
        from codesign.report.partition_html import write_partition_html

        write_partition_html(result, html)
    if executed is not None and not executed.is_right:
        raise CodesignError("execution: results or messages differ from what was planned (see above); report it")


def _carried_out(
    request: "PartitionRequest", result: "PartitionResult", execute: bool, plan_file: Path | None
) -> "Executed | None":
    """Runs the plan and writes its file, as asked for."""
    from codesign.flow import partition_execute as flow

    program, network = flow.program_and_network(request)
    plan = flow.plan_to_execute(request, program, network, result.chosen)
    if plan_file is not None:
        flow.save_plan(program, plan, plan_file)
        _print(f"Network with its plan: {plan_file}")
    executed = flow.execute(program, network, plan) if execute else None
    for line in executed.lines() if executed is not None else ():
        _print(line)
    return executed


def _is_first() -> bool:
    """False for all of torchrun's processes but the first."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _progress() -> "Iterator[Progress]":
    from codesign.progress import Silent

    if not _is_first():
        yield Silent()
        return
    from rich.console import Console

    from codesign.console import ConsoleProgress

    with ConsoleProgress(Console(stderr=True, markup=False)).live() as progress:
        yield progress


def _print(part: object) -> None:
    from rich.console import Console

    console = Console(markup=False, width=None if sys.stdout.isatty() else 200)
    console.print(part, soft_wrap=isinstance(part, str))


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text!r}: expected whole numbers separated by commas, such as 1,3,32,32") from None


def calibrate_link(
    target: Annotated[str, typer.Argument(help="A local target with several processes.")] = "host-2proc",
    out: Annotated[Path | None, typer.Option(help="The new target; TARGET-calibrated.toml if left out.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement; the least time counts.")] = 30,
) -> None:
    """Measure latency and bandwidth between local processes, and write a target with them."""
    from codesign.flow.calibrate_link import calibrate_link as run

    found = run(target, out, repeats)
    fit = found.fit
    _print(
        f"alpha {fit.latency_s * 1e6:.1f} us, bandwidth {fit.bandwidth_bytes_per_s / 1e9:.3f} GB/s (calibrated; median "
        f"error on held-out collectives {fit.relative_error:.0%})"
    )
    _print(f"Target: {found.path}")
