"""Devices that published simulators were run on, to compare a cost model with their results.

One cycle lasts one nanosecond, so that nanoseconds are cycles.
"""

from codesign.config import validate
from codesign.hardware.profile import HardwareProfile

CYCLE_S = 1e-9
PICO = 1e-12


def scalesim_array(rows: int, columns: int) -> HardwareProfile:
    """A skewed array as SCALE-Sim 3.0 counts it: whole folds, memories that never stall.

    Args:
        rows: Rows of processing elements.
        columns: Columns of processing elements.

    Returns:
        The device, without energies.
    """
    endless = {"capacity_bytes": 1e15, "bandwidth_bytes_per_s": 1e18, "energy_j_per_byte": 0.0}
    return _device(
        name=f"scale-sim-{rows}x{columns}",
        array=_array("skewed", rows, columns)
        | {"folds": "whole", "dataflows": ("output-stationary", "weight-stationary", "input-stationary")},
        memories=[endless | {"name": name} for name in ("register-file", "global-buffer", "dram")],
        energy_j_per_mac=0.0,
    )


def zigzag_array(size: int, buffer_bytes: int) -> HardwareProfile:
    """A broadcast array as it was described to ZigZag 3.9.1: 8 bytes of DRAM a cycle, one buffer port an operand.

    8-bit operands, 32-bit sums; 0.5 pJ a multiply-accumulate; 0.3, 6 and 100 pJ a byte of register, buffer and DRAM.

    Args:
        size: Rows and columns of processing elements.
        buffer_bytes: Capacity of the global buffer.

    Returns:
        The device, in the load-compute-store convention.
    """
    register = {"name": "register-file", "capacity_bytes": 4.0 * size**2, "energy_j_per_byte": 0.3 * PICO}
    buffer = {"name": "global-buffer", "capacity_bytes": float(buffer_bytes), "energy_j_per_byte": 6 * PICO}
    dram = {"name": "dram", "capacity_bytes": 1e15, "energy_j_per_byte": 100 * PICO}
    endless = {"bandwidth_bytes_per_s": 1e18}
    return _device(
        name=f"zigzag-{size}x{size}",
        array=_array("broadcast", size, size)
        | {
            "dataflows": ("output-stationary", "weight-stationary"),
            "latency_convention": "load-compute-store",
        },
        memories=[register | endless, buffer | endless, dram | {"bandwidth_bytes_per_s": 8 / CYCLE_S}],
        energy_j_per_mac=0.5 * PICO,
    )


def _array(kind: str, rows: int, columns: int) -> dict[str, object]:
    return {
        "kind": kind,
        "rows": rows,
        "columns": columns,
        "clock_hz": 1 / CYCLE_S,
        "accumulator_bits": 32,
        "source": "as the simulator was set up",
    }


def _device(
    name: str, array: dict[str, object], memories: list[dict[str, object]], energy_j_per_mac: float
) -> HardwareProfile:
    source = "as the simulator was set up"
    rows, columns = array["rows"], array["columns"]
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    rate = {"macs_per_s": rows * columns / CYCLE_S, "energy_j_per_mac": energy_j_per_mac, "source": source}
    values = {
        "name": name,
        "description": "reference device of a published simulator",
        "model": "array",
        "source": source,
        "array": array,
        "memories": [level | {"source": source} for level in memories],
        "compute": [rate | {"weight_bits": 8, "activation_bits": 8}],
    }
    return validate(HardwareProfile, values, name)
