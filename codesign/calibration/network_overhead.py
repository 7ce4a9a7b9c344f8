"""What a network costs beyond its kernels: calling them, and weights that other layers drove from the caches.

Kernels are timed in loops, with weights as near as they fit. In a network they have to be fetched again in every run.
Both parts are fitted to whole networks:

    latency - sum of kernels = calls x call_s + weight bytes x cold_s_per_weight_byte

by non-negative least squares relative to the latency.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from codesign.calibration.probes import Probe
from codesign.calibration.samples import NetworkSample
from codesign.plan.facts import packed_weight_bytes

LEAST_NETWORKS = 4
"""From fewer networks only the cost of a call is learned."""


@dataclass(frozen=True)
class NetworkOverhead:
    """The two parts.

    Attributes:
        call_s: Seconds a call.
        cold_s_per_weight_byte: Seconds a byte.
    """

    call_s: float
    cold_s_per_weight_byte: float


def network_overhead(networks: Sequence[NetworkSample], probes: Sequence[Probe]) -> NetworkOverhead:
    """Fits both parts.

    Args:
        networks: Measured whole.
        probes: What they are; samples of other networks are left out.

    Returns:
        The parts, 0 where the networks took no longer than their kernels.
    """
    by_name = {probe.name: probe for probe in probes}
    known = [sample for sample in networks if sample.network in by_name]
    if not known:
        return NetworkOverhead(0.0, 0.0)
    latencies = np.asarray([min(sample.latencies_s) for sample in known])
    gaps = latencies - np.asarray([sample.kernels_s for sample in known])
    calls = [float(sample.calls) for sample in known]
    weights = [weight_bytes(by_name[sample.network]) if len(known) >= LEAST_NETWORKS else 0.0 for sample in known]
    relative = np.stack([calls, weights], axis=1) / latencies[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)
    call_s, cold_s = nnls(relative / scale, gaps / latencies)[0] / scale
    return NetworkOverhead(float(call_s), float(cold_s) if len(known) >= LEAST_NETWORKS else 0.0)


def weight_bytes(probe: Probe) -> float:
    """Bytes of all weights of a network.

    Args:
        probe: The network with its widths.

    Returns:
        Bytes as packed.
    """
    return float(sum(packed_weight_bytes(node, probe.widths(node.name)) for node in probe.facts.weighted))
