"""The outer search: which architecture variant to look at next.

One trial is one network of one variant: its widths and places follow from the exact decision and from what other
trials reached. Trials live in an Optuna storage, which any number of processes may share; a process that dies loses the
trial that it was at, which another one, or its own successor, repeats.
"""

import json
import os
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psutil

from codesign.architecture.space import ArchitectureSpace, Variant, variant_count, variant_of, variants
from codesign.errors import InputError
from codesign.search.samplers import SamplerName, sampler_for
from codesign.search.study_storage import open_storage

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

METRICS = ("latency_s", "energy_j", "memory_bytes")
"""What is traded against the loss: with it, the objectives of every trial, in this order after the loss."""
HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
"""A trial of another machine whose worker was not heard of for so long is given up."""
LARGEST_EXHAUSTIVE = 20_000

_WORKER, _HEARTBEAT, _OUTCOME = "worker", "heartbeat", "outcome"


@dataclass(frozen=True)
class Candidate:
    """What a trial is to evaluate.

    Attributes:
        number: Of the trial in its study.
        variant: The architecture.
    """

    number: int
    variant: Variant


OutcomeKind = Literal["evaluated", "discarded", "infeasible", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        kind: `evaluated`: a network with measured loss. `discarded`: no network of this variant can enter the front;
            `values` are lower bounds of what it could reach. `infeasible`: the variant breaks a limit whatever its
            widths. `failed`: `record["reason"]` says why.
        values: Loss in nats and the metrics of `METRICS`; None for the last two kinds.
        record: JSON values that say more.
    """

    kind: OutcomeKind
    values: tuple[float, ...] | None
    record: Mapping[str, object]


@dataclass(frozen=True)
class FinishedTrial:
    """A trial with its outcome.

    Attributes:
        candidate: What was evaluated.
        outcome: What came of it.
        worker: Who did it.
        finished_s: When, in seconds of Unix time.
    """

    candidate: Candidate
    outcome: Outcome
    worker: str
    finished_s: float


@dataclass(frozen=True)
class StudyOptions:
    """How a study draws its trials.

    Attributes:
        sampler: Which point comes next.
        trials: How many there are at most; None for no limit.
        points: Networks of every variant that `exhaustive` asks for.
        seed: Source of all randomness.
    """

    sampler: SamplerName
    trials: int | None
    points: int = 4
    seed: int = 0


class JointStudy:
    """Trials of one target.

    Args:
        storage: As `open_storage` takes it.
        name: Of the study; the target's name.
        space: Variants to choose from.
        options: How trials are drawn.

    Raises:
        InputError: The storage cannot be reached, or the space is too large to try every member.
    """

    def __init__(self, storage: str, name: str, space: ArchitectureSpace, options: StudyOptions) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._options = space, options
        self._asked: dict[int, Trial] = {}
        self._ended: dict[int, FinishedTrial] = {}
        self._study: Study = optuna.create_study(
            storage=open_storage(storage),
            study_name=name,
            directions=["minimize"] * (1 + len(METRICS)),
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(["loss_nats", *METRICS])
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"
        self._distributions = _distributions(space)
        members = variant_count(space) * options.points
        if options.sampler == "exhaustive" and members > LARGEST_EXHAUSTIVE:
            raise InputError(
                f"search.sampler: 'exhaustive' would try {members} networks ({variant_count(space)} variants), at most "
                f"{LARGEST_EXHAUSTIVE} are allowed; choose 'nsga2' or a smaller space"
            )

    def ask(self) -> Candidate | None:
        """Draws the next trial.

        Returns:
            What to evaluate, or None when there is nothing left to try. It must be told.
        """
        turn = sum(1 for t in self._trials() if not _is_lost(t) and t.state.name != "WAITING")
        if self._options.trials is not None and turn >= self._options.trials:
            return None
        if self._options.sampler == "exhaustive" and not self._enqueue_next_member():
            return None
        self._study.sampler = sampler_for(self._options.sampler, self._options.seed, turn)
        trial = self._study.ask(self._distributions)
        _ = trial.relative_params  # also where all is given: a sampler counts only trials that it was asked about
        trial.set_user_attr(_WORKER, self._worker)
        self._asked[trial.number] = trial
        return self._candidate(trial)

    def begin_with(self, variants: Sequence[Variant]) -> None:
        """Puts variants in front of what the sampler draws, if the study has no trials yet.

        Args:
            variants: Architectures; a repeated one is asked for repeatedly.
        """
        for variant in () if self._trials() else variants:
            self._study.enqueue_trial(dict(variant.choices))

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """Ends a trial.

        Args:
            candidate: What this object was asked for.
            outcome: What came of it.
        """
        from optuna.trial import TrialState

        record = {"kind": outcome.kind, "record": outcome.record}
        self._asked.pop(candidate.number).set_user_attr(_OUTCOME, json.dumps(record))
        if outcome.values is not None:
            self._study.tell(candidate.number, list(outcome.values))
        else:
            state = TrialState.PRUNED if outcome.kind == "infeasible" else TrialState.FAIL
            self._study.tell(candidate.number, state=state)

    @contextmanager
    def heartbeat(self, candidate: Candidate) -> Iterator[None]:
        """Tells other machines that a trial is being worked on.

        Args:
            candidate: What is being evaluated.

        Yields:
            Nothing; the trial is reported alive until the block ends.
        """
        stop, trial = threading.Event(), self._asked[candidate.number]

        def beat() -> None:
            while not stop.wait(HEARTBEAT_S):
                trial.set_user_attr(_HEARTBEAT, time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def reclaim(self) -> int:
        """Marks trials of dead workers as failed and puts what they were at in front of the queue.

        Returns:
            How many there were.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        lost = [t for t in self._trials() if t.state == TrialState.RUNNING and not self._is_alive(t)]
        for trial in lost:
            try:
                self._study.tell(trial.number, state=TrialState.FAIL)
            except (UpdateFinishedTrialError, ValueError):
                continue  # another worker was faster
            if trial.params:
                self._study.enqueue_trial(trial.params)
        return len(lost)

    @property
    def finished(self) -> tuple[FinishedTrial, ...]:
        """Trials with an outcome, in the order in which they ended."""
        for trial in self._trials():
            if trial.number not in self._ended and trial.state.is_finished() and _OUTCOME in trial.user_attrs:
                self._ended[trial.number] = self._finished(trial)
        return tuple(sorted(self._ended.values(), key=lambda t: (t.finished_s, t.candidate.number)))

    def _finished(self, trial: "FrozenTrial") -> FinishedTrial:
        outcome = json.loads(trial.user_attrs[_OUTCOME])
        values = tuple(trial.values) if trial.values else None
        ended = trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0
        worker = str(trial.user_attrs.get(_WORKER, ""))
        known = Outcome(outcome["kind"], values, outcome["record"])
        return FinishedTrial(self._candidate(trial), known, worker, ended)

    def _trials(self) -> "Sequence[FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    def _candidate(self, trial: "Trial | FrozenTrial") -> Candidate:
        return Candidate(trial.number, variant_of(self._space, trial.params))

    def _enqueue_next_member(self) -> bool:
        """Puts the first variant in the queue that has too few trials; False if there is none."""
        if any(t.state.name == "WAITING" for t in self._trials()):
            return True
        tried = Counter(_key(_params_of(t)) for t in self._trials() if not _is_lost(t))
        for variant in variants(self._space):
            params = dict(variant.choices)
            if tried[_key(params)] < self._options.points:
                self._study.enqueue_trial(params)
                return True
        return False

    def _is_alive(self, trial: "FrozenTrial") -> bool:
        worker = str(trial.user_attrs.get(_WORKER, ""))
        if worker == self._worker:
            return True
        host, _, rest = worker.partition(":")
        if host == socket.gethostname():
            pid, _, created = rest.partition(":")
            try:
                return f"{psutil.Process(int(pid)).create_time():.2f}" == created
            except (psutil.NoSuchProcess, ValueError):
                return False
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        heard = float(trial.user_attrs.get(_HEARTBEAT, started))
        return time.time() - heard < STALE_AFTER_S


def _is_lost(trial: "FrozenTrial") -> bool:
    """Whether a trial ended without an outcome: its worker died."""
    return trial.state.name == "FAIL" and _OUTCOME not in trial.user_attrs


def _params_of(trial: "FrozenTrial") -> Mapping[str, object]:
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _distributions(space: ArchitectureSpace) -> "dict[str, BaseDistribution]":
    from optuna.distributions import CategoricalDistribution

    return {axis.name: CategoricalDistribution(axis.values) for axis in space.axes}


def _key(params: Mapping[str, object]) -> str:
    return json.dumps(params, sort_keys=True)
