"""Several processes on this machine that carry out a plan together, and what happens when one of them dies."""

import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore  # torch.distributed names it without exporting it

from codesign.errors import CodesignError, InputError, first_line

TIMEOUT_S = 60.0
"""Seconds after which a process gives up waiting for another one."""
PROCESSES_A_PROCESSOR = 4
POLL_S = 0.02
GRACE_S = 1.0
"""Seconds that the others have to say what they saw, once one has died."""

Work = Callable[[int], object]
"""What a process does, given its number; its result is something that JSON or torch can carry (tensors and numbers)."""


def check_machine(devices: int) -> None:
    """Refuses to start more processes than make sense here.

    Args:
        devices: How many are wanted.

    Raises:
        InputError: More than `PROCESSES_A_PROCESSOR` for each processor.
    """
    processors = len(os.sched_getaffinity(0))
    most = PROCESSES_A_PROCESSOR * max(processors, 2)
    if devices > most:
        raise InputError(
            f"the plan is for {devices} devices, but this machine has {processors} processors, on which at most {most} "
            "processes are started; plan for fewer devices, or run the plan by torchrun on more machines"
        )


def run_processes(devices: int, work: Work, timeout_s: float = TIMEOUT_S, limit_s: float = 3600.0) -> list[object]:
    """Forks processes that are joined by gloo, and waits for all of them.

    Args:
        devices: How many.
        work: What each does; it finds torch.distributed initialised.
        timeout_s: How long one waits for another.
        limit_s: How long all of it may take.

    Returns:
        Their results, by number.

    Raises:
        CodesignError: A process failed, died or did not end in time; all of them have ended then. It names the number
            of the process and the reason.
    """
    check_machine(devices)
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        context = get_context("fork")  # what is imported stays imported
        children = [
            context.Process(target=_child, args=(rank, devices, Path(folder), work, timeout_s), daemon=True)
            for rank in range(devices)
        ]
        for child in children:
            child.start()
        try:
            _wait(children, Path(folder), limit_s)
        finally:
            for child in children:
                if child.is_alive():
                    child.kill()
                child.join()
        return [torch.load(Path(folder) / f"{rank}.result", weights_only=True) for rank in range(devices)]


def _wait(children: list, folder: Path, limit_s: float) -> None:  # type: ignore[type-arg] # a private type of the module
    end = time.monotonic() + limit_s
    while any(child.is_alive() for child in children):
        time.sleep(POLL_S)
        dead = [rank for rank, child in enumerate(children) if child.exitcode not in {None, 0}]
        if dead:
            time.sleep(GRACE_S if _was_killed(children[dead[0]].exitcode) else POLL_S)
            raise CodesignError(_reason(children, folder))
        if time.monotonic() > end:
            late = [str(rank) for rank, child in enumerate(children) if child.is_alive()]
            raise CodesignError(f"process {', '.join(late)} did not end within {limit_s:g} s; all were stopped")
    if any(child.exitcode for child in children):
        raise CodesignError(_reason(children, folder))


def _was_killed(exit_code: int | None) -> bool:
    return exit_code is not None and exit_code < 0


def _reason(children: list, folder: Path) -> str:  # type: ignore[type-arg] # as above
    """The cause: a process that was killed, else the first that failed by itself."""
    for rank, child in enumerate(children):
        if _was_killed(child.exitcode):
            name = signal.Signals(-child.exitcode).name
            return f"process {rank} of {len(children)} was ended by {name}; the others were stopped"
    files = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    if files:
        return f"process {files[0].stem} of {len(children)} failed: {files[0].read_text()}"
    codes = {rank: child.exitcode for rank, child in enumerate(children)}
    return f"processes ended with exit codes {codes}"


def _child(rank: int, devices: int, folder: Path, work: Work, timeout_s: float) -> None:
    torch.set_num_threads(1)
    try:
        store = FileStore(str(folder / "store"), devices)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=devices, timeout=timedelta(seconds=timeout_s)
        )
        result = work(rank)
        partial = folder / f"{rank}.partial"
        torch.save(result, partial)
        partial.rename(folder / f"{rank}.result")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException as error:  # whatever it was, the parent must hear of it
        text = str(error) if isinstance(error, CodesignError) else _text_of(error)
        (folder / f"{rank}.error").write_text(text)
        os._exit(1)
    os._exit(0)


def _text_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


def check_same_plan(digest: str, devices: int) -> None:
    """Makes sure, before any other message, that all processes have the same plan.

    A message of another length would be taken without a word, or end the process.

    Args:
        digest: Of this process's plan, in hexadecimal.
        devices: How many the plan is for.

    Raises:
        InputError: The plans differ, or the number of processes does.
    """
    if dist.get_world_size() != devices:
        raise InputError(
            f"the plan is for {devices} devices, {dist.get_world_size()} processes were started; plan for as many, or "
            f"start {devices}"
        )
    own = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
    all_digests = [torch.empty_like(own) for _ in range(devices)]
    dist.all_gather(all_digests, own)
    other = [str(rank) for rank, found in enumerate(all_digests) if not torch.equal(found, all_digests[0])]
    if other:
        raise InputError(
            f"processes {', '.join(other)} have another plan than process 0; give all of them the same one"
        )
