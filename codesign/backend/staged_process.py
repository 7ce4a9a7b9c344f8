"""A child process that says which stage of its work it is in, with a time limit for each stage.

What talks to a device may wait for ever at any point, so it runs apart, and the one who waits knows the stage and the
limit. The child prints JSON lines: `{"stage": NAME}` when a stage begins, `{"refused": TEXT}` for a mistake of the
user's, anything else is a result.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import IO

from codesign.backend.start import start_command
from codesign.errors import InputError

START = "start"
"""The stage before the first line: Python starts and imports."""
START_LIMIT_S = 120.0


class StageError(Exception):
    """A child ended early, or stayed too long in a stage.

    Attributes:
        stage: Which.
        reason: What happened, to go on a sentence with.
        expired: Whether it was the time limit.
    """

    def __init__(self, stage: str, reason: str, expired: bool) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason, self.expired = stage, reason, expired


def stream_results(
    module: str, request: Path, environment: Mapping[str, str], limits_s: Mapping[str, float], log: Path
) -> Iterator[dict[str, object]]:
    """Runs a module of the backend; it and all that it started are gone when the iterator ends, however it ends.

    Args:
        module: Dotted name of the module.
        request: Its one argument.
        environment: Added to this process's environment.
        limits_s: Seconds for each stage, whatever it prints in between.
        log: File for its messages.

    Yields:
        What it printed, without its stages.

    Raises:
        StageError: It crashed, or stayed in a stage past its limit.
        InputError: It refused what it was given.
    """
    with log.open("wb") as errors:
        process = subprocess.Popen(
            start_command(module, str(request)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | environment,
            start_new_session=True,
        )
        try:
            stage = yield from _results(process, limits_s)
        finally:
            _end(process)
    if process.returncode != 0:
        raise StageError(stage, _ending(process.returncode, log), False)


def _results(
    process: "subprocess.Popen[bytes]", limits_s: Mapping[str, float]
) -> Generator[dict[str, object], None, str]:
    assert process.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    stage, limit_s, began = START, START_LIMIT_S, time.monotonic()
    refusal: str | None = None
    while True:
        try:
            line = lines.get(timeout=max(0.0, began + limit_s - time.monotonic()))
        except queue.Empty:
            raise StageError(stage, f"gave no answer within {limit_s:g} s", True) from None
        if line is None:
            process.wait()
            if refusal is not None:
                raise InputError(refusal)
            return stage
        row = json.loads(line)
        if "refused" in row:
            refusal = row["refused"]  # it ends by itself: a server may not bear a client that vanishes
        elif "stage" in row:
            stage, limit_s, began = row["stage"], limits_s[row["stage"]], time.monotonic()
        else:
            yield row


def _read(stream: IO[bytes], lines: "queue.Queue[bytes | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _ending(code: int, log: Path) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
    return lines[-1].strip().removeprefix("tvm.error.")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tell(**row: object) -> None:
    """Prints a line for the one who waits; called by the child.

    Args:
        **row: `stage`, `refused`, or a result's entries.
    """
    print(json.dumps(row), flush=True)
