"""A joint search, from top to bottom: architecture, widths and places in one decision, for one or more targets."""

import time
from collections.abc import Sequence
from pathlib import Path

from codesign.architecture.space import variant_count
from codesign.errors import CodesignError, InputError
from codesign.files import remove_leftovers
from codesign.flow.elastic import train_shared_weights
from codesign.flow.search_context import SearchContext, TargetContext, open_search
from codesign.flow.search_correction import corrected, held_out, measured_halfway, repriced
from codesign.flow.search_finalists import build_finalists
from codesign.flow.search_loop import ALONE, Workers, run_trials, take_part
from codesign.flow.search_points import finalists_of, networks_of
from codesign.flow.search_publish import REPORT_HTML, TargetOutcome, publish_search
from codesign.flow.search_refinement import refine
from codesign.flow.search_trials import open_study
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.progress import Progress
from codesign.report.search_contents import JointSearch
from codesign.search_file import SearchFile


def search(
    file: SearchFile,
    base: Path,
    folder: Path,
    progress: Progress,
    storage: str | None = None,
    workers: Workers = ALONE,
) -> JointSearch:
    """Trains shared weights once, searches for each target, builds finalists and writes the report.

    Every step keeps its result; what is there and still true is not done again.

    Args:
        file: The run file.
        base: Folder that relative paths in it start from.
        folder: Where results go.
        progress: Told about every step.
        storage: Where trials are kept; None for a journal in the folder.
        workers: How many processes search.

    Returns:
        What was found.

    Raises:
        CodesignError: Nothing was found for a target, or what is needed is missing.
    """
    context = open_search(file, base, folder, storage, progress)
    remove_leftovers(folder)
    started = time.monotonic()
    analyst = VariantAnalyst(context, train_shared_weights(context))
    outcomes: list[TargetOutcome] = []
    try:
        for place in context.targets:
            outcomes.append(_search_target(context, place, analyst, workers))
    except KeyboardInterrupt:
        _publish_what_there_is(context, analyst, outcomes, workers, time.monotonic() - started)
        raise
    return publish_search(context, analyst, outcomes, workers.count, time.monotonic() - started)


def _search_target(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, workers: Workers
) -> TargetOutcome:
    finished = run_trials(context, place, analyst, workers)
    now = corrected(context, place)
    networks = repriced(context, now, analyst, networks_of(finished))
    if not networks:
        raise CodesignError(
            f"target {place.target.name!r}: no network keeps search.limits now that latencies are corrected by what "
            "was measured; raise the limits, or repeat with more search.trials"
        )
    section = context.search.search
    if section.refinements and not now.is_several:
        networks = (*networks, *refine(context, now, analyst, finalists_of(networks, section.finalists)))
    best = finalists_of(networks, section.finalists)
    chosen = [*best, *(n for n in measured_halfway(context, place, networks) if n not in best)]
    built = held_out(context, place, analyst, chosen, build_finalists(context, now, analyst, chosen))
    return TargetOutcome(now, finished, networks, built)


def _publish_what_there_is(
    context: SearchContext, analyst: VariantAnalyst, done: Sequence[TargetOutcome], workers: Workers, seconds: float
) -> None:
    """A report of the targets that are done and of the trials of the one that was interrupted, nothing of it built."""
    outcomes = list(done)
    for place in context.targets[len(done) : len(done) + 1]:
        finished = open_study(context, place).finished
        now = corrected(context, place)
        networks = repriced(context, now, analyst, networks_of(finished))
        if networks:
            outcomes.append(TargetOutcome(now, finished, networks, {}))
    if outcomes:
        publish_search(context, analyst, outcomes, workers.count, seconds)
        context.progress.note(f"what was found so far is in {context.folder / REPORT_HTML}")


def join(file: SearchFile, base: Path, folder: Path, progress: Progress, storage: str | None, target: str) -> None:
    """Takes part in the trials of a search that another process began.

    Args:
        file: The run file of that search.
        base: Folder that relative paths in it start from.
        folder: That search's folder.
        progress: Told about every trial.
        storage: Where its trials are kept; None for the journal in its folder.
        target: The target to search for.

    Raises:
        InputError: There are no shared weights yet, or the search has no such target.
    """
    context = open_search(file, base, folder, storage, progress)
    if not context.shared_weights.is_file():
        raise InputError(f"{folder}: holds no shared weights yet; start the search without --join first")
    place = next((p for p in context.targets if p.target.name == target), None)
    if place is None:
        raise InputError(f"--join {target}: the search is for {', '.join(p.target.name for p in context.targets)}")
    open_study(context, place).reclaim()
    take_part(context, place, VariantAnalyst(context, context.shared_weights))


def describe_search(file: SearchFile, base: Path, folder: Path, progress: Progress) -> list[str]:
    """What a search would do.

    Args:
        file: The run file.
        base: Folder that relative paths in it start from.
        folder: Where results would go.
        progress: Told about loading data.

    Returns:
        Lines for the terminal.
    """
    context = open_search(file, base, folder, None, progress)
    data = "; ".join(f"{label}: {words}" for label, words in context.data.describe().items())
    section = file.search
    axes = ", ".join(f"{axis.name} {list(axis.values)}" for axis in context.space.axes)
    samples = len(context.data.training_without_search)
    return [
        f"space     {context.space.name}: {variant_count(context.space)} variants ({axes})",
        f"data      {data}",
        f"train     shared weights, {file.elastic.epochs} epochs on {samples} samples",
        *(_target_line(context, i) for i in range(len(context.targets))),
        f"build     {section.finalists} finalists for each target"
        + (f", {section.finetune_epochs} epochs of their own" if section.finetune_epochs else ""),
        f"report    {folder / 'report.html'}",
    ]


def _target_line(context: SearchContext, index: int) -> str:
    place, section = context.targets[index], context.search.search
    bits = ", ".join(str(widths.weight) for widths in place.widths)
    trials = "every member" if section.sampler == "exhaustive" else f"{section.trials} trials by {section.sampler}"
    return f"search    for {place.target.name} ({place.target.runner}): {trials}; weights of {bits} bits"
