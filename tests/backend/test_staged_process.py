"""A child process that works, hangs, crashes and refuses."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codesign.backend.staged_process import StageError, stream_results
from codesign.errors import InputError

LIMITS_S = {"quick": 1.0, "slow": 30.0}


def _results(tmp_path: Path, body: str) -> Iterator[dict[str, object]]:
    (tmp_path / "staged_child.py").write_text(
        f"import os, subprocess, sys, time\nfrom codesign.backend.staged_process import tell\n{body}\n"
    )
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    return stream_results("staged_child", tmp_path / "r", {"PYTHONPATH": path}, LIMITS_S, tmp_path / "log.txt")


def test_results_come_one_by_one(tmp_path: Path) -> None:
    body = "tell(stage='slow')\nfor i in range(3): tell(value=i)\ntell(stage='quick')\ntell(value=3)"
    assert list(_results(tmp_path, body)) == [{"value": i} for i in range(4)]


def test_a_hang_ends_with_its_stage_and_keeps_what_came_before(tmp_path: Path) -> None:
    found: list[dict[str, object]] = []
    start = time.monotonic()
    with pytest.raises(StageError) as caught:
        found.extend(_results(tmp_path, "tell(stage='slow'); tell(value=1); tell(stage='quick'); time.sleep(600)"))
    assert time.monotonic() - start < 60
    assert (caught.value.stage, caught.value.expired) == ("quick", True)
    assert caught.value.reason == "gave no answer within 1 s"
    assert found == [{"value": 1}]


def test_results_before_a_crash_are_not_lost(tmp_path: Path) -> None:
    found: list[dict[str, object]] = []
    with pytest.raises(StageError) as caught:
        found.extend(_results(tmp_path, "tell(stage='slow'); tell(value=1); raise ValueError('broken')"))
    assert found == [{"value": 1}]
    assert (caught.value.stage, caught.value.reason, caught.value.expired) == ("slow", "ValueError: broken", False)


def test_a_child_that_chatters_gets_no_more_time(tmp_path: Path) -> None:
    body = "tell(stage='quick')\nwhile True:\n    tell(value=1); time.sleep(0.05)"
    with pytest.raises(StageError, match="quick: gave no answer within 1 s"):
        for _ in _results(tmp_path, body):
            pass


def test_a_signal_and_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="start: was killed by SIGKILL"):
        list(_results(tmp_path, "os.kill(os.getpid(), 9)"))
    with pytest.raises(InputError, match="not like this"):
        list(_results(tmp_path, "tell(stage='slow'); tell(refused='not like this')"))


def test_whoever_stops_listening_ends_the_child_and_its_children(tmp_path: Path) -> None:
    body = "child = subprocess.Popen(['sleep', '600']); tell(stage='slow'); tell(pid=child.pid); time.sleep(600)"
    results = _results(tmp_path, body)
    pid = next(results)["pid"]
    results.close()  # type: ignore[attr-defined]  # it is a generator
    stat = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    while stat.exists() and " Z " not in stat.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not stat.exists() or " Z " in stat.read_text()
