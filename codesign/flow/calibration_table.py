"""What `codesign calibrate` shows."""

import numpy as np
from rich.table import Table

from codesign.flow.calibrate import CalibrationResult
from codesign.report.quantities import seconds


def calibration_tables(result: CalibrationResult) -> tuple[Table, ...]:
    """How well the fitted model predicts what it did not see, and whole networks.

    Args:
        result: What came out.

    Returns:
        One table of classes of kernels, and one of networks if any was measured.
    """
    classes = Table(
        "kernels",
        "measured",
        "median error",
        "9 in 10 within",
        "within 10 %",
        title="Held-out kernels: predicted by a fit that did not see their shape",
        caption=f"{result.kernels} kernels, {result.disturbed} left out as disturbed; all: 9 in 10 within "
        f"{result.relative_error:.0%}, {result.within_10_percent:.0%} within 10 %; all times "
        f"are those of the clock at which the reference kernel takes {seconds(result.clock.usual_s)}; it took "
        f"{seconds(result.clock.fastest_s)} to {seconds(result.clock.slowest_s)} drift {result.clock.drift:+.1%}.",
    )
    for found in result.fits:
        errors = np.abs(found.held_out_errors)
        classes.add_row(
            f"{found.fit.kind}, {found.fit.arithmetic}",
            str(len(errors)),
            f"{np.median(errors):.1%}",
            f"{np.quantile(errors, 0.9):.0%}",
            f"{np.mean(errors <= 0.1):.0%}",
        )
    if not result.networks:
        return (classes,)
    networks = Table(
        "network",
        "predicted",
        "measured",
        "error",
        title="Whole networks: calibrated model against measurement at the same clock",
        caption=f"{len(result.networks)} of {len(result.measured.file.networks)} networks measured; the others were "
        f"disturbed, belong to another request, or need kernels that were not measured.",
    )
    for check in result.networks:
        error = check.predicted_s / check.measured_s - 1
        networks.add_row(check.network, seconds(check.predicted_s), seconds(check.measured_s), f"{error:+.1%}")
    return classes, networks
