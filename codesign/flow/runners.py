"""Which runner measures on a target."""

from codesign.backend.base import Runner
from codesign.backend.kernel_timing import KernelRunner, LocalKernelRunner
from codesign.backend.local_runner import LocalRunner
from codesign.backend.rpc_runner import RpcRunner
from codesign.errors import InputError
from codesign.hardware.target import Target

MEASURED = ("local", "rpc")
"""Runners of targets where something is timed."""


def runner_of(target: Target) -> Runner:
    """What measures networks on a target.

    Args:
        target: The target.

    Returns:
        The runner.
    """
    return _device_runner(target) or LocalRunner()


def kernel_runner_of(target: Target) -> KernelRunner:
    """What times kernels on a target.

    Args:
        target: The target.

    Returns:
        The runner.
    """
    return _device_runner(target) or LocalKernelRunner()


def _device_runner(target: Target) -> RpcRunner | None:
    """The runner of a remote device, None for this machine."""
    if target.runner not in MEASURED:
        raise InputError(
            f"target {target.name!r}: runner is {target.runner!r}, so nothing can be timed there; use a target with "
            f"runner {' or '.join(map(repr, MEASURED))}"
        )
    return None if target.rpc is None else RpcRunner(target.rpc)
