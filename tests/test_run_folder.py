from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from codesign.errors import CodesignError, InputError
from codesign.files import write_bytes
from codesign.progress import Silent
from codesign.run_folder import RunFolder


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path, notes: list[str]) -> RunFolder:
    return RunFolder(tmp_path, Silent(notes.append))


def _writer(folder: RunFolder, calls: list[str], text: str = "result") -> Callable[[], Iterable[Path]]:
    def compute() -> list[Path]:
        calls.append(text)
        write_bytes(folder.path / "sub" / "out.txt", text.encode())
        return [folder.path / "sub" / "out.txt"]

    return compute


def test_a_step_is_done_once_for_each_key(folder: RunFolder, notes: list[str]) -> None:
    calls: list[str] = []
    assert folder.state("a/b", "k1") == "to do"
    assert folder.step("a/b", "k1", _writer(folder, calls, "one"))
    assert folder.state("a/b", "k1") == "done"
    assert not folder.step("a/b", "k1", _writer(folder, calls, "again"))
    assert folder.state("a/b", "k2") == "out of date"
    assert folder.step("a/b", "k2", _writer(folder, calls, "two"))
    assert folder.state("a/b", "k1") == "out of date"
    assert calls == ["one", "two"]
    assert notes == []
    assert RunFolder(folder.path, Silent()).state("a/b", "k2") == "done"


@pytest.mark.parametrize("damage", ["changed", "gone", "folder"])
def test_a_damaged_output_is_computed_again_with_a_note(folder: RunFolder, notes: list[str], damage: str) -> None:
    calls: list[str] = []
    folder.step("a", "k", _writer(folder, calls))
    output = folder.path / "sub" / "out.txt"
    output.unlink()
    if damage == "changed":
        output.write_text("resulT")
    elif damage == "folder":
        output.mkdir()
    assert folder.state("a", "k") == "corrupt"
    if damage == "folder":
        output.rmdir()
    assert folder.step("a", "k", _writer(folder, calls))
    assert output.read_text() == "result"
    assert notes == [f"{folder.path / 'a'}: the stored result is damaged; it is computed again"]
    assert folder.state("a", "k") == "done"


@pytest.mark.parametrize("record", ["", "{", "[]", "null", '{"key": "k"}', '{"key": "k", "outputs": 3}', "\x00"])
def test_a_damaged_record_is_computed_again_with_a_note(folder: RunFolder, notes: list[str], record: str) -> None:
    calls: list[str] = []
    folder.step("a", "k", _writer(folder, calls))
    (folder.path / "steps" / "a.json").write_text(record)
    assert folder.state("a", "k") == "corrupt"
    assert folder.step("a", "k", _writer(folder, calls))
    assert len(calls) == 2
    assert len(notes) == 1


def test_a_step_that_dies_leaves_no_record(folder: RunFolder) -> None:
    calls: list[str] = []
    folder.step("a", "k", _writer(folder, calls))

    def dies() -> list[Path]:
        write_bytes(folder.path / "sub" / "out.txt", b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.step("a", "other", dies)
    assert folder.state("a", "k") == "to do"
    assert folder.state("a", "other") == "to do"


def test_a_step_that_does_not_write_what_it_names_is_an_error(folder: RunFolder) -> None:
    with pytest.raises(CodesignError, match=r"step 'a' did not write \['absent.txt'\]; free some space"):
        folder.step("a", "k", lambda: [folder.path / "absent.txt"])
    assert folder.state("a", "k") == "to do"


def test_reading_a_result(folder: RunFolder) -> None:
    path = folder.path / "a.json"
    for text in ("{", "[1]", None):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(InputError, match="repeat `codesign run`"):
            folder.read_json(path)
    path.write_text('{"a": 1}')
    assert folder.read_json(path) == {"a": 1}
