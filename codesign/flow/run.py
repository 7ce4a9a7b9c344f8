"""One run, from top to bottom."""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from codesign.backend.layer_times import LayerTime
from codesign.cost.select import cost_model_for
from codesign.errors import CodesignError, CompileError, InputError, MeasurementError
from codesign.files import remove_leftovers
from codesign.flow.build import (
    BASELINE,
    Compiled,
    apply_and_compile,
    compilers_of,
    measure,
    refuse_what_cannot_be_compiled,
)
from codesign.flow.context import RunContext, load_data
from codesign.flow.decide import Decision, Proposal, budget_in_words, decide
from codesign.flow.layer_latency import measured_layers
from codesign.flow.prepare import annotate, obtain, pipeline_of
from codesign.flow.publish import publish
from codesign.flow.tune import refuse_to_tune
from codesign.flow.tuned_product import tuned_product
from codesign.hardware.catalog import load_profile, load_target
from codesign.hardware.profile import HardwareProfile
from codesign.progress import Progress, track
from codesign.report.contents import Measured, RunReport
from codesign.run_file import RunFile
from codesign.run_folder import RunFolder


def execute(run: RunFile, base: Path, folder: Path, progress: Progress) -> RunReport:
    """Runs load -> lower -> annotate -> search -> apply -> compile -> measure -> report.

    Every step keeps its result in the folder, with a digest of its inputs; what is there and still true is not done
    again, so that a run that was killed goes on when it is repeated.

    Args:
        run: The run file.
        base: Folder that relative paths in it start from.
        folder: Where results go.
        progress: Told about every step.

    Returns:
        What the run found.

    Raises:
        CodesignError: The baseline cannot be built or measured, so that nothing can be compared with it.
    """
    context = open_run(run, base, folder, progress)
    remove_leftovers(folder)
    program = obtain(context)
    refuse_what_cannot_be_compiled(context)
    program, facts = annotate(context, program)
    decision = decide(context, program, facts)
    compiled = _compile_all(context, decision)
    chosen = decision.choices[0].identity
    product, tuning = tuned_product(context, compiled[chosen])
    compiled = {**compiled, chosen: product}
    built = {proposal.identity: _measured(context, proposal, compiled) for proposal in decision.proposals}
    layers = _chosen_layers(context, decision, compiled, built)
    return publish(context, program, facts, decision, built, (layers, tuning))


def open_run(run: RunFile, base: Path, folder: Path, progress: Progress) -> RunContext:
    """Loads target and data and opens the folder.

    Args:
        run: The run file.
        base: Folder that relative paths in it start from.
        folder: Where results go.
        progress: Told about loading.

    Returns:
        What the steps use.
    """
    local = base / run.target
    target = load_target(str(local) if run.target.endswith(".toml") and local.is_file() else run.target)
    if target.runner == "qemu-aarch64":
        raise InputError(
            f"target: {target.name!r} counts instructions, by which nothing can be chosen; choose for a target with "
            f"another runner, and count with `codesign compile` and `codesign measure`"
        )
    if run.measure.tune is not None:
        refuse_to_tune(target)
    profile = load_profile(target.profile, target.threads)
    cost_model = cost_model_for(profile)
    run = _with_widths_of(run, profile, progress)
    data = load_data(run.data, run.seed, base, progress)
    return RunContext(run, base, RunFolder(folder, progress), target, profile, cost_model, data, progress)


def _with_widths_of(run: RunFile, profile: HardwareProfile, progress: Progress) -> RunFile:
    """The run with the widths that the device can compute: those it lacks are left out before any work starts."""
    asked = run.quantization.weight_bits
    has = {w.weight for w in profile.bit_widths if w.activation == run.quantization.activation_bits}
    if not has.intersection(asked):
        raise InputError(
            f"quantization.weight_bits: profile {profile.name!r} has rates for {sorted(has)} bits with "
            f"{run.quantization.activation_bits}-bit activations, got {list(asked)}; name one of these"
        )
    missing = [bits for bits in asked if bits not in has]
    if not missing:
        return run
    progress.note(f"{profile.name} has no rate for weights of {', '.join(map(str, missing))} bits: left out")
    kept = {"weight_bits": tuple(bits for bits in asked if bits in has)}
    return run.model_copy(update={"quantization": run.quantization.model_copy(update=kept)})


