"""What `codesign analyze` does, from top to bottom."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from codesign.curvature.subsets import over_subsets
from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.flow.analysis_layers import gather_layers, loss_table
from codesign.flow.analysis_passes import pass_text, passes_of, trace_pass
from codesign.flow.analysis_samples import AnalysisSamples, load_analysis_samples
from codesign.flow.analysis_validation import validate_predictors
from codesign.flow.analyze_request import AnalyzeRequest
from codesign.flow.network_spectrum import analyze_network
from codesign.flow.prepare import versions
from codesign.flow.resources import Stopwatch
from codesign.hardware.catalog import load_target, profile_of
from codesign.hardware.host import detect_host
from codesign.ir.annotation import annotate, find
from codesign.ir.annotations import KlSensitivity
from codesign.ir.loading import load_program
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, Pass, PassContext
from codesign.pass_manager.instruments import Timing
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline, pipeline_text
from codesign.passes.activation_trace import ActivationTracePass, ActivationTraceResult, trace_activations
from codesign.passes.hessian_trace import HessianTracePass, TraceResult, trace_blocks
from codesign.progress import Progress
from codesign.report.analysis_contents import Analysis, LayerAnalysis, Spread, Validation


def analyze(request: AnalyzeRequest, progress: Progress, shard: Shard) -> Analysis:
    """Loads, runs the passes that the metrics need, and judges the predictors if asked to.

    Args:
        request: The command's arguments.
        progress: Told about long work.
        shard: This process's part of the samples; every process returns the same.

    Returns:
        What was found.

    Raises:
        InputError: The network has no weights, or an argument or the data are wrong.
    """
    bits = widths_of(request, progress)
    planned = passes_of(request, bits)
    program = load_program(request.model, request.weights, request.input_shape, Path())
    if not program.weighted_nodes:
        raise InputError(f"{request.model}: has no convolution or matrix product with weights; nothing to analyse")
    samples = load_analysis_samples(request, program, progress)
    context = PassContext(samples.analysed, request.seed, progress, shard, request.memory_bytes)
    watch = Stopwatch()
    passes = _run_passes(program, planned, request, bits, context, watch)
    layers = gather_layers(program, loss_table(program, request.predictors, bits, context))
    if "subsets" in request.metrics:
        layers = _with_subsets(program, layers, request, context, watch)
    network = analyze_network(program, request, context, watch) if "density" in request.metrics else None
    cost = watch.cost(shard)
    return Analysis(
        model=request.model,
        data=request.data,
        samples=len(samples.analysed.images),
        metrics=request.metrics,
        pipeline=pipeline_text(passes),
        bits=bits,
        target=request.target,
        weights_of=request.weights_of,
        dtype=request.dtype,
        seed=request.seed,
        processes=shard.parts,
        layers=layers,
        network=network,
        validation=_validation(program, layers, request, samples, context),
        cost=cost,
        environment={"machine": _machine(), **versions()},
    )


def widths_of(request: AnalyzeRequest, progress: Progress) -> tuple[int, ...]:
    """Widths of weights, narrowest first.

    Args:
        request: Widths, and the target that restricts them.
        progress: Told about widths that the target has no rate for.

    Returns:
        At least one.

    Raises:
        InputError: The target has a rate for none of them.
    """
    asked = tuple(sorted(request.bits))
    if request.target is None:
        return asked
    rates = {widths.weight for widths in profile_of(load_target(request.target)).bit_widths}
    found = tuple(width for width in asked if width in rates)
    if not found:
        raise InputError(
            f"--bits: target {request.target} has rates for {sorted(rates)}, got {list(asked)}; ask for one of these"
        )
    if left := [width for width in asked if width not in rates]:
        progress.note(f"{request.target} has no rate for weights of {', '.join(map(str, left))} bits: left out")
    return found


def _run_passes(
    program: Program,
    planned: Sequence[Pass],
    request: AnalyzeRequest,
    bits: tuple[int, ...],
    context: PassContext,
    watch: Stopwatch,
) -> tuple[Pass, ...]:
    """Runs what is planned, and a quadratic model for the widths at which quantised forwards were not affordable."""
    _run(program, planned, context, watch)
    more: tuple[Pass, ...] = ()
    if "auto" in request.metrics and not any(pass_.name == "quadratic-loss" for pass_ in planned):
        known = [find(node, KlSensitivity) for node in program.weighted_nodes]
        measured = [{entry.weight_bits for entry in fact.by_bits} for fact in known if fact is not None]
        if missing := tuple(width for width in bits if not all(width in widths for widths in measured)):
            options = {"bits": missing, "samples": request.samples, "dtype": request.dtype}
            more = parse_pipeline(pass_text("quadratic-loss", options))
            _run(program, more, context, watch)
    return (*planned, *more)


def _run(program: Program, passes: Sequence[Pass], context: PassContext, watch: Stopwatch) -> None:
    """As `PassManager`, but sweeps over the data are counted where a pass knows them."""
    timing = Timing()
    for pass_ in passes:
        if isinstance(pass_, (HessianTracePass, ActivationTracePass)):
            with watch.step(pass_.name):
                _annotate_traces(program, pass_, context, watch)
        else:
            PassManager([pass_], [timing]).run(program, context)
            watch.add_seconds(pass_.name, timing.report().passes[-1].seconds)


def _annotate_traces(
    program: Program, pass_: HessianTracePass | ActivationTracePass, context: PassContext, watch: Stopwatch
) -> None:
    if isinstance(pass_, HessianTracePass):
        found: TraceResult | ActivationTraceResult = trace_blocks(program, context, pass_)
    else:
        found = trace_activations(program, context, pass_)
    watch.sweep(found.passes_over_data)
    for node in program.weighted_nodes:
        annotate(node, found.facts[name_of(node)])


def _with_subsets(
    program: Program,
    layers: Sequence[LayerAnalysis],
    request: AnalyzeRequest,
    context: PassContext,
    watch: Stopwatch,
) -> tuple[LayerAnalysis, ...]:
    """Adds the spread of traces and top eigenvalues over subsets of the samples."""
    data, options = context.calibration, trace_pass(request, 1)
    assert data is not None
    assert data.labels is not None
    images, labels = data.images, data.labels

    def compute(part: slice) -> Mapping[str, float]:
        subset = CalibrationData(images[part], labels[part])
        found = trace_blocks(program, dataclasses.replace(context, calibration=subset), options)
        watch.sweep(found.passes_over_data * len(subset.images) / len(images))
        traces = {f"trace:{name}": fact.trace for name, fact in found.facts.items()}
        tops = {f"top_eigenvalue:{name}": fact.top_eigenvalues[0] for name, fact in found.facts.items()}
        return {**traces, **tops}

    with watch.step("subsets"):
        spreads = over_subsets(compute, len(images), request.subsets)
    return tuple(
        dataclasses.replace(
            layer,
            subsets={
                key: Spread(found.mean, found.standard_deviation, found.values)
                for key in ("trace", "top_eigenvalue")
                for found in (spreads[f"{key}:{layer.name}"],)
            },
        )
        for layer in layers
    )


def _validation(
    program: Program,
    layers: Sequence[LayerAnalysis],
    request: AnalyzeRequest,
    samples: AnalysisSamples,
    context: PassContext,
) -> Validation | None:
    if request.validation is None or samples.held_out is None:
        return None
    wanted = request.validation.assignment_bits or tuple(layers[0].loss_increase)
    return validate_predictors(
        program,
        layers,
        samples.analysed,
        samples.held_out,
        samples.held_out_source,
        wanted,
        request.validation.assignments,
        context,
    )


def _machine() -> str:
    host = detect_host()
    return f"{host.name}, {host.cores} cores"
