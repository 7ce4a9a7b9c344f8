"""Energy from samples of power: a thread reads a sensor again and again, and straight lines join the samples."""

import threading
import time
from collections.abc import Callable

from codesign.hardware.power_meter import EnergyReading, PowerMeterError


class SampledPowerMeter:
    """Integrates power over time by the trapezoidal rule.

    What happens between two samples is unknown: sections should last many sampling periods.
    """

    def __init__(self, read_power_w: Callable[[], float], source: str, period_s: float = 0.02) -> None:
        """Prepares a meter.

        Args:
            read_power_w: Reads the power in watts; raises OSError or ValueError when the sensor is gone.
            source: Which sensor it is, and what it covers.
            period_s: Seconds from one sample to the next.
        """
        self._read_power_w = read_power_w
        self._name = source
        self._period_s = period_s
        self._samples: list[tuple[float, float]] = []
        self._failure: Exception | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def source(self) -> str:
        """Which sensor it is, what it covers, and how often it is read."""
        return f"{self._name}, sampled every {1e3 * self._period_s:.3g} ms"

    def start(self) -> None:
        """Takes the first sample and starts the thread.

        Raises:
            PowerMeterError: The sensor cannot be read.
        """
        self._samples, self._failure = [], None
        self._done.clear()
        self._sample()
        self._raise_failure()
        self._thread = threading.Thread(target=self._run, name="power-meter", daemon=True)
        self._thread.start()

    def stop(self) -> EnergyReading:
        """Takes the last sample and ends the thread.

        Returns:
            The integral.

        Raises:
            PowerMeterError: The sensor was lost on the way.
        """
        if self._thread is None:
            raise PowerMeterError(f"{self._name}: stopped without a start; start the meter first")
        self._done.set()
        self._thread.join()
        self._thread = None
        self._raise_failure()
        self._sample()
        self._raise_failure()
        pairs = list(zip(self._samples[:-1], self._samples[1:], strict=True))
        energy_j = sum((end - begin) * (before + after) / 2 for (begin, before), (end, after) in pairs)
        seconds = self._samples[-1][0] - self._samples[0][0]
        return EnergyReading(energy_j, seconds, f"{self.source} ({len(self._samples)} samples)", "measured")

    def _run(self) -> None:
        while self._failure is None and not self._done.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        try:
            power_w = self._read_power_w()
        except (OSError, ValueError) as error:
            self._failure = error
            return
        self._samples.append((time.perf_counter(), power_w))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise PowerMeterError(
                f"{self._name}: lost after {len(self._samples)} samples ({self._failure})"
            ) from self._failure
