"""What is told of a library from its first bytes."""

import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.backend.shared_library import (
    MACHINES,
    architecture_of_triple,
    elf_header,
    library_machine,
    machine_of_triple,
    refuse_other_machine,
)
from codesign.errors import InputError


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "one.c").write_text("int one(void) { return 1; }\n")
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "a C compiler is needed, as TVM itself needs one"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "one.so", folder / "one.c"], check=True)
    return folder / "one.so"


def test_a_whole_library_of_this_machine(library: Path) -> None:
    assert library_machine(library) == platform.machine()
    refuse_other_machine(library, platform.machine())
    start = Path(sys.executable).resolve().read_bytes()[:64]
    header = elf_header(start)
    assert header is not None
    assert header.machine == platform.machine()


@given(st.data())
def test_a_library_that_is_cut_off_anywhere_is_refused(library: Path, data: st.DataObject) -> None:
    whole = library.read_bytes()
    cut = library.with_name("cut.so")
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InputError, match=r"cut\.so: is (cut off, it has \d+ of \d+ bytes|no shared library)"):
        library_machine(cut)


@given(st.sampled_from(sorted(MACHINES.items())), st.booleans(), st.booleans())
def test_the_machine_is_read_in_each_form(machine: tuple[int, str], wide: bool, little: bool) -> None:
    number, name = machine
    order = "<" if little else ">"
    start = bytearray(64)
    start[:6] = b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2])
    struct.pack_into(order + "H", start, 18, number)
    struct.pack_into(order + ("Q" if wide else "I"), start, 40 if wide else 32, 1000)
    struct.pack_into(order + "HH", start, 58 if wide else 46, 64, 10)
    header = elf_header(bytes(start))
    assert header is not None
    assert (header.machine, header.size) == (name, 1640)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_library(start: bytes) -> None:
    assert elf_header(start) is None or start[:4] == b"\x7fELF"


def test_another_machine_and_a_missing_file(library: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"is compiled for {platform.machine()}, this device is riscv64; compile for"):
        refuse_other_machine(library, "riscv64")
    with pytest.raises(InputError, match=r"none\.so: cannot be read"):
        library_machine(tmp_path / "none.so")


@pytest.mark.parametrize(
    ("triple", "architecture", "machine"),
    [
        ("aarch64-linux-gnu", "aarch64", "aarch64"),
        ("arm64-apple-darwin", "aarch64", "aarch64"),
        ("i686-linux-gnu", "i386", "i386"),
        ("armv7l-linux-gnueabihf", "arm", "arm"),
        ("thumbv7em-none-eabihf", "thumb", "arm"),
        ("riscv64-unknown-linux-gnu", "riscv64", "riscv64"),
    ],
)
def test_triples(triple: str, architecture: str, machine: str) -> None:
    assert (architecture_of_triple(triple), machine_of_triple(triple)) == (architecture, machine)
