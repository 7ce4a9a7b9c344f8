"""Energy counters of x86 processors (RAPL), as Linux shows them under `/sys/class/powercap`.

Intel's and AMD's processors count the energy of each package. Domains inside a package (cores, graphics) are part of
it; memory is a domain of its own and is not counted here, nor is the rest of the machine.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from codesign.hardware.power_meter import EnergyReading, PowerMeterError

MICRO = 1e-6
HIGHEST_PACKAGE_W = 1000.0
"""No package draws more: a counter cannot have gone round twice in less time than its range lasts at this power."""


@dataclass(frozen=True)
class Counter:
    """The energy counter of one package.

    Attributes:
        folder: Its folder in sysfs.
        range_uj: Where it starts again from zero, in microjoules.
    """

    folder: Path
    range_uj: int

    def read_uj(self) -> int:
        """Reads it.

        Returns:
            Microjoules since some moment.

        Raises:
            PowerMeterError: It cannot be read.
        """
        path = self.folder / "energy_uj"
        try:
            return int(path.read_text())
        except PermissionError as error:
            raise PowerMeterError(
                f"{path}: may not be read; allow it with `sudo chmod o+r {path}` (until the next start), or run as root"
            ) from error
        except (OSError, ValueError) as error:
            raise PowerMeterError(f"{path}: cannot be read ({error})") from error


class RaplMeter:
    """Sums up the counters of all packages."""

    def __init__(self, counters: tuple[Counter, ...]) -> None:
        """Prepares a meter.

        Args:
            counters: One for each package, at least one.
        """
        self._counters = counters
        self._started_s = 0.0
        self._started_uj: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """RAPL, and what it covers."""
        count = len(self._counters)
        return f"RAPL, {count} processor package{'s' if count > 1 else ''} with all that ran on it, without memory"

    def start(self) -> None:
        """Reads the counters."""
        self._started_uj = tuple(counter.read_uj() for counter in self._counters)
        self._started_s = time.perf_counter()

    def stop(self) -> EnergyReading:
        """Reads the counters again; one that starts again from zero in between is understood.

        Returns:
            The sum of the differences.

        Raises:
            PowerMeterError: A counter cannot be read; so much time has passed that it may have gone round twice, or so
                little that none has moved on.
        """
        seconds = time.perf_counter() - self._started_s
        if not self._started_uj:
            raise PowerMeterError("RAPL: stopped without a start; start the meter first")
        energy_uj = 0
        for counter, before in zip(self._counters, self._started_uj, strict=True):
            if counter.range_uj * MICRO < seconds * HIGHEST_PACKAGE_W:
                raise PowerMeterError(
                    f"{counter.folder}: the counter holds {counter.range_uj * MICRO:.0f} J and may have gone round "
                    f"more than once in {seconds:.0f} s; measure shorter sections"
                )
            after = counter.read_uj()
            energy_uj += after - before if after >= before else after - before + counter.range_uj
        if energy_uj == 0:
            raise PowerMeterError(f"RAPL: the counters have not moved on in {seconds:.3g} s; measure longer")
        return EnergyReading(energy_uj * MICRO, seconds, self.source, "measured")


def find_rapl(root: Path) -> RaplMeter:
    """Looks for the counters of this machine's packages.

    Args:
        root: Where sysfs is mounted.

    Returns:
        The meter; every counter was read once.

    Raises:
        PowerMeterError: There are none, or they may not be read; the message says what to do.
    """
    folder = root / "class" / "powercap"
    packages = [path for path in sorted(folder.glob("intel-rapl:*")) if _is_package(path)]
    if not packages:
        raise PowerMeterError(
            f"RAPL: no package in {folder} (not x86, a virtual machine, or the kernel lacks intel_rapl_msr)"
        )
    counters = tuple(Counter(path, _range_uj(path)) for path in packages)
    for counter in counters:
        counter.read_uj()
    return RaplMeter(counters)


def _is_package(path: Path) -> bool:
    if not re.fullmatch(r"intel-rapl:\d+", path.name):
        return False  # a domain inside a package
    try:
        return (path / "name").read_text().startswith("package")
    except OSError:
        return False


def _range_uj(path: Path) -> int:
    file = path / "max_energy_range_uj"
    try:
        value = int(file.read_text())
    except (OSError, ValueError) as error:
        raise PowerMeterError(f"{file}: cannot be read ({error})") from error
    if value <= 0:
        raise PowerMeterError(f"{file}: got {value}, must be positive")
    return value
