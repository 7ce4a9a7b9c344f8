"""What a network costs beyond its kernels: calling them, and weights that other layers drove from the caches.

Kernels are timed in loops, with weights as near as they fit. In a network they have to be fetched again in every run.
All parts are fitted to whole networks:

    latency - sum of kernels = run_s + calls x call_s + cold bytes x cold_s_per_weight_byte
                               + far bytes x far_s_per_weight_byte

with non-negative seconds and the least sum of absolute differences relative to the latency, so that a network that the
machine disturbed hardly counts. Bytes are those of `codesign.cost.cold_weights`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from codesign.calibration.probes import Probe
from codesign.calibration.samples import SampleFile
from codesign.cost.cold_weights import cold_bytes
from codesign.hardware.profile import MemoryLevel

LEAST_NETWORKS = 4
"""From fewer networks only the cost of a kernel's call is learned."""


@dataclass(frozen=True)
class NetworkOverhead:
    """The parts.

    Attributes:
        run_s: Seconds a run.
        call_s: Seconds a kernel's call.
        cold_s_per_weight_byte: Seconds a byte that left the first cache.
        far_s_per_weight_byte: Further seconds a byte that left the second cache.
    """

    run_s: float
    call_s: float
    cold_s_per_weight_byte: float
    far_s_per_weight_byte: float


def network_overhead(file: SampleFile, probes: Sequence[Probe], memories: tuple[MemoryLevel, ...]) -> NetworkOverhead:
    """Fits all parts.

    Args:
        file: Networks measured whole, and their kernels.
        probes: What they are; samples of other networks are left out.
        memories: Memory levels, nearest first.

    Returns:
        The parts, 0 where the networks took no longer than their kernels.
    """
    by_name = {probe.name: probe for probe in probes}
    known = [sample for sample in file.good_networks() if sample.network in by_name]
    if not known:
        return NetworkOverhead(0.0, 0.0, 0.0, 0.0)
    latencies = np.asarray([sample.timing.seconds(file.usual_s()) for sample in known])
    gaps = latencies - np.asarray([file.kernels_s(sample.network) for sample in known])
    counts = np.asarray([[1.0, sample.calls, *fetched_bytes(by_name[sample.network], memories)] for sample in known])
    if len(known) < LEAST_NETWORKS:
        counts[:, [0, 2, 3]] = 0.0
    return NetworkOverhead(*_least_absolute(counts / latencies[:, None], gaps / latencies))


def _least_absolute(
    counts: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    wanted: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> list[float]:
    """Non-negative x with the least sum of |counts x - wanted|, by linear programming."""
    rows, columns = counts.shape
    scale = np.maximum(counts.max(axis=0), 1e-300)
    objective = np.concatenate([np.zeros(columns), np.ones(rows)])
    ones = np.eye(rows)
    limits = np.block([[counts / scale, -ones], [-counts / scale, -ones]])
    found = linprog(objective, A_ub=limits, b_ub=np.concatenate([wanted, -wanted]))
    used = counts.max(axis=0) > 0
    return [float(value) if use else 0.0 for value, use in zip(found.x[:columns] / scale, used, strict=True)]


def fetched_bytes(probe: Probe, memories: tuple[MemoryLevel, ...]) -> tuple[float, float]:
    """Bytes of all weights of a network that are fetched again in every run.

    Args:
        probe: The network with its widths.
        memories: Memory levels, nearest first.

    Returns:
        Bytes that left the first cache, and those of them that left the second one.
    """
    pairs = [cold_bytes(node, probe.widths(node.name), memories) for node in probe.facts.weighted]
    return sum(cold for cold, _ in pairs), sum(far for _, far in pairs)
