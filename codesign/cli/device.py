"""Commands that use a device: `codesign calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.options import integers
from codesign.cli.terminal import console_progress, show


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

    request = CalibrateRequest(target, seconds_of(budget), out, tuple(model or ()), integers(input_shape), seed)
    with console_progress() as progress:
        result = run_calibration(request, progress)
    for table in calibration_tables(result):
        show(table)
    show(f"Profile: {result.profile}   measurements: {result.measured.file.path}")
