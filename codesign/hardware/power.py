"""Which power meter this machine offers, and why not a better one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codesign.hardware.nvml_meter import find_nvml
from codesign.hardware.power_meter import FallbackMeter, PowerMeter, PowerMeterError, ProfileMeter
from codesign.hardware.rapl_meter import find_rapl
from codesign.hardware.sensor_meter import find_sensor

if TYPE_CHECKING:  # measured processes import this and start quickly
    from codesign.hardware.profile import HardwareProfile

SYSFS = Path("/sys")
Part = Literal["processor", "gpu"]
"""What does the work: a meter of another part would measure nothing of it."""


def find_meter(root: Path = SYSFS, part: Part = "processor") -> tuple[PowerMeter | None, tuple[str, ...]]:
    """Looks for a meter that measures this machine.

    Args:
        root: Where sysfs is mounted.
        part: What does the work. A processor is measured by RAPL, a GPU by NVML, both by a sensor of the board.

    Returns:
        The best meter, None if there is none; and why each better one is not available.
    """
    counter: Callable[[], PowerMeter] = find_nvml if part == "gpu" else lambda: find_rapl(root)
    reasons: list[str] = []
    for find in (counter, lambda: find_sensor(root)):
        try:
            return find(), tuple(reasons)
        except PowerMeterError as error:
            reasons.append(str(error))
    return None, tuple(reasons)


def find_power_meter(
    profile: "HardwareProfile", root: Path = SYSFS, part: Part = "processor", dynamic_energy_j: float = 0.0
) -> PowerMeter:
    """A meter that always answers: one that measures or, without one or when it fails, the profile's model.

    Args:
        profile: The device that this machine is.
        root: Where sysfs is mounted.
        part: What does the work.
        dynamic_energy_j: For the model: what a cost model says of the work to be measured, idle power left out.

    Returns:
        The meter. Its readings say where they come from and, where they are modelled, why.
    """
    meter, reasons = find_meter(root, part)
    model = ProfileMeter(profile, dynamic_energy_j, "; ".join(reasons))
    return model if meter is None else FallbackMeter(meter, model)