def _compile_all(context: RunContext, decision: Decision) -> dict[str, Compiled | str]:
    """Compiles every plan, several at once, before anything is measured; a plan that fails is kept with the reason."""
    plans = {proposal.identity: proposal.plan for proposal in decision.proposals}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each thread waits for a compiling process
        jobs = {pool.submit(apply_and_compile, context, plan): identity for identity, plan in plans.items()}
        try:
            done = track(context.progress, "Compiling", as_completed(jobs), len(jobs))
            return {jobs[job]: _result(context, job, jobs[job]) for job in done}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _result(context: RunContext, job: Future[Compiled], identity: str) -> Compiled | str:
    try:
        return job.result()
    except CompileError as error:
        return _failed(context, identity, error)


def _measured(context: RunContext, proposal: Proposal, compiled: Mapping[str, Compiled | str]) -> Measured | str:
    """What was measured of a plan, or why it failed; a failed plan is tried again by the next run."""
    found = compiled[proposal.identity]
    if isinstance(found, str):
        return found
    try:
        return measure(context, *found, proposal.cost)
    except MeasurementError as error:
        return _failed(context, proposal.identity, error)


def _chosen_layers(
    context: RunContext,
    decision: Decision,
    compiled: Mapping[str, Compiled | str],
    built: Mapping[str, Measured | str],
) -> tuple[LayerTime, ...]:
    identity = decision.choices[0].identity
    network, measured = compiled[identity], built[identity]
    if isinstance(network, str) or isinstance(measured, str):
        return ()
    return measured_layers(context, network[1], None if measured.latency is None else measured.latency.median_s)


def _failed(context: RunContext, identity: str, error: CodesignError) -> str:
    if identity == BASELINE:
        raise CodesignError(f"the network in floating point failed, so nothing can be compared: {error}") from error
    context.progress.note(f"candidate {identity} failed: {error}")
    return str(error)


def describe(run: RunFile, base: Path, folder: Path, progress: Progress) -> list[str]:
    """What a run would do.

    Args:
        run: The run file.
        base: Folder that relative paths in it start from.
        folder: Where results would go.
        progress: Told about loading data.

    Returns:
        Lines for the terminal.
    """
    context = open_run(run, base, folder, progress)
    target, section = context.target, run.search
    uniform = len(run.quantization.weight_bits) if section.uniform else 0
    sweep = section.sweep.points if section.sweep else 0
    at_most = 1 + uniform + 2 * len(section.budgets) + sweep
    data = "; ".join(f"{label}: {words}" for label, words in context.data.describe().items())
    steps = [
        f"load      {run.model.source}" + (f" with {run.model.weights}" if run.model.weights else ""),
        f"          {data}",
        *([f"train     {run.train.epochs} epochs on {len(context.data.splits.training)} samples"] if run.train else []),
        "lower     to ONNX",
        f"annotate  {pipeline_of(context)}",
        *(
            f"search    under {budget_in_words(b)}, {section.evaluations} plans measured at most"
            for b in section.budgets
        ),
        *([f"search    {sweep} plans along {section.sweep.metric}"] if section.sweep else []),
        f"compile   at most {at_most} networks with {', '.join(c.name for c in compilers_of(context))}",
        *([f"tune      kernels of the chosen network: {run.measure.tune}"] if run.measure.tune else []),
        f"measure   on {target.name} ({target.runner}), {target.threads} thread(s), {run.measure.repeats} samples each",
        f"report    {folder / 'report.html'}",
    ]
    records = folder / "steps"
    done = (
        sorted(str(p.relative_to(records).with_suffix("")) for p in records.rglob("[!.]*.json"))
        if records.exists()
        else []
    )
    return [*steps, f"Kept from before, if their inputs are the same: {', '.join(done) or 'nothing'}"]
