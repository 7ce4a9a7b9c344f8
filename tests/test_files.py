import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.errors import CodesignError
from codesign.files import digest_of, remove_leftovers, replacing, write_bytes, write_json


def test_a_file_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with replacing(path) as temporary:
        assert temporary.suffix == ".bin"
        assert temporary.parent == path.parent
        temporary.write_bytes(b"12")
        assert not path.exists()
    assert path.read_bytes() == b"12"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CodesignError, match=r"a\.bin: cannot be written \(No space left on device\); free some space"):
        write_bytes(tmp_path / "a.bin", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CodesignError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "a.bin", b"x")


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [1.5, None]})
    assert path.read_text() == '{\n "a": [\n  1.5,\n  null\n ],\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text())["b"] == 1


PARTS = st.lists(st.binary(max_size=4) | st.text(max_size=4) | st.integers(-3, 3), max_size=4)


@given(PARTS, PARTS)
def test_digests_differ_exactly_where_the_parts_do(a: list[object], b: list[object]) -> None:
    same = len(a) == len(b) and all(type(x) is type(y) and x == y for x, y in zip(a, b, strict=True))
    assert (digest_of(*a) == digest_of(*b)) == same
    assert len(digest_of(*a)) == 32


def test_the_digest_of_a_path_is_that_of_its_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b") == digest_of(b"same")
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_kept(tmp_path: Path) -> None:
    script = "import os, signal, sys; from pathlib import Path; from codesign.files import replacing\n"
    script += "with replacing(Path(sys.argv[1])) as p: p.write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "deep" / "a.b.json")], check=False)
    assert killed.returncode == -9
    (left,) = (tmp_path / "deep").iterdir()
    kept = tmp_path / "other.partial.json"
    kept.write_text("")
    with replacing(tmp_path / "mine.json") as mine:
        mine.write_text("1")
        remove_leftovers(tmp_path)
        assert mine.exists()
    assert not left.exists()
    assert kept.exists()
    remove_leftovers(tmp_path / "absent")
