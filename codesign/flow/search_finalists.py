"""Finalists of a joint search: trained further, quantised, compiled and measured."""

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from codesign.backend.base import Artifact
from codesign.backend.layer_times import CALL
from codesign.cost.base import DEFAULT_BITS, CostModel, kernel_latency_s, run_latency_s
from codesign.cost.table import kernels_of, observe
from codesign.errors import CodesignError
from codesign.files import digest_of, replacing
from codesign.flow.build import apply_and_compile, measure
from codesign.flow.context import RunContext
from codesign.flow.elastic import calibrated_network
from codesign.flow.layer_latency import measured_layers
from codesign.flow.prepare import GRAPH, LOWERED, observation_of, versions
from codesign.flow.runners import MEASURED
from codesign.flow.search_context import SearchContext, TargetContext
from codesign.flow.search_latencies import comparable_latencies
from codesign.flow.search_points import FoundNetwork
from codesign.flow.variant_analysis import PlanLoss, VariantAnalyst, test_accuracy
from codesign.ir.program import Program
from codesign.ir.serialization import load_graph, save_graph
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.plan.facts import GraphFacts
from codesign.progress import track
from codesign.quantization.scheme import BitWidths
from codesign.report.search_point import Finalist, LayerLatency, ProductAccuracy
from codesign.training.options import ElasticOptions, TrainingOptions

Built = Mapping[str, Finalist | str]
"""By digest of the plan: what was found, or why it failed."""


@dataclass(frozen=True)
class _Compiled:
    """A finalist before it is measured.

    Attributes:
        context: It as the network of a run.
        network: The network's file with its plan.
        artifacts: What the compilers made of it.
    """

    context: RunContext
    network: Path
    artifacts: tuple[Artifact, ...]


def build_finalists(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, chosen: Sequence[FoundNetwork]
) -> Built:
    """Builds and measures networks, each failure by itself.

    Args:
        context: The search.
        place: The target.
        analyst: Knows the variants.
        chosen: Networks, the most valuable first.

    Returns:
        What was found of each. A network whose turn did not come within `search.device_seconds` says so.
    """
    place = _simulated_where_placed(place)
    prepared = {
        network.plan.digest: _prepared(context, place, analyst, network)
        for network in track(context.progress, "Preparing finalists", chosen, len(chosen))
    }
    compiled = _compile_all(context, prepared, chosen)
    built: dict[str, Finalist | str] = {}
    limit_s, started = context.search.search.device_seconds, time.monotonic()
    for network in chosen:
        digest = network.plan.digest
        found = compiled[digest]
        if isinstance(found, str):
            built[digest] = found
        elif limit_s is not None and time.monotonic() - started > limit_s:
            built[digest] = f"search.device_seconds = {limit_s:g} were spent before its turn came"
        else:
            built[digest] = _measured(context, place, network, found)
    spent = limit_s is not None and time.monotonic() - started > limit_s
    if spent or place.target.runner not in MEASURED:
        return built
    in_turn = _in_turn(context, place, compiled, built)
    return {
        network.plan.digest: _with_layers(place, analyst, network, compiled[network.plan.digest], in_turn)
        for network in track(context.progress, "Timing layers", chosen, len(chosen))
    }


def _with_layers(
    place: TargetContext, analyst: VariantAnalyst, network: FoundNetwork, compiled: "_Compiled | str", built: Built
) -> Finalist | str:
    found = built[network.plan.digest]
    if isinstance(found, str) or isinstance(compiled, str):
        return found
    network_s = found.latency.median_s
    times = measured_layers(compiled.context, compiled.artifacts, network_s)
    if not times:
        return found
    facts, bits_of = analyst.screen(network.variant).facts, network.plan.bits_of
    call_s = math.fsum(time.seconds for time in times if time.layer == CALL)
    alone_s = {time.layer: time.alone_s for time in times if time.layer != CALL}
    observed = observe(facts, bits_of, alone_s, network_s - call_s)
    measured = [(node.name, o.seconds) for node, o in zip(kernels_of(facts), observed, strict=True)]
    if call_s:
        measured.append((CALL, call_s))
    layers = (LayerLatency(name, predicted_layer_s(place.cost_model, facts, bits_of, name), s) for name, s in measured)
    return dataclasses.replace(found, layers=tuple(layers))


def predicted_layer_s(model: CostModel, facts: GraphFacts, bits_of: Mapping[str, BitWidths], layer: str) -> float:
    """What a model says of a layer as `Finalist.layers` has them.

    Args:
        model: Prices nodes.
        facts: The network.
        bits_of: Widths of its nodes.
        layer: Name of the node that a kernel begins with, or `CALL`.

    Returns:
        Seconds.
    """
    if layer == CALL:
        return run_latency_s(model, facts)
    return kernel_latency_s(model, facts.by_name[layer], bits_of.get(layer, DEFAULT_BITS))


def _in_turn(
    context: SearchContext, place: TargetContext, compiled: Mapping[str, "_Compiled | str"], built: Built
) -> Built:
    """The same, with latencies that can be compared."""
    products = {
        digest: found
        for digest, found in compiled.items()
        if not isinstance(found, str) and not isinstance(built[digest], str)
    }
    if not products:
        return built
    run = next(iter(products.values())).context
    folder = context.folder / "targets" / place.target.name
    latencies = comparable_latencies(run, folder, {digest: found.artifacts[0] for digest, found in products.items()})
    return {
        digest: found
        if isinstance(found, str)
        else dataclasses.replace(found, latency=latencies.get(digest, found.latency))
        for digest, found in built.items()
    }


