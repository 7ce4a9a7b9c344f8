"""Commands that price and choose without running a network: `codesign simulate` and `codesign allocate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from codesign.cli.options import integers
from codesign.cli.terminal import show

ArrayKind = Literal["skewed", "broadcast", "squeezelerator"]
DataflowChoice = Literal["os", "ws", "is", "best"]


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
            integers(input_shape), net,
        )
    )  # fmt: skip
    for part in simulation_lines(result):
        show(part)
    if json is not None:
        write_json(json, result.to_json())
    if html is not None:
        from codesign.report.simulation_html import write_simulation_html

        write_simulation_html(result, html)


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
    show(shown)
    if json is not None:
        write_json(json, {"cases": [result.to_json() for result in results]})
