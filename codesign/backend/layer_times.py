"""How long each layer of a compiled network takes, by the names of the ONNX nodes.

The compiler's table says which kernels compute which node. Each kernel is timed by itself, where its weights stay in
the caches and nothing stands between two calls, and the whole network beside them. What the network takes beyond its
kernels is first of all the price of calling it, an entry of its own: one to three microseconds, half of a small
network's latency. What is beyond that is operands that left the caches, and is shared out in proportion. Where the
kernels alone take longer than the network, there is no such entry. All are then scaled by the same factor, so that they
add up to the network's latency, which was measured at another time and clock.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codesign.backend.base import Artifact
from codesign.backend.kernel_table import KernelArgument, KernelCall, read_kernel_calls
from codesign.backend.kernel_timing import (
    NETWORK,
    KernelRunner,
    KernelTimingSettings,
    ReferenceKernel,
    usual_reference_s,
)
from codesign.backend.sidecar import read_sidecar
from codesign.errors import MeasurementError

REST = "(between layers)"
"""Stands for kernels that no single node accounts for."""
CALL = "(calling the network)"
"""Stands for what calling a network takes beyond its kernels."""
LARGEST_CALL_S = 3e-6
"""Seconds that a call takes at most: 1.1 to 2.6 us were seen, the latter on a core that something else slowed."""


@dataclass(frozen=True)
class LayerTime:
    """One layer.

    Attributes:
        layer: Name of the ONNX node, `REST` or `CALL`.
        kernels: Functions that compute it, in order; none for `CALL`.
        seconds: Its share of the network's latency.
        alone_s: What its kernels take by themselves; of `CALL`, what they leave of the network beside them, within
            `LARGEST_CALL_S`.
    """

    layer: str
    kernels: tuple[str, ...]
    seconds: float
    alone_s: float


def layer_times(
    artifact: Artifact, network_s: float, runner: KernelRunner, settings: KernelTimingSettings
) -> tuple[LayerTime, ...]:
    """Times the kernels of a network and adds them up by layer.

    Args:
        artifact: The network, compiled by TVM.
        network_s: Its latency, which the layers' times add up to.
        runner: Times kernels where that latency was measured.
        settings: How.

    Returns:
        One entry for each layer, in the order in which they run, and `CALL`.

    Raises:
        MeasurementError: No kernel could be timed.
    """
    calls = read_kernel_calls(artifact.path)
    if not calls:
        raise MeasurementError(f"{artifact.path}: calls no kernel, so it has no layers to time")
    distinct = list({call.kernel: call for call in calls}.values())
    reference = ReferenceKernel(artifact, max(distinct, key=_bytes_of))
    whole = KernelCall(NETWORK, "", (KernelArgument(read_sidecar(artifact.path).input_shape, "float32"),))
    timings = list(runner.time_kernels(artifact, [*distinct, whole], reference, settings))
    usual_s = usual_reference_s(timings)
    timed = {timing.kernel: timing.seconds(usual_s) for timing in timings}
    return scaled_layers(calls, timed, network_s, timed.pop(NETWORK, 0.0))


def scaled_layers(
    calls: Sequence[KernelCall], timed: Mapping[str, float], network_s: float, beside_s: float = 0.0
) -> tuple[LayerTime, ...]:
    """Adds up kernels by layer and scales them to the network's latency.

    Args:
        calls: Of one run, in order.
        timed: Seconds of each kernel by itself; kernels that are only views of memory are not in it.
        network_s: What all shall add up to.
        beside_s: The network, timed beside the kernels; 0 where it was not.

    Returns:
        One entry for each layer, and one for `CALL` where the network took longer than its kernels.

    Raises:
        MeasurementError: None of the calls was timed.
    """
    of_layer: dict[str, list[str]] = {}
    for call in calls:
        if call.kernel in timed:
            of_layer.setdefault(call.operation or REST, []).append(call.kernel)
    alone = {layer: math.fsum(timed[kernel] for kernel in kernels) for layer, kernels in of_layer.items()}
    total = math.fsum(alone.values())
    if total <= 0:
        raise MeasurementError("none of the network's kernels could be timed; compile it again")
    times = [LayerTime(layer, tuple(kernels), 0.0, alone[layer]) for layer, kernels in of_layer.items()]
    if beside_s > total:
        times.append(LayerTime(CALL, (), 0.0, min(beside_s - total, LARGEST_CALL_S)))
    return rescaled(times, network_s)


def rescaled(layers: Sequence[LayerTime], network_s: float) -> tuple[LayerTime, ...]:
    """The same layers as shares of another latency of the same network.

    Args:
        layers: All layers of the network.
        network_s: What all shall add up to.

    Returns:
        The layers.
    """
    total = math.fsum(layer.alone_s for layer in layers)
    return tuple(dataclasses.replace(layer, seconds=layer.alone_s * network_s / total) for layer in layers)


def _bytes_of(call: KernelCall) -> int:
    return sum(math.prod(argument.shape) for argument in call.arguments)
