"""Kernels of known cost."""

import pytest

from codesign.hardware.calibration import VectorUnit
from codesign.hardware.profile import MemoryLevel

UNIT = VectorUnit(registers=31, lanes=16, dot_channels=4)


def _level(name: str, size: float) -> MemoryLevel:
    return MemoryLevel(
        name=name, capacity_bytes=size, bandwidth_bytes_per_s=1e11, energy_j_per_byte=0.0, source="made up"
    )


@pytest.fixture
def unit() -> VectorUnit:
    return UNIT


@pytest.fixture
def memories() -> tuple[MemoryLevel, ...]:
    return _level("l1", 32768), _level("l2", 1 << 20), _level("dram", 1e10)
