"""`codesign partition`, kept apart from the other commands for its many options."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from codesign.errors import InputError

if TYPE_CHECKING:
    from codesign.flow.partition_request import PartitionRequest

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
    weights: Annotated[str | None, typer.Option(help="Weights for a factory.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Such as 1,3,32,32; for a factory.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.")] = None,
) -> None:
    """Plan how a network is spread over devices: by samples, channels, space or mixtures of them, layer by layer."""
    from codesign.flow.partition_request import PartitionRequest

    _show(
        PartitionRequest(
            model, layers, target, mesh, devices, batch, objective, mode, alpha, bandwidth, element_bytes,
            not no_redistribution, micro_batches, memory, overlap, weights, _shape(input_shape), html is not None,
        ),
        json,
        html,
    )  # fmt: skip


def _show(request: "PartitionRequest", json: Path | None, html: Path | None) -> None:
    from rich.console import Console

    from codesign.console import ConsoleProgress
    from codesign.files import write_json
    from codesign.flow.partition import partition as run
    from codesign.flow.partition_table import partition_lines

    with ConsoleProgress(Console(stderr=True, markup=False)).live() as progress:
        result = run(request, progress)
    console = Console(markup=False, width=None if sys.stdout.isatty() else 200)
    for part in partition_lines(result):
        console.print(part, soft_wrap=isinstance(part, str))
    if json is not None:
        write_json(json, result.to_json())
    if html is not None:
        from codesign.report.partition_html import write_partition_html

        write_partition_html(result, html)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text!r}: expected whole numbers separated by commas, such as 1,3,32,32") from None
