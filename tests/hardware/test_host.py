import os
from pathlib import Path

import psutil
import pytest

from codesign.hardware.host import Cache, detect_host

X86 = """processor\t: {cpu}
vendor_id\t: {vendor}
cpu family\t: {family}
model name\t: {model}
physical id\t: 0
core id\t\t: {core}
bogomips\t: {bogomips}
flags\t\t: fpu avx2 fma avx512f avx512bw avx512_vnni amx_int8
"""
ARM = """processor\t: {cpu}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32
CPU part\t: 0xd08
"""


def _machine(root: Path, cpuinfo: str, caches: dict[str, tuple[str, str, str, str]], max_khz: str = "") -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(cpuinfo)
    folder = root / "sys/devices/system/cpu/cpu0"
    for index, contents in caches.items():
        (folder / "cache" / index).mkdir(parents=True)
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), contents, strict=True):
            (folder / "cache" / index / name).write_text(text + "\n")
    if max_khz:
        (folder / "cpufreq").mkdir(parents=True)
        (folder / "cpufreq" / "cpuinfo_max_freq").write_text(max_khz + "\n")
    return root


def _x86(cores: int, threads_per_core: int, model: str = "Some CPU", bogomips: str = "5192.25") -> str:
    blocks = [
        X86.format(cpu=cpu, core=cpu % cores, vendor="GenuineIntel", family=6, model=model, bogomips=bogomips)
        for cpu in range(cores * threads_per_core)
    ]
    return "\n".join(blocks) + "\n"


SERVER_CACHES = {
    "index0": ("1", "Data", "48K", "0,2"),
    "index1": ("1", "Instruction", "32K", "0,2"),
    "index2": ("2", "Unified", "2048K", "0,2"),
    "index3": ("3", "Unified", "105M", "0-3"),
}


def test_an_x86_server_is_read_from_its_files(tmp_path: Path) -> None:
    host = detect_host(_machine(tmp_path, _x86(2, 2), SERVER_CACHES))
    assert (host.vendor, host.family, host.name) == ("GenuineIntel", 6, "Some CPU")
    assert (host.cores, host.logical_cores) == (2, 4)
    assert {"avx512_vnni", "amx_int8"} <= host.flags
    assert host.caches == (
        Cache(1, 48 << 10, shared=False),
        Cache(2, 2 << 20, shared=False),
        Cache(3, 105 << 20, shared=True),
    )


def test_an_arm_board_has_features_and_a_shared_second_level(tmp_path: Path) -> None:
    cpuinfo = "\n".join(ARM.format(cpu=cpu) for cpu in range(4)) + "\nHardware\t: BCM2835\n"
    caches = {"index0": ("1", "Data", "32K", "0"), "index2": ("2", "Unified", "1024K", "0-3")}
    host = detect_host(_machine(tmp_path, cpuinfo, caches, max_khz="1500000"))
    assert (host.cores, host.logical_cores) == (4, 4)
    assert "asimd" in host.flags
    assert host.clock_hz == 1.5e9
    assert host.caches == (Cache(1, 32 << 10, shared=False), Cache(2, 1 << 20, shared=True))


@pytest.mark.parametrize(
    ("model", "bogomips", "max_khz", "expected", "source", "nominal"),
    [
        ("Xeon @ 2.70GHz", "5400.00", "3500000", 3.5e9, "cpufreq", False),
        ("Xeon @ 2.70GHz", "5192.25", "", 2.7e9, "model name", True),
        ("EPYC", "5192.25", "", 2.6e9, "time-stamp counter", True),
    ],
)
def test_the_clock_is_the_best_that_the_system_tells(
    tmp_path: Path, model: str, bogomips: str, max_khz: str, expected: float, source: str, nominal: bool
) -> None:
    host = detect_host(_machine(tmp_path, _x86(1, 1, model, bogomips), {}, max_khz))
    assert host.clock_hz == expected
    assert source in host.clock_source
    assert host.clock_is_nominal is nominal


def test_without_cache_files_the_caches_are_unknown(tmp_path: Path) -> None:
    assert detect_host(_machine(tmp_path, _x86(1, 1), {})).caches == ()


def test_other_systems_fall_back_to_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    host = detect_host(tmp_path)
    assert host.architecture == "aarch64"
    assert {"asimd", "asimddp"} <= host.flags
    assert host.logical_cores == psutil.cpu_count()
    assert host.caches == ()


def test_this_machine_is_found_and_stays_the_same() -> None:
    host = detect_host()
    assert host == detect_host()
    assert 1 <= host.cores <= host.logical_cores
    assert host.logical_cores >= len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else True
    assert host.memory_bytes == pytest.approx(psutil.virtual_memory().total, rel=0.2)