def _simulated_where_placed(place: TargetContext) -> TargetContext:
    """Programs are compiled for one device: what a placed network takes is what its decision counted."""
    if not place.is_several:
        return place
    target = place.target.model_copy(update={"runner": "simulated", "rpc": None})
    return dataclasses.replace(place, target=target)


def _prepared(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, network: FoundNetwork
) -> RunContext | str:
    folder = context.folder / "targets" / place.target.name / network.plan.digest
    run = context.run_context(network.variant, place, folder)
    try:
        if context.search.search.finetune_epochs:
            _finetuned_graph(context, analyst, network, run)
        else:
            _graph_with_shared_weights(analyst, network, run)
    except CodesignError as error:
        return _failed(context, network, error)
    return run


def _graph_with_shared_weights(analyst: VariantAnalyst, network: FoundNetwork, run: RunContext) -> None:
    analyst.analyse(network.variant)
    source = analyst.folder(network.variant)

    def compute() -> list[Path]:
        written = []
        for name in (LOWERED, GRAPH):
            run.folder.mkdir(parents=True, exist_ok=True)
            with replacing(run.folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
            written.append(run.folder / name)
        return written

    run.store.step("graph", digest_of(source / LOWERED, source / GRAPH), compute)


def _finetuned_graph(context: SearchContext, analyst: VariantAnalyst, network: FoundNetwork, run: RunContext) -> None:
    """Trains the network at its widths, lowers it anew and observes its activations; step `finetune`."""
    search = context.search
    analyst.analyse(network.variant)
    lowered = analyst.folder(network.variant) / LOWERED
    key = digest_of(
        lowered,
        network.plan.to_json(),
        search.elastic.model_dump(mode="json"),
        search.search.finetune_epochs,
        context.data.training_without_search.digest,
        search.seed,
        versions(),
    )

    def compute() -> list[Path]:
        from codesign.ir.lowering import lower_module
        from codesign.training.finetune import finetune
        from codesign.training.resolution import fitting_data

        module = calibrated_network(context, analyst.supernet, network.variant)
        shape = context.space.input_shape(network.variant)
        parameter_of = lower_module(module, shape).parameter_of
        bits = {parameter_of[name]: widths.weight for name, widths in network.plan.bits if name in parameter_of}
        options = _finetuning(search.elastic, search.search.finetune_epochs)
        data = fitting_data(context.data.training_without_search, search.data.preprocessing, shape)
        finetune(
            module,
            data.dataset,
            data.preprocessing,
            options,
            bits,
            run.folder / "finetune",
            context.progress,
            search.seed,
        )
        program = lower_module(module, shape)
        save_graph(program.graph, run.folder / LOWERED)
        PassManager(parse_pipeline(observation_of(run))).run(
            program, PassContext(run.data.calibration, search.seed, context.progress)
        )
        save_graph(program.graph, run.folder / GRAPH)
        return [run.folder / LOWERED, run.folder / GRAPH]

    run.store.step("finetune", key, compute)


def _finetuning(elastic: ElasticOptions, epochs: int) -> TrainingOptions:
    """The options of elastic training at a tenth of its rate: weights are near their place already."""
    shared = {name: getattr(elastic, name) for name in TrainingOptions.model_fields}
    changed = {"epochs": epochs, "learning_rate": elastic.learning_rate / 10, "warmup_epochs": 0.0}
    return TrainingOptions(**{**shared, **changed})


def _compile_all(
    context: SearchContext, prepared: Mapping[str, RunContext | str], chosen: Sequence[FoundNetwork]
) -> dict[str, _Compiled | str]:
    found: dict[str, _Compiled | str] = {d: run for d, run in prepared.items() if isinstance(run, str)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each thread waits for a compiling process
        jobs = {
            pool.submit(apply_and_compile, run, dataclasses.replace(network.plan, placement=())): (network, run)
            for network in chosen
            if not isinstance(run := prepared[network.plan.digest], str)
        }
        try:
            for job in track(context.progress, "Compiling finalists", as_completed(jobs), len(jobs)):
                network, run = jobs[job]
                try:
                    found[network.plan.digest] = _Compiled(run, *job.result())
                except CodesignError as error:
                    found[network.plan.digest] = _failed(context, network, error)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _measured(
    context: SearchContext, place: TargetContext, network: FoundNetwork, compiled: _Compiled
) -> Finalist | str:
    run = compiled.context
    try:
        found = measure(run, compiled.network, compiled.artifacts, network.cost)
    except CodesignError as error:
        return _failed(context, network, error)
    if found.latency is None:
        return "nothing measures or simulates this target"
    program = Program(load_graph(run.folder / GRAPH))
    floating = test_accuracy(Program(load_graph(run.folder / LOWERED)), run.data)
    trained = bool(context.search.search.finetune_epochs)
    loss = network.loss
    if trained:
        loss = PlanLoss(program, run.data, context.search.quantization.bias_correction).of(network.plan.bits_of)
    return Finalist(
        finetuned=trained,
        accuracy={name: ProductAccuracy(floating[name], value) for name, value in found.accuracy.items()},
        loss=loss,
        latency=found.latency,
        predicted_latency_s=network.cost.latency_s,
        energy_j=found.energy_j,
        energy_provenance=found.energy_provenance,
        energy_source=place.profile.name if found.energy_provenance == "simulated" else "power meter",
        artifact_weight_bytes=found.artifact_weight_bytes,
        artifact=str(run.folder.relative_to(context.folder)),
    )


def _failed(context: SearchContext, network: FoundNetwork, error: CodesignError) -> str:
    context.progress.note(f"finalist {network.plan.digest} failed: {error}")
    return str(error)
