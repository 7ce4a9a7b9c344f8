"""The middle steps: apply a plan, compile it, measure it."""

import dataclasses
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from pydantic import TypeAdapter

from codesign.backend.base import Artifact, Compiler, Measurement, MeasurementSettings, Runner
from codesign.errors import UnsupportedOperatorError
from codesign.files import digest_of, write_bytes, write_json
from codesign.flow.context import RunContext
from codesign.flow.prepare import GRAPH, LOWERED, versions
from codesign.flow.runners import runner_of
from codesign.hardware.host import detect_host
from codesign.ir.annotations import Provenance
from codesign.ir.program import Program
from codesign.ir.serialization import load_graph, save_graph
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.passes.apply_bit_widths import ApplyBitWidthsPass
from codesign.plan.plan import Cost, Plan
from codesign.progress import track
from codesign.report.contents import Agreement, Estimate, Latency, Measured
from codesign.training.evaluation import accuracy

BASELINE = "baseline"
NETWORK = "network.onnx"
_REFERENCE = "onnxruntime"
_MEASURED = TypeAdapter(Measured)
Compiled = tuple[Path, tuple[Artifact, ...]]
"""The network's file and each compiler's artefact, the product first."""


def compilers_of(context: RunContext) -> tuple[Compiler, ...]:
    """The compilers of a run, the product's first.

    Args:
        context: The run.

    Returns:
        Those that the run file names; for a simulated target onnxruntime alone, which computes its outputs.
    """
    from codesign.backend.library_cache import LibraryCache, cache_folder
    from codesign.backend.onnxruntime_compiler import OnnxruntimeCompiler
    from codesign.backend.tvm_process import IsolatedTvmCompiler

    if context.target.runner == "simulated":
        return (OnnxruntimeCompiler(),)
    cache = LibraryCache(cache_folder())
    made: Mapping[str, Compiler] = {"tvm": IsolatedTvmCompiler(cache), "onnxruntime": OnnxruntimeCompiler()}
    return tuple(made[name] for name in context.run.measure.compilers)


def refuse_what_cannot_be_compiled(context: RunContext) -> None:
    """Looks for operators that a compiler does not know, before any long work starts.

    Args:
        context: The run, lowered.

    Raises:
        UnsupportedOperatorError: There are some; all are listed.
    """
    for compiler in compilers_of(context):
        lines = compiler.unsupported(context.folder / LOWERED)
        if lines:
            raise UnsupportedOperatorError(
                f"{context.run.model.source}: the compiler {compiler.name!r} cannot compile {len(lines)} node(s): "
                f"{'; '.join(lines)}; change the network or leave the compiler out of measure.compilers"
            )


def apply_and_compile(context: RunContext, plan: Plan | None) -> Compiled:
    """Writes a plan into the graph and compiles it; steps `apply` and `compile` of the plan.

    Args:
        context: The run, annotated.
        plan: What to build; None for the network in floating point.

    Returns:
        The network's file and each compiler's artefact, the product first.

    Raises:
        CompileError: A compiler failed.
    """
    identity = BASELINE if plan is None else plan.digest
    network = _apply(context, plan, identity)
    return network, tuple(_compile(context, compiler, network, identity) for compiler in compilers_of(context))


def _apply(context: RunContext, plan: Plan | None, identity: str) -> Path:
    """Writes the network with QDQ nodes (or as it is, for the baseline)."""
    network = context.folder / "artifacts" / identity / NETWORK
    correction = context.run.quantization.bias_correction
    key = digest_of(context.folder / GRAPH, plan.to_json() if plan else None, correction, versions())

    def compute() -> list[Path]:
        program = Program(load_graph(context.folder / GRAPH))
        written = [network]
        if plan is not None:
            plan_file = context.folder / "plans" / f"{identity}.json"
            write_json(plan_file, plan.to_json())
            PassManager([ApplyBitWidthsPass(plan=str(plan_file), bias_correction=correction)]).run(
                program, PassContext()
            )
            written.append(plan_file)
        save_graph(program.graph, network)
        return written

    context.store.step(f"apply/{identity}", key, compute)
    return network


def _compile(context: RunContext, compiler: Compiler, network: Path, identity: str) -> Artifact:
    key = digest_of(network, context.target.model_dump(mode="json"), machine(), versions())
    return compile_step(context, compiler, network, identity, (compiler.name, key))


def compile_step(
    context: RunContext, compiler: Compiler, network: Path, identity: str, step: tuple[str, str]
) -> Artifact:
    """Compiles a candidate, and keeps what the compiler said of the artefact.

    Args:
        context: The run.
        compiler: Which compiler.
        network: The network's file.
        identity: Of the candidate.
        step: Name of the artefact's folder, and digest of all that it depends on.

    Returns:
        The artefact.
    """
    folder, key = step
    work = context.folder / "artifacts" / identity / folder
    target = context.target

    def compute() -> list[Path]:
        shutil.rmtree(work, ignore_errors=True)
        artifact = compiler.compile(network, target, identity, work)
        stated = {"path": str(artifact.path.relative_to(work)), "weight_bytes": artifact.weight_bytes}
        write_json(work / "artifact.json", stated)
        return [path for path in work.rglob("*") if path.is_file()]

    context.store.step(f"compile/{identity}-{folder}", key, compute)
    stated = context.store.read_json(work / "artifact.json")
    return Artifact(work / str(stated["path"]), compiler.name, target.name, identity, int(str(stated["weight_bytes"])))


def machine() -> str:
    """What runs the network here, as text."""
    host = detect_host()
    return f"{host.name}, {host.cores} cores"


