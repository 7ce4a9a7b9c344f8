"""Journals: nothing that was appended is lost, and damage is noticed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codesign.errors import CodesignError
from codesign.progress import Silent
from codesign.search.journal import FileJournal, Journal, MemoryJournal

RECORD = {"loss": 0.1, "bits": [2, 4], "text": "line\u2028break\n", "none": None}


@pytest.fixture(params=["memory", "file"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return MemoryJournal() if request.param == "memory" else FileJournal(tmp_path / "folder" / "journal.jsonl")


def test_records_are_found_by_key(journal: Journal) -> None:
    assert journal.find("a") is None
    journal.append("a", RECORD)
    journal.append("b", {"tuple": (1, 2)})
    assert journal.find("a") == RECORD
    assert journal.find("b") == {"tuple": [1, 2]}  # as a file would give it back
    assert len(journal) == 2


def test_nan_is_refused_and_leaves_nothing(journal: Journal) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        journal.append("a", {"loss": float("nan")})
    assert len(journal) == 0


def test_a_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    FileJournal(path).append("a", RECORD)
    FileJournal(path).append("b", {"loss": 1 / 3})
    again = FileJournal(path)
    assert (again.find("a"), again.find("b"), len(again)) == (RECORD, {"loss": 1 / 3}, 2)


def test_a_line_cut_short_anywhere_is_dropped_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = FileJournal(path)
    journal.append("a", RECORD)
    whole = path.stat().st_size
    journal.append("b", RECORD)
    data = path.read_bytes()
    for length in range(whole + 1, len(data)):
        path.write_bytes(data[:length])
        notes: list[str] = []
        cut = FileJournal(path, Silent(notes.append))
        assert (len(cut), cut.find("a"), cut.find("b")) == (1, RECORD, None)
        assert notes == [f"{path}: the last line was cut short and is dropped; its step is done again"]
        cut.append("c", RECORD)
        assert len(FileJournal(path)) == 2


@pytest.mark.parametrize("damage", ["{", "[]", '{"key": 1, "record": {}}', '{"key": "x"}', "\x00\x00", ""])
def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.jsonl"
    for key in "abc":
        FileJournal(path).append(key, RECORD)
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], damage, *lines[2:]]))
    with pytest.raises(CodesignError, match=r"journal.jsonl: line 2 is damaged; delete that line"):
        FileJournal(path)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal = FileJournal(path)
    journal.append("a", RECORD)
    before = path.read_bytes()
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(CodesignError, match=r"cannot be written .No space left on device.; free some space"):
        journal.append("b", RECORD)
    assert path.read_bytes() == before
    assert journal.find("b") is None


def test_a_folder_in_its_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CodesignError, match="cannot be read"):
        FileJournal(tmp_path)


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        "import sys\nfrom pathlib import Path\nfrom codesign.search.journal import FileJournal\n"
        "journal = FileJournal(Path(sys.argv[1]))\n"
        "for i in range(10**9):\n    journal.append(str(i), {'i': i})\n    print(i, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "20\n":
            pass
        process.send_signal(signal.SIGKILL)
        told = [20, *(int(line) for line in process.stdout.read().splitlines() if line)]
    survived = FileJournal(path)
    assert len(survived) >= told[-1] + 1
    assert all(survived.find(str(i)) == {"i": i} for i in range(told[-1] + 1))
