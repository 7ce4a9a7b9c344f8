"""Starts a module in a process without torch: `python -m codesign.backend.start MODULE ARGUMENT...`.

tvm_ffi imports torch where it is installed. That takes longer than compiling or timing a small network, and serves
nothing there.
"""

import runpy
import sys
from collections.abc import Sequence

RUNTIME_ALONE = {"TVM_USE_RUNTIME_LIB": "1"}
"""Environment in which TVM leaves its compiler out as well: for processes that only run networks."""


def start_command(module: str, *arguments: str) -> Sequence[str]:
    """How to start a module of the backend.

    Args:
        module: Dotted name.
        arguments: Its arguments.

    Returns:
        The command.
    """
    return [sys.executable, "-m", "codesign.backend.start", module, *arguments]


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
