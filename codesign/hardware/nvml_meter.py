"""Energy of an NVIDIA GPU by NVML: its energy counter where it has one, else samples of its power."""

import importlib
import time
from typing import Protocol, cast

from codesign.hardware.power_meter import EnergyReading, PowerMeter, PowerMeterError
from codesign.hardware.sampled_power import SampledPowerMeter

MILLI = 1e-3


class Nvml(Protocol):
    """What is used of the module pynvml, which has no types."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        """Connects to the driver."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802 - NVML's name
        """The GPU of a number."""

    def nvmlDeviceGetName(self, handle: object) -> str | bytes:  # noqa: N802 - NVML's name
        """The GPU's name."""

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802 - NVML's name
        """Millijoules since the driver was loaded."""

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802 - NVML's name
        """Milliwatts now."""


class NvmlCounterMeter:
    """Reads the counter of millijoules that GPUs from Volta on have."""

    def __init__(self, nvml: Nvml, handle: object, name: str) -> None:
        """Prepares a meter.

        Args:
            nvml: The module pynvml, initialised.
            handle: The GPU.
            name: Its name.
        """
        self._nvml = nvml
        self._handle = handle
        self._name = name
        self._started: tuple[float, int] | None = None

    @property
    def source(self) -> str:
        """The counter, and what it covers."""
        return f"NVML's energy counter of the whole board {self._name}"

    def start(self) -> None:
        """Reads the counter."""
        self._started = time.perf_counter(), self._read_mj()

    def stop(self) -> EnergyReading:
        """Reads the counter again.

        Returns:
            The difference.

        Raises:
            PowerMeterError: It cannot be read, or has not moved on.
        """
        if self._started is None:
            raise PowerMeterError("NVML: stopped without a start; start the meter first")
        started_s, before_mj = self._started
        seconds, after_mj = time.perf_counter() - started_s, self._read_mj()
        if after_mj <= before_mj:
            raise PowerMeterError(
                f"NVML: the counter went from {before_mj} to {after_mj} mJ in {seconds:.3g} s: too short a section, or "
                "the driver was loaded anew; measure longer"
            )
        return EnergyReading((after_mj - before_mj) * MILLI, seconds, self.source, "measured")

    def _read_mj(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise PowerMeterError(f"NVML: {error}") from error


def find_nvml(index: int = 0) -> PowerMeter:
    """Looks for a GPU.

    Args:
        index: Which GPU.

    Returns:
        A meter that reads the GPU's counter, or one that samples its power.

    Raises:
        PowerMeterError: pynvml is not installed, or there is no such GPU or driver.
    """
    try:
        nvml = cast("Nvml", importlib.import_module("pynvml"))
    except ImportError as error:
        raise PowerMeterError("NVML: the package pynvml is not installed; `pip install nvidia-ml-py`") from error
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = _text(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError as error:
        raise PowerMeterError(f"NVML: {error}") from error
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return _sampled(nvml, handle, name)
    return NvmlCounterMeter(nvml, handle, name)


def _sampled(nvml: Nvml, handle: object, name: str) -> SampledPowerMeter:
    def read_power_w() -> float:
        try:
            return float(nvml.nvmlDeviceGetPowerUsage(handle)) * MILLI
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    return SampledPowerMeter(read_power_w, f"NVML's power of the whole board {name}")


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
