"""What a shared library (ELF file) says of itself: for which processor, and whether all of it is there."""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import InputError

MAGIC = b"\x7fELF"
MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""ELF's numbers of processors under Linux's names of machines."""
_HEADER_BYTES, _WIDE, _LITTLE = 64, 2, 1
_ALIASES = (
    (r"i[3-6]86", "i386"),
    (r"amd64", "x86_64"),
    (r"arm64", "aarch64"),
    (r"armv\d.*", "arm"),
    (r"thumbv\d.*", "thumb"),
)


@dataclass(frozen=True)
class ElfHeader:
    """What the first bytes of a file say.

    Attributes:
        machine: Such as `x86_64`.
        size: Bytes that the whole file must have: linkers write the section table last. 0 if there is no such table.
    """

    machine: str
    size: int


def elf_header(start: bytes) -> ElfHeader | None:
    """Reads the first bytes of a library or program.

    Args:
        start: At least its first 64 bytes.

    Returns:
        What they say, or None if they are not those of an ELF file.
    """
    if len(start) < _HEADER_BYTES or start[:4] != MAGIC:
        return None
    order = "<" if start[5] == _LITTLE else ">"
    (machine,) = struct.unpack_from(order + "H", start, 18)
    if start[4] == _WIDE:
        (sections,) = struct.unpack_from(order + "Q", start, 40)
        entry, count = struct.unpack_from(order + "HH", start, 58)
    else:
        (sections,) = struct.unpack_from(order + "I", start, 32)
        entry, count = struct.unpack_from(order + "HH", start, 46)
    return ElfHeader(MACHINES.get(machine, f"machine {machine}"), sections + entry * count)


def library_machine(path: Path) -> str:
    """The machine that a library was made for.

    Args:
        path: The library.

    Returns:
        Such as `aarch64`.

    Raises:
        InputError: It is missing, no library, or cut off.
    """
    try:
        with path.open("rb") as file:
            header = elf_header(file.read(_HEADER_BYTES))
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); compile the network again") from None
    if header is None:
        raise InputError(f"{path}: is no shared library; compile the network again")
    if size < header.size:
        raise InputError(f"{path}: is cut off, it has {size} of {header.size} bytes; copy or compile it again")
    return header.machine


def refuse_other_machine(path: Path, machine: str) -> None:
    """Refuses a library that a device cannot load, before anybody tries.

    Args:
        path: The library.
        machine: The device, such as `aarch64`.

    Raises:
        InputError: It is made for another machine.
    """
    made_for = library_machine(path)
    if made_for != machine:
        raise InputError(
            f"{path}: is compiled for {made_for}, this device is {machine}; compile for a target of that kind"
        )


def architecture_of_triple(mtriple: str) -> str:
    """The architecture that a target triple names.

    Args:
        mtriple: Such as `armv7l-linux-gnueabihf`.

    Returns:
        LLVM's name of it, such as `arm`.
    """
    first = mtriple.partition("-")[0]
    for pattern, name in _ALIASES:
        if re.fullmatch(pattern, first):
            return name
    return first


def machine_of_triple(mtriple: str) -> str:
    """The machine that a target triple names, as `check_library` knows it.

    Args:
        mtriple: Such as `aarch64-linux-gnu`.

    Returns:
        Such as `aarch64`.
    """
    architecture = architecture_of_triple(mtriple)
    return "arm" if architecture == "thumb" else architecture
