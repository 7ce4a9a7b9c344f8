"""Power sensors of boards (INA3221, INA2xx) in sysfs, such as those of NVIDIA's Jetson modules.

Two interfaces are known: `class/hwmon/hwmon*` with `in*_input` in millivolt and `curr*_input` in milliampere, or
`power*_input` in microwatt; and, on older Jetson systems, `bus/i2c/drivers/ina3221x/*/iio:device*` with
`in_power*_input` in milliwatt.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codesign.hardware.power_meter import PowerMeterError
from codesign.hardware.sampled_power import SampledPowerMeter

CHIPS = re.compile(r"ina(3221|2\d\d|2xx).*")
WHOLE_BOARD = frozenset({"VDD_IN", "POM_5V_IN", "VIN_SYS_5V0"})
"""Labels of rails that everything else is fed from."""


@dataclass(frozen=True)
class Rail:
    """One measured supply.

    Attributes:
        label: Name of the rail.
        factors: Files whose product is the power.
        scale: Watts for that product.
    """

    label: str
    factors: tuple[Path, ...]
    scale: float

    def power_w(self) -> float:
        """Reads it.

        Returns:
            Watts.
        """
        product = self.scale
        for path in self.factors:
            product *= float(path.read_text())
        return product


def find_sensor(root: Path, period_s: float = 0.02) -> SampledPowerMeter:
    """Looks for a power sensor.

    Args:
        root: Where sysfs is mounted.
        period_s: Seconds from one sample to the next.

    Returns:
        A meter of the rail that feeds the whole board or, if none is named so, of all rails together.

    Raises:
        PowerMeterError: There is none, or it cannot be read.
    """
    rails = [*_hwmon_rails(root / "class" / "hwmon"), *_iio_rails(root / "bus" / "i2c" / "drivers" / "ina3221x")]
    if not rails:
        raise PowerMeterError(f"power sensor: no INA3221 or INA2xx in {root}/class/hwmon")
    chosen = [rail for rail in rails if rail.label in WHOLE_BOARD][:1] or rails
    for rail in chosen:
        try:
            rail.power_w()
        except PermissionError as error:
            raise PowerMeterError(
                f"{rail.factors[0]}: may not be read; allow it with `sudo chmod o+r {rail.factors[0]}`"
            ) from error
        except (OSError, ValueError) as error:
            raise PowerMeterError(f"{rail.factors[0]}: cannot be read ({error})") from error
    labels = " + ".join(rail.label for rail in chosen)
    return SampledPowerMeter(lambda: sum(rail.power_w() for rail in chosen), f"INA sensor, rail {labels}", period_s)


def _hwmon_rails(folder: Path) -> Iterator[Rail]:
    for chip in sorted(folder.glob("hwmon*")):
        if not CHIPS.fullmatch(_text(chip / "name")):
            continue
        direct = sorted(chip.glob("power*_input"))
        for power in direct:
            yield Rail(_text(chip / power.name.replace("input", "label")) or chip.name, (power,), 1e-6)
        if direct:
            continue
        for current in sorted(chip.glob("curr[1-3]_input")):  # 4 to 6 of an INA3221 are sums of these
            voltage = chip / current.name.replace("curr", "in")
            if voltage.is_file():
                label = _text(chip / voltage.name.replace("input", "label")) or f"{chip.name}/{current.name}"
                yield Rail(label, (voltage, current), 1e-6)


def _iio_rails(folder: Path) -> Iterator[Rail]:
    for power in sorted(folder.glob("*/iio:device*/in_power*_input")):
        number = re.sub(r"\D", "", power.name)
        yield Rail(_text(power.parent / f"rail_name_{number}") or power.name, (power,), 1e-3)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
