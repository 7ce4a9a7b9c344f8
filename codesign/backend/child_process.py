"""Work in a process of its own, so that a crash, a hang or a leak costs one candidate and not the run."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from codesign.backend.start import start_command


def run_module(
    module: str, argument: Path, environment: Mapping[str, str], timeout_s: float | None, log: Path
) -> str | None:
    """Runs a module of the backend and waits; whatever is left of its process group is killed at the end.

    Args:
        module: Dotted name of the module.
        argument: Its one argument.
        environment: Added to this process's environment before the child starts.
        timeout_s: Seconds after which it is ended; None for no limit.
        log: File for its output.

    Returns:
        Why it failed, or None.
    """
    return run_command(start_command(module, str(argument)), environment, timeout_s, log)


def run_command(
    command: Sequence[str], environment: Mapping[str, str], timeout_s: float | None, log: Path
) -> str | None:
    """Runs a program and waits; whatever is left of its process group is killed at the end.

    Args:
        command: The program and its arguments.
        environment: Added to this process's environment before the child starts.
        timeout_s: Seconds after which it is ended; None for no limit.
        log: File for its output.

    Returns:
        Why it failed, or None.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return f"ran past its limit of {timeout_s:g} s and was ended; raise timeout_s"
        finally:
            _end(process)
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    if code > 0:
        return f"failed: {last_message(log)}"
    return None


def last_message(log: Path) -> str:
    """What a process said last.

    Args:
        log: Its output.

    Returns:
        The last line that is not one of TVM's own warnings, which come after an error as things are torn down.
    """
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line and ": Warning: " not in line), "no message")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills what is left of a process's group, on success, failure and Ctrl-C alike."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
