"""What this machine's processor is: cores, clock, caches, instruction sets."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cache:
    """One level of data cache, as one core sees it.

    Attributes:
        level: 1 is nearest to the core.
        size_bytes: Capacity.
        shared: Whether several cores share it.
    """

    level: int
    size_bytes: int
    shared: bool


@dataclass(frozen=True)
class Host:
    """The processor of a machine.

    Attributes:
        name: As the processor calls itself.
        architecture: `x86_64` or `aarch64`, or another machine name.
        vendor: x86 vendor string; empty elsewhere.
        family: x86 family number; 0 elsewhere.
        cores: Physical cores.
        logical_cores: Hardware threads.
        clock_hz: Frequency that rates are computed with, None where nothing tells it.
        clock_source: Where the frequency comes from.
        clock_is_nominal: Whether it is the guaranteed frequency, which a busy core may exceed.
        flags: Instruction set extensions under Linux's names; empty where the system does not tell them.
        caches: Data caches, nearest first; empty where the system does not tell them.
        memory_bytes: Main memory.
    """

    name: str
    architecture: str
    vendor: str
    family: int
    cores: int
    logical_cores: int
    clock_hz: float | None
    clock_source: str
    clock_is_nominal: bool
    flags: frozenset[str]
    caches: tuple[Cache, ...]
    memory_bytes: int


def detect_host(root: Path = Path("/")) -> Host:
    """Looks at this machine; reads files only, so that the answer is the same every time.

    Linux tells everything in `/proc/cpuinfo` and `/sys/devices/system/cpu`; elsewhere cores, clock and memory come from
    psutil, and instruction sets and caches stay unknown (but every Apple core has NEON with dot products).

    Args:
        root: Root of the file system that is read.

    Returns:
        The processor.
    """
    cpuinfo = root / "proc" / "cpuinfo"
    if cpuinfo.is_file():
        return _detect_linux(cpuinfo.read_text(encoding="utf-8", errors="replace"), root / "sys/devices/system/cpu")
    return _detect_other()


def _detect_linux(cpuinfo: str, system: Path) -> Host:
    blocks = [_fields(block) for block in cpuinfo.split("\n\n") if "processor" in block]
    first = blocks[0] if blocks else {}
    places = {
        (block["physical id"], block["core id"]) for block in blocks if {"physical id", "core id"} <= block.keys()
    }
    clock_hz, clock_source, is_nominal = _linux_clock(first, system / "cpu0" / "cpufreq")
    return Host(
        name=first.get("model name", platform.processor() or "unknown processor"),
        architecture=_architecture(),
        vendor=first.get("vendor_id", ""),
        family=int(first.get("cpu family", "0")),
        cores=len(places) or len(blocks) or 1,
        logical_cores=len(blocks) or 1,
        clock_hz=clock_hz,
        clock_source=clock_source,
        clock_is_nominal=is_nominal,
        flags=frozenset((first.get("flags") or first.get("Features") or "").split()),
        caches=_linux_caches(system / "cpu0" / "cache"),
        memory_bytes=_memory_bytes(),
    )


def _fields(block: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _linux_clock(first: dict[str, str], cpufreq: Path) -> tuple[float | None, str, bool]:
    limit = cpufreq / "cpuinfo_max_freq"
    if limit.is_file():
        return float(limit.read_text()) * 1e3, "highest frequency by cpufreq", False
    named = re.search(r"@ *([0-9.]+) *GHz", first.get("model name", ""))
    if named:
        return float(named.group(1)) * 1e9, "nominal frequency in the model name", True
    if "bogomips" in first:  # on x86 twice the frequency of the time-stamp counter
        return round(float(first["bogomips"]) / 2, -1) * 1e6, "nominal frequency by the time-stamp counter", True
    return (*_psutil_clock(), False)


def _linux_caches(folder: Path) -> tuple[Cache, ...]:
    found = []
    for index in sorted(folder.glob("index*")):
        kind, size, sharers = ((index / name).read_text().strip() for name in ("type", "size", "shared_cpu_list"))
        if kind in {"Data", "Unified"}:
            level = int((index / "level").read_text())
            found.append(Cache(level, _size_bytes(size), shared=level > 2 or len(_cpus(sharers)) > 2))
    return tuple(sorted(found, key=lambda cache: cache.level))


def _size_bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _cpus(text: str) -> set[int]:
    spans = [part.split("-") for part in text.split(",") if part]
    return {cpu for span in spans for cpu in range(int(span[0]), int(span[-1]) + 1)}


def _detect_other() -> Host:
    import psutil

    clock_hz, clock_source = _psutil_clock()
    apple = platform.system() == "Darwin" and _architecture() == "aarch64"
    return Host(
        name=platform.processor() or platform.machine() or "unknown processor",
        architecture=_architecture(),
        vendor="",
        family=0,
        cores=psutil.cpu_count(logical=False) or 1,
        logical_cores=psutil.cpu_count() or 1,
        clock_hz=clock_hz,
        clock_source=clock_source,
        clock_is_nominal=False,
        flags=frozenset({"asimd", "asimddp"}) if apple else frozenset(),
        caches=(),
        memory_bytes=_memory_bytes(),
    )


def _psutil_clock() -> tuple[float | None, str]:
    import psutil

    frequency = psutil.cpu_freq()
    highest = 0.0 if frequency is None else float(frequency.max or frequency.current)
    return (highest * 1e6, "frequency by psutil") if highest > 0 else (None, "unknown")


def _memory_bytes() -> int:
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import psutil

    return int(psutil.virtual_memory().total)


def _architecture() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
