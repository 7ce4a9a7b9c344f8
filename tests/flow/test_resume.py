"""A run that is killed and repeated ends as one that was never interrupted, and repeats no finished step."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

TRAIN = """
[train]
epochs = 2
batch_size = 16
"""

INTERRUPTING = """
import os, sys
event, text, occurrence, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.argv[1:5] = []
seen = 0

def watch(name, arguments):
    global seen
    if name == event and text in repr(arguments):
        seen += 1
        if seen == occurrence:
            os.kill(os.getpid(), number)

sys.addaudithook(watch)
from codesign.cli import main
main()
"""
"""The command, which sends itself a signal just before it renames, opens or starts something for the n-th time."""


@dataclass(frozen=True)
class Interruption:
    """When a run is ended: at the `occurrence`-th audit event `event` whose arguments hold `text`.

    `cuts_journal` adds what a kill leaves in the journal while a line is written.
    """

    step: str
    event: str
    text: str
    occurrence: int = 1
    number: signal.Signals = signal.SIGKILL
    cuts_journal: bool = False


# A file is written beside its place and then renamed: at the time of the event it is complete but not in its place.
RENAME, START, OPEN = "os.rename", "subprocess.Popen", "open"
INTERRUPTIONS = (
    Interruption("train, first epoch done", RENAME, "checkpoint.safetensors", 2),
    Interruption("train, weights written, no record", RENAME, "steps/train.json"),
    Interruption("lower, no record", RENAME, "steps/lower.json"),
    Interruption("annotate, graph half written", RENAME, "tiny/graph.onnx"),
    Interruption("search, among the measured plans", OPEN, "journal.jsonl", 3, cuts_journal=True),
    Interruption("search, Ctrl-C among the measured plans", OPEN, "journal.jsonl", 2, signal.SIGINT),
    Interruption("search, result half written", RENAME, "tiny/search.json"),
    Interruption("apply, no record", RENAME, "steps/apply/", 2),
    Interruption("compile, while another one is compiling", START, "codesign.backend.tvm_process", 2),
    Interruption("compile, no record", RENAME, "steps/compile/"),
    Interruption("measure, Ctrl-C among the candidates", START, "codesign.backend.worker", 2, signal.SIGINT),
    Interruption("measure, no record", RENAME, "steps/measure/"),
    Interruption("report, page half written", RENAME, "tiny/report.html"),
)


def _run(folder: Path, interruption: Interruption | None) -> "subprocess.CompletedProcess[str]":
    """Runs the command in `folder`, interrupted or to its end."""
    command = [sys.executable, "-m", "codesign"]
    if interruption is not None:
        how = (interruption.event, interruption.text, str(interruption.occurrence), str(interruption.number.value))
        command = [sys.executable, "-c", INTERRUPTING, *how]
    command += ["run", "run.toml"]
    own_cache = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}  # so that libraries are compiled, not found
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=own_cache)


def _train_and_compile_with_tvm(folder: Path) -> None:
    path = folder / "run.toml"
    text = path.read_text().replace('weights = "weights.safetensors"\n', "")
    path.write_text(text.replace('compilers = ["onnx', 'compilers = ["tvm", "onnx') + TRAIN)


def _finished(run: Path) -> dict[str, int]:
    """When each record of a finished step, and each file that one names, was written."""
    times = {}
    for record in (run / "steps").rglob("[!.]*.json"):
        outputs = json.loads(record.read_text())["outputs"]
        for path in (record, *(run / name for name in outputs)):
            times[str(path.relative_to(run))] = path.stat().st_mtime_ns
    return times


@pytest.mark.slow
def test_a_run_killed_at_every_step_ends_as_one_that_was_not(
    tiny: Path, report_without_timings: Callable[[Path], object]
) -> None:
    _train_and_compile_with_tvm(tiny)
    whole = Path(shutil.copytree(tiny, tiny.parent / "whole"))
    ended = _run(whole, None)
    assert ended.returncode == 0, ended.stderr
    run = tiny / "runs" / "tiny"
    finished: dict[str, int] = {}
    for interruption in INTERRUPTIONS:
        ended = _run(tiny, interruption)
        if interruption.number == signal.SIGINT:
            assert ended.returncode == 130, (interruption, ended.stderr)
            assert "codesign: interrupted; what is finished is kept, repeat the command to go on" in ended.stderr
            assert "Traceback" not in ended.stderr
        else:
            assert ended.returncode == -signal.SIGKILL, (interruption, ended.stderr)
        now = _finished(run)
        assert finished.items() <= now.items(), interruption
        finished = now
        if interruption.cuts_journal:
            with (run / "journal.jsonl").open("a") as journal:
                journal.write('{"key": "cut sh')
    assert not (run / "report.html").exists()
    ended = _run(tiny, None)
    assert ended.returncode == 0, ended.stderr
    assert finished.items() <= _finished(run).items()
    assert report_without_timings(run) == report_without_timings(whole / "runs" / "tiny")
    assert not list(run.rglob("*.partial*"))
    finished = _finished(whole / "runs" / "tiny")
    steps = {name.split("/")[1] for name in finished if name.startswith("steps/")}
    assert steps == {
        "train.json",
        "lower.json",
        "annotate.json",
        "search.json",
        "apply",
        "compile",
        "measure",
        "layers",
    }
    assert _run(whole, None).returncode == 0
    assert _finished(whole / "runs" / "tiny") == finished
