"""Runs the trials of a target, in this process or in several."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.architecture.space import largest, smallest
from codesign.errors import CodesignError
from codesign.flow.search_context import SearchContext, TargetContext
from codesign.flow.search_correction import (
    FIRST_PART,
    corrected,
    file_of,
    is_corrected_while_searching,
    measure_and_correct,
    repriced,
)
from codesign.flow.search_points import Reached, networks_of
from codesign.flow.search_trials import TrialEvaluator, open_study
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.search.joint_study import FinishedTrial, JointStudy

POLL_S = 0.5


@dataclass(frozen=True)
class Workers:
    """How many processes search.

    Attributes:
        count: Processes, this one included where it is 1.
        command: Arguments after `codesign` that make a process take part in the trials; for `count` above 1.
    """

    count: int = 1
    command: tuple[str, ...] = ()


ALONE = Workers()


def run_trials(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, workers: Workers
) -> tuple[FinishedTrial, ...]:
    """Runs trials of a target until its budget is spent.

    Halfway the best networks are measured and the cost model corrected, where the target can be timed. Trials of
    processes that died are repeated. What is finished stays in the storage, so that a call that was interrupted goes on
    where it was.

    Args:
        context: The search.
        place: The target, not corrected.
        analyst: Knows the variants.
        workers: How many processes.

    Returns:
        All finished trials of the target.

    Raises:
        CodesignError: Every trial failed, or broke a limit.
    """
    while True:
        part = share_of_budget(context, place)
        study = open_study(context, place, part)
        study.reclaim()
        if context.search.search.sampler != "exhaustive":
            _begin_with_extremes(context, study)
        if workers.count > 1:
            _run_elsewhere(context, place, study, workers)
            study.reclaim()
        take_part(context, place, analyst)
        finished = refuse_if_nothing(place, study.finished)
        if part == 1.0:
            return finished
        measure_and_correct(context, place, analyst, networks_of(finished))


def share_of_budget(context: SearchContext, place: TargetContext) -> float:
    """How much of the budget may be spent before something else is to be done.

    Args:
        context: The search.
        place: The target.

    Returns:
        A share of 1.
    """
    waits = is_corrected_while_searching(context, place) and not file_of(context, place).is_file()
    return FIRST_PART if waits else 1.0


def take_part(context: SearchContext, place: TargetContext, analyst: VariantAnalyst) -> None:
    """Evaluates trials in this process until none is left or the time is up.

    Args:
        context: The search.
        place: The target, not corrected.
        analyst: Knows the variants.
    """
    part = share_of_budget(context, place)
    study = open_study(context, place, part)
    now = corrected(context, place)
    evaluator = TrialEvaluator(context, now, analyst)
    section, started = context.search.search, time.monotonic()
    limit_s = None if section.seconds is None else section.seconds * FIRST_PART
    if limit_s is not None and not is_corrected_while_searching(context, place):
        limit_s = section.seconds
    reached = Reached(lambda networks: repriced(context, now, analyst, networks))
    done = len(study.finished)
    context.progress.start(f"Searching for {place.target.name}", section.trials or max(done, 1))
    context.progress.advance(done)
    try:
        while limit_s is None or time.monotonic() - started < limit_s:
            candidate = study.ask()
            if candidate is None:
                break
            with study.heartbeat(candidate):
                reached.add(study.finished)
                outcome = evaluator.evaluate(candidate, reached)
            study.tell(candidate, outcome)
            if outcome.kind == "failed":
                context.progress.note(f"trial {candidate.number} ({candidate.variant}): {outcome.record['reason']}")
            context.progress.advance()
    finally:
        context.progress.finish()


def _begin_with_extremes(context: SearchContext, study: JointStudy) -> None:
    """The largest and the smallest variant come first, so that there is a front from the first minute."""
    least = smallest(context.space)
    study.begin_with((largest(context.space), least, least))


def _run_elsewhere(context: SearchContext, place: TargetContext, study: JointStudy, workers: Workers) -> None:
    """Starts processes, shows how far they are, and ends them with this one."""
    command = [sys.executable, "-m", "codesign", *workers.command, "--join", place.target.name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = context.folder / "workers.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        started = [
            subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            for _ in range(workers.count)
        ]
    done = len(study.finished)
    context.progress.start(
        f"Searching for {place.target.name} ({workers.count} workers)", context.search.search.trials or max(done, 1)
    )
    context.progress.advance(done)
    try:
        while any(process.poll() is None for process in started):
            time.sleep(POLL_S)
            now = len(study.finished)
            context.progress.advance(now - done)
            done = now
    finally:
        context.progress.finish()
        _end(started)
    if all(process.returncode for process in started):
        context.progress.note(f"all workers ended with an error, see {log}; this process goes on alone")


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


def refuse_if_nothing(place: TargetContext, finished: tuple[FinishedTrial, ...]) -> tuple[FinishedTrial, ...]:
    """Refuses a search that found nothing.

    Args:
        place: The target.
        finished: Its trials.

    Returns:
        The same.

    Raises:
        CodesignError: Not one trial was evaluated; reasons are named.
    """
    if any(trial.outcome.kind == "evaluated" for trial in finished):
        return finished
    reasons = list(dict.fromkeys(str(trial.outcome.record.get("reason", "")) for trial in finished))
    infeasible = sum(trial.outcome.kind == "infeasible" for trial in finished)
    shown = "\n  ".join(reasons[:3]) or "no trial ended in time"
    raise CodesignError(
        f"target {place.target.name!r}: none of {len(finished)} trials found a network ({infeasible} broke a limit, "
        f"{len(finished) - infeasible} failed):\n  {shown}\nraise search.limits, or widen the space"
    )
