"""Commands that compile for a device and use it: `codesign compile`, `codesign measure` and `codesign calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.options import integers
from codesign.cli.terminal import console_progress, show

Target = Annotated[str, typer.Option(help="Name of a target, or path of its TOML file.")]


def compile_network(
    source: Annotated[
        str,
        typer.Argument(help=".onnx (with QDQ nodes or without), .pt2, a factory, or plans/ID.json of a run's folder."),
    ],
    target: Target,
    out: Annotated[Path | None, typer.Option(help="The artefact's folder; NAME-TARGET if left out.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights for a factory.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Such as 1,3,32,32; for a factory.")] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET",
            help="Find faster loops for the kernels by measurement, for so long (such as 5m); 'cached' uses those that "
            "were found before.",
        ),
    ] = None,
) -> None:
    """Compile a network with TVM into a folder that is ready for its device: library, manifest, runners."""
    from codesign.flow.compile import CompileRequest, compile_artifact

    request = CompileRequest(source, target, out, weights, integers(input_shape), tune)
    with console_progress() as progress:
        made = compile_artifact(request, progress)
    machine = made.manifest.target
    show(
        f"{made.path}: compiled for {machine.mcpu} ({machine.machine}), {machine.threads} thread(s), "
        f"weights {made.manifest.weight_bytes:,} bytes"
    )
    if made.manifest.arithmetic_note:
        show(made.manifest.arithmetic_note)


def measure(
    artifact: Annotated[Path, typer.Argument(help="Folder that `codesign compile` wrote.")],
    target: Target,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; the target's if left out.")] = None,
    warm_up: Annotated[int, typer.Option(min=0, help="Runs that are not counted.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Samples.")] = 50,
    runs_per_sample: Annotated[int, typer.Option(min=1, help="Consecutive runs whose mean is one sample.")] = 10,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which it is given up.")] = 300.0,
    layers: Annotated[bool, typer.Option("--layers", help="Time every layer, too.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
) -> None:
    """Run a compiled network on a target: latency, and each layer's share of it; or instructions in an emulator."""
    from codesign.files import write_json
    from codesign.flow.measure import MeasureRequest, measure_artifact
    from codesign.flow.measurement_table import measurement_lines

    request = MeasureRequest(artifact, target, threads, warm_up, repeats, runs_per_sample, timeout, layers)
    with console_progress() as progress:
        found = measure_artifact(request, progress)
    for part in measurement_lines(found):
        show(part)
    if json is not None:
        write_json(json, found.to_json())


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
    from codesign.durations import seconds_of
    from codesign.flow.calibrate import CalibrateRequest
    from codesign.flow.calibrate import calibrate as run_calibration
    from codesign.flow.calibration_table import calibration_tables

    request = CalibrateRequest(target, seconds_of(budget), out, tuple(model or ()), integers(input_shape), seed)
    with console_progress() as progress:
        result = run_calibration(request, progress)
    for table in calibration_tables(result):
        show(table)
    show(f"Profile: {result.profile}   measurements: {result.measured.file.path}")
