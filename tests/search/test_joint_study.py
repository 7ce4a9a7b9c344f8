"""Studies: what is asked, what a killed worker loses, and that a resumed search is the undisturbed one."""

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import nn

from codesign.architecture.shared_weight import SharedWeight
from codesign.architecture.space import Axis, StagePicture, Variant
from codesign.errors import InputError
from codesign.search.joint_study import Candidate, JointStudy, Outcome, StudyOptions
from codesign.search.samplers import SamplerName


class Toy:
    """A space whose networks are never built."""

    name = "toy"
    axes = (Axis("depth", (1, 2, 3)), Axis("ratio", (0.5, 1.0)), Axis("order", ("x", "y")))

    def network(self, variant: Variant) -> nn.Module:
        raise NotImplementedError

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        return (1, 3, 8, 8)

    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        raise NotImplementedError

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        return ()


def _open(path: Path, sampler: SamplerName = "nsga2", trials: int | None = 40, points: int = 2) -> JointStudy:
    return JointStudy(f"journal:{path}", "toy", Toy(), StudyOptions(sampler, trials, points=points))


def _value(candidate: Candidate) -> Outcome:
    values = candidate.variant.values
    depth, ratio = float(values["depth"]), float(values["ratio"])
    point = (1 / depth + 0.1 * ratio, depth * (0.5 + ratio), ratio, depth + ratio)
    return Outcome("evaluated", point, {"order": str(values["order"])})


def _run(study: JointStudy) -> None:
    while (candidate := study.ask()) is not None:
        with study.heartbeat(candidate):
            study.tell(candidate, _value(candidate))


def _journal(study: JointStudy) -> list[tuple[object, ...]]:
    return [(t.candidate.variant, t.outcome) for t in study.finished]


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random", "exhaustive"])
def test_same_seed_same_trials_and_resuming_changes_nothing(sampler: SamplerName, tmp_path: Path) -> None:
    whole = _open(tmp_path / "whole.journal", sampler)
    _run(whole)
    assert len(whole.finished) == (24 if sampler == "exhaustive" else 40)
    path = tmp_path / "parts.journal"
    for _ in range(5):
        part = _open(path, sampler)
        for _ in range(4):
            candidate = part.ask()
            assert candidate is not None
            part.tell(candidate, _value(candidate))
    rest = _open(path, sampler)
    _run(rest)
    assert _journal(rest) == _journal(whole)
    assert _open(path, sampler).ask() is None


def test_exhaustive_tries_every_variant_so_many_times(tmp_path: Path) -> None:
    study = _open(tmp_path / "s.journal", "exhaustive", trials=None, points=3)
    _run(study)
    counts = Counter(t.candidate.variant for t in study.finished)
    assert len(counts) == 12
    assert set(counts.values()) == {3}


def test_exhaustive_refuses_what_would_never_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"12000000 networks.*choose 'nsga2'"):
        _open(tmp_path / "s.journal", "exhaustive", points=1_000_000)


def test_outcomes_are_kept(tmp_path: Path) -> None:
    study = _open(tmp_path / "s.journal")
    outcomes = [
        Outcome("infeasible", None, {"reason": "too slow"}),
        Outcome("failed", None, {"reason": "NaN"}),
        Outcome("discarded", (1.0, 2.0, 3.0, 4.0), {"reason": "dominated"}),
        Outcome("evaluated", (1.0, 2.0, 3.0, 4.0), {"plan": {"a": [1, 2.5, "x"]}}),
    ]
    for outcome in outcomes:
        candidate = study.ask()
        assert candidate is not None
        study.tell(candidate, outcome)
    assert [t.outcome for t in _open(tmp_path / "s.journal").finished] == outcomes


def test_failed_and_infeasible_trials_count(tmp_path: Path) -> None:
    study = _open(tmp_path / "s.journal", trials=6)
    count = 0
    while (candidate := study.ask()) is not None:
        count += 1
        study.tell(candidate, Outcome("failed" if count % 2 else "infeasible", None, {"reason": "never works"}))
    assert count == 6


def test_what_a_study_begins_with_comes_first_and_once(tmp_path: Path) -> None:
    study = _open(tmp_path / "s.journal")
    first = Variant((("depth", 3), ("ratio", 1.0), ("order", "y")))
    second = Variant((("depth", 1), ("ratio", 0.5), ("order", "x")))
    for _ in range(2):
        study.begin_with((first, second, second))
    asked = []
    for _ in range(3):
        candidate = study.ask()
        assert candidate is not None
        study.tell(candidate, _value(candidate))
        asked.append(candidate.variant)
    assert asked == [first, second, second]
    study.begin_with((first,))
    _run(study)
    assert len(study.finished) == 40


WORKER = textwrap.dedent(
    """
    import sys, time
    sys.path.insert(0, sys.argv[2])
    from pathlib import Path
    from test_joint_study import _open, _value
    study = _open(Path(sys.argv[1]))
    study.reclaim()
    while (candidate := study.ask()) is not None:
        print("asked", flush=True)
        if len(sys.argv) > 3:
            time.sleep(60)
        study.tell(candidate, _value(candidate))
    """
)


def _worker(path: Path, *more: str) -> "subprocess.Popen[str]":
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", WORKER, str(path), here, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_worker_loses_its_own_trial_only_and_it_is_repeated(tmp_path: Path) -> None:
    whole = _open(tmp_path / "whole.journal")
    _run(whole)
    path = tmp_path / "killed.journal"
    first = _open(path)
    for _ in range(11):
        candidate = first.ask()
        assert candidate is not None
        first.tell(candidate, _value(candidate))
    with _worker(path, "hang") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGKILL)
    resumed = _open(path)
    assert len(resumed.finished) == 11
    assert resumed.reclaim() == 1
    assert resumed.reclaim() == 0
    _run(resumed)
    assert _journal(resumed) == _journal(whole)


def test_living_workers_keep_their_trials_and_share_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "shared.journal"
    mine = _open(path)
    held = mine.ask()
    assert held is not None
    with _worker(path) as process:
        process.communicate(timeout=60)
    assert mine.reclaim() == 0
    mine.tell(held, _value(held))
    finished = _open(path).finished
    assert len(finished) == 40
    assert len({t.worker for t in finished}) == 2


def test_half_a_line_at_the_end_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    study = _open(path)
    candidate = study.ask()
    assert candidate is not None
    study.tell(candidate, _value(candidate))
    with path.open("ab") as file:
        file.write(b'{"op_code": 5, "worker')
    again = _open(path)
    assert len(again.finished) == 1
    _run(again)
    assert len(again.finished) == 40


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    _open(path)
    code = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from codesign.search.study_storage import KernelLock
        KernelLock(Path(sys.argv[1])).acquire()
        os.kill(os.getpid(), 9)
        """
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    study = _open(path)
    assert study.ask() is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("studies.db", "give journal:PATH or a database URL"),
        ("postgresql://me:secret@127.0.0.1:1/studies", "check that the server runs"),
        ("sqlite:////nowhere/at/all/study.db", "cannot be used"),
    ],
)
def test_storages_that_cannot_be_reached(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        JointStudy(name, "toy", Toy(), StudyOptions("random", 1))
    assert "secret" not in str(caught.value)


def test_a_journal_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.write_text("hello\nworld\n")
    with pytest.raises(InputError, match="delete the file"):
        _open(path)
    assert os.access(path, os.R_OK)


def test_sqlite_works_too(tmp_path: Path) -> None:
    study = JointStudy(f"sqlite:///{tmp_path}/study.db", "toy", Toy(), StudyOptions("random", 3))
    _run(study)
    assert len(study.finished) == 3
