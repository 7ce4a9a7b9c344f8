"""Asks the operating system for the tile registers of AMX, which Linux gives to a process only when it asks."""

import ctypes
import platform
import sys

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Numbers of Linux on x86-64: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`."""


def request_amx() -> bool:
    """Asks for permission to use AMX in this process and all its threads; asking again changes nothing.

    Returns:
        Whether AMX can be used; False where the processor or the operating system has none.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0
