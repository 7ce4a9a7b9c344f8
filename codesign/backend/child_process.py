"""Work in a process of its own, so that a crash, a hang or a leak costs one candidate and not the run."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_module(
    module: str, argument: Path, environment: Mapping[str, str], timeout_s: float | None, log: Path
) -> str | None:
    """Runs `python -m MODULE ARGUMENT` and waits; whatever is left of its process group is killed at the end.

    Args:
        module: Dotted name of the module.
        argument: Its one argument.
        environment: Added to this process's environment before the child starts.
        timeout_s: Seconds after which it is ended; None for no limit.
        log: File for its output.

    Returns:
        Why it failed, or None.
    """
    return run_command([sys.executable, "-m", module, str(argument)], environment, timeout_s, log)


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
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        return f"failed: {lines[-1].strip()}"
    return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills what is left of a process's group, on success, failure and Ctrl-C alike."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