def measure(context: RunContext, network: Path, artifacts: Sequence[Artifact], cost: Cost | None) -> Measured:
    """Measures every artefact of a plan, each in its own process, and compares their outputs; step `measure`.

    Args:
        context: The run.
        network: The network's file.
        artifacts: What the compilers made of it, the product first.
        cost: What the cost model expects of it; None for the network in floating point.

    Returns:
        What was measured, without the loss increase on search data.

    Raises:
        MeasurementError: A compiled program crashed or ran past its limit.
    """
    identity = artifacts[0].plan_digest
    target, settings = context.target, settings_of(context)
    result = context.folder / "artifacts" / identity / "measurement.json"
    simulated = [cost.latency_s, cost.energy_j, cost.weight_bytes] if cost and target.runner == "simulated" else None
    key = digest_of(
        [digest_of(artifact.path) for artifact in artifacts],
        dataclasses.asdict(settings),
        context.data.test_digest,
        simulated,
        None if target.rpc is None else target.rpc.model_dump(mode="json"),
        machine(),
        versions(),
    )

    def compute() -> list[Path]:
        images = context.data.test_images
        names = [artifact.compiler for artifact in artifacts]
        work = track(context.progress, f"Measuring {identity}", artifacts, len(artifacts))
        found = [_run_one(context, artifact, settings, cost, images) for artifact in work]
        weight_bytes = cost.weight_bytes if cost and simulated else artifacts[0].weight_bytes
        measured = _summary(context, dict(zip(names, found, strict=True)), network, weight_bytes)
        write_bytes(result, _MEASURED.dump_json(measured, indent=1))
        return [result]

    context.store.step(f"measure/{identity}", key, compute)
    return _MEASURED.validate_json(result.read_bytes())


def settings_of(context: RunContext) -> MeasurementSettings:
    """How latency is measured.

    Args:
        context: The run.

    Returns:
        What its run file says.
    """
    options = context.run.measure
    return MeasurementSettings(
        context.target.threads, options.warm_up, options.repeats, options.runs_per_sample, options.timeout_s
    )


def _run_one(
    context: RunContext,
    artifact: Artifact,
    settings: MeasurementSettings,
    cost: Cost | None,
    images: NDArray[np.float32],
) -> Measurement:
    from codesign.backend.local_runner import LocalRunner
    from codesign.backend.simulated_runner import SimulatedRunner

    if context.target.runner == "local" or artifact.compiler == "tvm":
        return runner_of(context.target).measure(artifact, settings, images)
    here: Runner = LocalRunner()
    if context.target.runner == "simulated" and cost is not None:
        return SimulatedRunner(cost, here).measure(artifact, settings, images)
    once = dataclasses.replace(settings, warm_up=0, repeats=1, runs_per_sample=1)
    return dataclasses.replace(here.measure(artifact, once, images), latencies_s=())  # this is not the target


def _summary(context: RunContext, found: Mapping[str, Measurement], network: Path, weight_bytes: int) -> Measured:
    product = next(iter(found.values()))
    assert product.outputs is not None
    reference = found.get(_REFERENCE)
    agreement = None
    if reference is not None and reference is not product and reference.outputs is not None:
        agreement = _agreement(product.outputs, reference.outputs, network)
    latencies = tuple(latency_of(name, measurement) for name, measurement in found.items() if measurement.latencies_s)
    energy_provenance = product.provenance if product.energy_j is not None else None
    return Measured(
        None,
        _accuracies(context, product.outputs),
        latencies,
        product.energy_j,
        energy_provenance,
        weight_bytes,
        agreement,
    )


def _accuracies(context: RunContext, outputs: NDArray[np.float32]) -> dict[str, Estimate]:
    accuracies, start = {}, 0
    for name, dataset in context.data.test_sets.items():
        found = accuracy(outputs[start : start + len(dataset)], dataset.labels)
        accuracies[name] = Estimate(found.mean, found.standard_error)
        start += len(dataset)
    return accuracies


def latency_of(name: str, measurement: Measurement) -> Latency:
    """Sums samples up.

    Args:
        name: Of the compiler.
        measurement: With at least one sample.

    Returns:
        Median, least sample and spread.
    """
    return summed_up(name, measurement.latencies_s, measurement.threads, measurement.provenance)


def summed_up(name: str, samples_s: Sequence[float], threads: int, provenance: Provenance) -> Latency:
    """Sums samples up.

    Args:
        name: Of the compiler.
        samples_s: Seconds of a run, at least one.
        threads: It ran with.
        provenance: `measured` or `simulated`.

    Returns:
        Median, least sample and spread.
    """
    samples = sorted(samples_s)
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else [samples[0]] * 3
    return Latency(
        name, statistics.median(samples), samples[0], quartiles[2] - quartiles[0], len(samples), threads, provenance
    )


def _agreement(product: NDArray[np.float32], reference: NDArray[np.float32], network: Path) -> Agreement:
    difference = np.abs(product.astype(np.float64) - reference)
    largest = float(difference.max())
    scale = output_scale(load_graph(network))
    steps = None if scale is None else float(round(largest / scale, 3))
    return Agreement(largest, steps, float((difference == 0).mean()), len(product))


def output_scale(model: ir.Model) -> float | None:
    """Scale of the quantised value that the logits are made of.

    Args:
        model: A network.

    Returns:
        The scale, or None for a network whose logits are not quantised.
    """
    producer = model.graph.outputs[0].producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    scale = producer.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    return float(scale.const_value.numpy())
