"""Power meters on fake sysfs trees: what they read, and what they say when something is missing."""

import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from codesign.hardware.catalog import load_profile
from codesign.hardware.nvml_meter import NvmlCounterMeter, find_nvml
from codesign.hardware.power import find_meter, find_power_meter
from codesign.hardware.power_meter import EnergyReading, FallbackMeter, PowerMeterError, ProfileMeter
from codesign.hardware.rapl_meter import RaplMeter, find_rapl
from codesign.hardware.sampled_power import SampledPowerMeter
from codesign.hardware.sensor_meter import find_sensor

PROFILE = load_profile("cortex-m7")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    return path


def _package(root: Path, number: int = 0, energy_uj: int = 5_000_000, range_uj: int = 262_143_328_850) -> Path:
    folder = root / "class/powercap" / f"intel-rapl:{number}"
    _write(folder / "name", f"package-{number}")
    _write(folder / "max_energy_range_uj", str(range_uj))
    return _write(folder / "energy_uj", str(energy_uj))


def _forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes files of a name unreadable, for root as well."""
    plain = Path.read_text

    def read_text(self: Path, *arguments: str) -> str:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *arguments)

    monkeypatch.setattr(Path, "read_text", read_text)


def _measure(meter: RaplMeter, between: Callable[[], object]) -> EnergyReading:
    meter.start()
    between()
    return meter.stop()


def test_rapl_counts_what_its_counter_counts(tmp_path: Path) -> None:
    energy = _package(tmp_path)
    reading = _measure(find_rapl(tmp_path), lambda: energy.write_text("7500000"))
    assert reading.energy_j == pytest.approx(2.5)
    assert reading.seconds > 0
    assert reading.power_w == pytest.approx(reading.energy_j / reading.seconds)
    assert reading.provenance == "measured"
    assert "RAPL, 1 processor package " in reading.source


def test_rapl_adds_packages_and_leaves_domains_inside_them_out(tmp_path: Path) -> None:
    first, second = _package(tmp_path, 0), _package(tmp_path, 1)
    inner = tmp_path / "class/powercap/intel-rapl:0:0"
    _write(inner / "name", "core")
    _write(inner / "energy_uj", "99")
    platform = tmp_path / "class/powercap/intel-rapl:2"
    _write(platform / "name", "psys")
    mirrored = tmp_path / "class/powercap/intel-rapl-mmio:0"
    _write(mirrored / "name", "package-0")

    def work() -> None:
        first.write_text("6000000")
        second.write_text("8000000")

    reading = _measure(find_rapl(tmp_path), work)
    assert reading.energy_j == pytest.approx(1 + 3)
    assert "2 processor packages" in reading.source


def test_a_counter_that_starts_again_from_zero_is_understood(tmp_path: Path) -> None:
    energy = _package(tmp_path, energy_uj=999_000_000, range_uj=1_000_000_000)
    reading = _measure(find_rapl(tmp_path), lambda: energy.write_text("2000000"))
    assert reading.energy_j == pytest.approx(3.0)


def test_a_counter_that_may_have_gone_round_twice_is_refused(tmp_path: Path) -> None:
    _package(tmp_path, range_uj=1000)
    with pytest.raises(PowerMeterError, match=r"holds 0 J and may have gone round more than once .* shorter"):
        _measure(find_rapl(tmp_path), lambda: time.sleep(0.001))


def test_a_counter_that_stands_still_measures_nothing(tmp_path: Path) -> None:
    _package(tmp_path)
    with pytest.raises(PowerMeterError, match=r"have not moved on .* measure longer"):
        _measure(find_rapl(tmp_path), lambda: None)


def test_rapl_that_may_not_be_read_says_how_to_allow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _package(tmp_path)
    _forbid(monkeypatch, "energy_uj")
    with pytest.raises(PowerMeterError, match=rf"may not be read; allow it with `sudo chmod o\+r {path}`"):
        find_rapl(tmp_path)


def test_permission_lost_on_the_way_gives_a_labelled_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path)
    meter = find_power_meter(PROFILE, tmp_path)
    assert meter.source.startswith("RAPL")
    meter.start()
    _forbid(monkeypatch, "energy_uj")
    reading = meter.stop()
    assert reading.provenance == "estimated"
    assert "model of profile 'cortex-m7'" in reading.source
    assert "RAPL, 1 processor package" in reading.source and "sudo chmod" in reading.source


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("energy_uj", "many", "energy_uj: cannot be read"),
        ("max_energy_range_uj", "x", "max_energy_range_uj: cannot be read"),
        ("max_energy_range_uj", "0", "max_energy_range_uj: got 0, must be positive"),
    ],
)
def test_nonsense_in_rapl_files(tmp_path: Path, file: str, text: str, message: str) -> None:
    (_package(tmp_path).parent / file).write_text(text)
    with pytest.raises(PowerMeterError, match=message):
        find_rapl(tmp_path)


def test_no_rapl_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(PowerMeterError, match=r"no package in .*powercap"):
        find_rapl(tmp_path)
    path = _package(tmp_path)
    path.unlink()
    with pytest.raises(PowerMeterError, match="energy_uj: cannot be read"):
        find_rapl(tmp_path)


def _ina3221(root: Path) -> Path:
    chip = root / "class/hwmon/hwmon4"
    _write(chip / "name", "ina3221")
    for channel, (label, millivolt, milliampere) in enumerate(
        [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300)], start=1
    ):
        _write(chip / f"in{channel}_label", label)
        _write(chip / f"in{channel}_input", str(millivolt))
        _write(chip / f"curr{channel}_input", str(milliampere))
    _write(chip / "curr4_input", "1900")
    _write(root / "class/hwmon/hwmon0/name", "coretemp")
    return chip


def test_a_jetson_s_sensor_measures_the_rail_that_feeds_the_board(tmp_path: Path) -> None:
    _ina3221(tmp_path)
    meter = find_sensor(tmp_path, period_s=0.002)
    meter.start()
    time.sleep(0.03)
    reading = meter.stop()
    assert reading.power_w == pytest.approx(6.0)
    assert reading.seconds >= 0.03
    assert "INA sensor, rail VDD_IN, sampled every 2 ms" in reading.source
    assert reading.provenance == "measured"


def test_without_a_rail_of_the_board_all_rails_count(tmp_path: Path) -> None:
    chip = _ina3221(tmp_path)
    for file in ("in1_input", "curr1_input"):
        (chip / file).unlink()
    meter = find_sensor(tmp_path)
    meter.start()
    reading = meter.stop()
    assert reading.power_w == pytest.approx(5.0 * 0.7)
    assert "VDD_CPU_GPU_CV + VDD_SOC" in reading.source


def test_sensors_that_give_power_and_older_jetsons(tmp_path: Path) -> None:
    chip = tmp_path / "one/class/hwmon/hwmon1"
    _write(chip / "name", "ina226")
    _write(chip / "power1_input", "2500000")
    older = tmp_path / "two/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    _write(older / "in_power0_input", "4200")
    _write(older / "rail_name_0", "POM_5V_IN")
    for root, power_w in ((tmp_path / "one", 2.5), (tmp_path / "two", 4.2)):
        meter = find_sensor(root)
        meter.start()
        time.sleep(0.002)
        assert meter.stop().power_w == pytest.approx(power_w)


def test_a_sensor_that_vanishes_gives_a_labelled_estimate(tmp_path: Path) -> None:
    chip = _ina3221(tmp_path)
    meter = find_power_meter(PROFILE, tmp_path)
    meter.start()
    (chip / "curr1_input").unlink()
    time.sleep(0.05)
    reading = meter.stop()
    assert reading.provenance == "estimated"
    assert reading.energy_j == pytest.approx(PROFILE.idle_power_w * reading.seconds)
    assert "INA sensor" in reading.source and "lost after" in reading.source
    _write(chip / "curr1_input", "1200")
    meter.start()
    assert meter.stop().provenance == "measured"


def test_a_sensor_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ina3221(tmp_path)
    _forbid(monkeypatch, "in1_input")
    with pytest.raises(PowerMeterError, match="in1_input: may not be read; allow it with `sudo chmod"):
        find_sensor(tmp_path)


def test_samples_are_joined_by_straight_lines() -> None:
    begin = time.perf_counter()
    meter = SampledPowerMeter(lambda: 10 * (time.perf_counter() - begin), "a ramp", period_s=0.002)
    meter.start()
    first = time.perf_counter() - begin
    time.sleep(0.06)
    reading = meter.stop()
    last = time.perf_counter() - begin
    assert reading.energy_j == pytest.approx(5 * (last**2 - first**2), rel=0.2)


def test_a_meter_that_was_not_started(tmp_path: Path) -> None:
    _package(tmp_path)
    for meter in (find_rapl(tmp_path), SampledPowerMeter(lambda: 1.0, "a constant")):
        with pytest.raises(PowerMeterError, match="stopped without a start"):
            meter.stop()


@dataclass
class _Driver:
    """What the fake NVML counts."""

    energy_mj: int | None = 1000
    power_mw: int = 50_000
    broken: bool = False


def _install_nvml(monkeypatch: pytest.MonkeyPatch, driver: _Driver) -> None:
    class NVMLError(Exception):
        pass

    def total_energy(handle: object) -> int:
        if driver.energy_mj is None or driver.broken:
            raise NVMLError("Not Supported")
        return driver.energy_mj

    def power(handle: object) -> int:
        if driver.broken:
            raise NVMLError("GPU is lost")
        return driver.power_mw

    def handle_of(index: int) -> object:
        if index > 0:
            raise NVMLError("Invalid Argument")
        return object()

    functions = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": handle_of,
        "nvmlDeviceGetName": lambda handle: b"Tesla T4",
        "nvmlDeviceGetTotalEnergyConsumption": total_energy,
        "nvmlDeviceGetPowerUsage": power,
        "NVMLError": NVMLError,
    }
    module = types.ModuleType("pynvml")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_nvml_s_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _Driver()
    _install_nvml(monkeypatch, driver)
    meter = find_nvml()
    assert isinstance(meter, NvmlCounterMeter)
    meter.start()
    driver.energy_mj = 3500
    reading = meter.stop()
    assert reading.energy_j == pytest.approx(2.5)
    assert "NVML's energy counter" in reading.source and "Tesla T4" in reading.source
    with pytest.raises(PowerMeterError, match=r"from 3500 to 3500 mJ .* measure longer"):
        _restart(meter)
    driver.broken = True
    with pytest.raises(PowerMeterError, match="NVML: Not Supported"):
        meter.stop()


def _restart(meter: NvmlCounterMeter) -> None:
    meter.start()
    meter.stop()


def test_a_gpu_without_a_counter_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _Driver(energy_mj=None)
    _install_nvml(monkeypatch, driver)
    meter = find_nvml()
    meter.start()
    time.sleep(0.03)
    assert meter.stop().power_w == pytest.approx(50.0)
    meter.start()
    driver.broken = True
    time.sleep(0.05)
    with pytest.raises(PowerMeterError, match=r"lost after .*GPU is lost"):
        meter.stop()


def test_no_nvml_and_no_such_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _install_nvml(monkeypatch, _Driver())
    with pytest.raises(PowerMeterError, match="NVML: Invalid Argument"):
        find_nvml(1)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(PowerMeterError, match="pip install nvidia-ml-py"):
        find_nvml()


def test_the_best_meter_is_taken_and_the_reasons_against_better_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_meter(tmp_path)[0] is None
    _ina3221(tmp_path)
    meter, reasons = find_meter(tmp_path)
    assert isinstance(meter, SampledPowerMeter)
    assert len(reasons) == 1 and "no package" in reasons[0]
    _package(tmp_path)
    assert isinstance(find_meter(tmp_path)[0], RaplMeter)
    assert isinstance(find_meter(tmp_path, "gpu")[0], SampledPowerMeter)
    _install_nvml(monkeypatch, _Driver())
    assert isinstance(find_meter(tmp_path, "gpu")[0], NvmlCounterMeter)
    assert isinstance(find_meter(tmp_path)[0], RaplMeter)


def test_without_any_meter_the_profile_s_model_answers_and_says_why(tmp_path: Path) -> None:
    meter = find_power_meter(PROFILE, tmp_path, dynamic_energy_j=2.0)
    assert isinstance(meter, ProfileMeter)
    meter.start()
    time.sleep(0.01)
    reading = meter.stop()
    assert reading.energy_j == pytest.approx(2.0 + PROFILE.idle_power_w * reading.seconds)
    assert reading.provenance == "estimated"
    for words in ("model of profile 'cortex-m7'", "0.34 W x time", "no package", "no INA3221"):
        assert words in reading.source
    assert "no energy of operations" in ProfileMeter(PROFILE).source


def test_a_meter_that_fails_at_the_start_is_replaced_too(tmp_path: Path) -> None:
    path = _package(tmp_path)
    meter = FallbackMeter(find_rapl(tmp_path), ProfileMeter(PROFILE))
    path.unlink()
    meter.start()
    assert meter.source.startswith("model of profile")
    reading = meter.stop()
    assert reading.provenance == "estimated"
    assert "cannot be read" in reading.source
