"""How long each layer of a compiled network takes, by the names of the ONNX nodes.

The compiler's table says which kernels compute which node. Each kernel is timed by itself, where its weights stay in
the caches and nothing stands between two calls; the sum over all calls is then not the network's own latency, so every
layer is scaled by the same factor to make it that.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.backend.base import Artifact
from codesign.backend.kernel_table import KernelCall, read_kernel_calls
from codesign.backend.kernel_timing import KernelRunner, KernelTimingSettings, ReferenceKernel, usual_reference_s
from codesign.errors import MeasurementError

REST = "(between layers)"
"""Stands for kernels that no single node accounts for."""


@dataclass(frozen=True)
class LayerTime:
    """One layer.

    Attributes:
        layer: Name of the ONNX node.
        kernels: Functions that compute it, in order.
        seconds: Its share of the network's latency.
        alone_s: What its kernels take by themselves.
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
        One entry for each layer, in the order in which they run.

    Raises:
        MeasurementError: No kernel could be timed.
    """
    calls = read_kernel_calls(artifact.path)
    if not calls:
        raise MeasurementError(f"{artifact.path}: calls no kernel, so it has no layers to time")
    distinct = list({call.kernel: call for call in calls}.values())
    reference = ReferenceKernel(artifact, max(distinct, key=_bytes_of))
    timings = list(runner.time_kernels(artifact, distinct, reference, settings))
    usual_s = usual_reference_s(timings)
    return scaled_layers(calls, {timing.kernel: timing.seconds(usual_s) for timing in timings}, network_s)


def scaled_layers(calls: Sequence[KernelCall], timed: dict[str, float], network_s: float) -> tuple[LayerTime, ...]:
    """Adds up kernels by layer and scales them to the network's latency.

    Args:
        calls: Of one run, in order.
        timed: Seconds of each kernel by itself; kernels that are only views of memory are not in it.
        network_s: What all shall add up to.

    Returns:
        One entry for each layer.

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
    return tuple(
        LayerTime(layer, tuple(kernels), alone[layer] * network_s / total, alone[layer])
        for layer, kernels in of_layer.items()
    )


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
