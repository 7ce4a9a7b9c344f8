"""What a power meter is, and what it says."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from codesign.errors import CodesignError

if TYPE_CHECKING:  # measured processes import this and start quickly
    from codesign.hardware.profile import HardwareProfile
    from codesign.ir.annotations import Provenance


class PowerMeterError(CodesignError):
    """A meter cannot be read, or was lost while it measured."""


@dataclass(frozen=True)
class EnergyReading:
    """Energy of what ran between the start and the stop of a meter.

    Attributes:
        energy_j: Joules, with what is drawn whatever runs (static power x time) in it.
        seconds: Time between start and stop.
        source: Which meter says so, and what it covers.
        provenance: `measured` by a meter, `estimated` by a model.
    """

    energy_j: float
    seconds: float
    source: str
    provenance: "Provenance"

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_j / self.seconds


class PowerMeter(Protocol):
    """Measures energy between two moments."""

    @property
    def source(self) -> str:
        """Which meter it is, and what it covers."""

    def start(self) -> None:
        """Starts to measure.

        Raises:
            PowerMeterError: It cannot be read.
        """

    def stop(self) -> EnergyReading:
        """Stops.

        Returns:
            Energy since `start`.

        Raises:
            PowerMeterError: It cannot be read, or what it read tells nothing.
        """


@dataclass
class ProfileMeter:
    """No meter: the idle power of a profile for as long as it takes, and the energy that a cost model gives the work.

    Attributes:
        profile: The device.
        dynamic_energy_j: What a cost model says of the work between start and stop, idle power left out.
        note: Why there is no meter.
    """

    profile: "HardwareProfile"
    dynamic_energy_j: float = 0.0
    note: str = ""
    _started: float = field(default=0.0, repr=False)

    @property
    def source(self) -> str:
        """Says that it is a model, what goes in, and why."""
        dynamic = "energy of operations and bytes" if self.dynamic_energy_j else "no energy of operations and bytes"
        why = f" ({self.note})" if self.note else ""
        return f"model of profile {self.profile.name!r}: {self.profile.idle_power_w:.3g} W x time, {dynamic}{why}"

    def start(self) -> None:
        """Takes the time."""
        self._started = time.perf_counter()

    def stop(self) -> EnergyReading:
        """Takes the time again.

        Returns:
            An estimate.
        """
        seconds = time.perf_counter() - self._started
        energy_j = self.profile.idle_power_w * seconds + self.dynamic_energy_j
        return EnergyReading(energy_j, seconds, self.source, "estimated")


@dataclass
class FallbackMeter:
    """A meter that is replaced by the profile's model when it fails; the reading says so.

    Attributes:
        meter: The meter.
        model: Stands in for it.
    """

    meter: PowerMeter
    model: ProfileMeter
    _failure: str = field(default="", repr=False)

    @property
    def source(self) -> str:
        """The meter, as long as it works."""
        return self.model.source if self._failure else self.meter.source

    def start(self) -> None:
        """Starts the meter and, for the case that it fails, the model."""
        self._failure = ""
        self.model.start()
        try:
            self.meter.start()
        except PowerMeterError as error:
            self._fail(error)

    def stop(self) -> EnergyReading:
        """Stops both.

        Returns:
            What the meter says or, if it failed, the model's estimate labelled with the failure.
        """
        estimate = self.model.stop()
        if not self._failure:
            try:
                return self.meter.stop()
            except PowerMeterError as error:
                self._fail(error)
        return EnergyReading(estimate.energy_j, estimate.seconds, self.model.source, estimate.provenance)

    def _fail(self, error: PowerMeterError) -> None:
        self._failure = str(error)
        self.model.note = f"{self.meter.source} failed: {error}"
