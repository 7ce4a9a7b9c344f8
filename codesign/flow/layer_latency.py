"""How long each layer of a measured network takes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from codesign.backend.base import Artifact
from codesign.backend.kernel_timing import KernelTimingSettings
from codesign.backend.layer_times import LayerTime, layer_times, rescaled
from codesign.errors import MeasurementError
from codesign.files import digest_of, write_bytes
from codesign.flow.build import machine
from codesign.flow.context import RunContext
from codesign.flow.prepare import versions
from codesign.flow.runners import MEASURED, kernel_runner_of

_TIMES = TypeAdapter(tuple[LayerTime, ...])


def measured_layers(
    context: RunContext, artifacts: Sequence[Artifact], network_s: float | None
) -> tuple[LayerTime, ...]:
    """Times every layer of a network that was measured whole; step `layers`.

    Args:
        context: The run.
        artifacts: What the compilers made of the network, the product first.
        network_s: The product's latency, in seconds; None where it has none.

    Returns:
        Each layer's share of that latency; empty where the product is not compiled by TVM, nothing is timed on the
        target, or timing failed, which is noted.
    """
    artifact, target = artifacts[0], context.target
    if artifact.compiler != "tvm" or target.runner not in MEASURED or network_s is None:
        return ()
    settings = KernelTimingSettings(threads=target.threads, timeout_s=context.run.measure.timeout_s)
    result = context.folder / "artifacts" / artifact.plan_digest / "layers.json"
    key = digest_of(artifact.path, dataclasses.asdict(settings), machine(), versions())

    def compute() -> list[Path]:
        times = layer_times(artifact, network_s, kernel_runner_of(target), settings)
        write_bytes(result, _TIMES.dump_json(times, indent=1))
        return [result]

    try:
        context.store.step(f"layers/{artifact.plan_digest}", key, compute)
    except MeasurementError as error:
        context.progress.note(f"layers of {artifact.plan_digest} were not timed: {error}")
        return ()
    return rescaled(_TIMES.validate_json(result.read_bytes()), network_s)
