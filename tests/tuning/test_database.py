"""Records on disk: whole or not there, shared by processes, apart by conditions, and never trusted when damaged."""

import dataclasses
import multiprocessing
from pathlib import Path

import pytest

from codesign.backend.kernels.parameters import AmxTiling, VectorTiling
from codesign.calibration.samples import Conditions
from codesign.tuning.database import TuningDatabase, TuningRecord

HERE = Conditions("a processor", 1, "vectors", "tvm 1", "templates")
RECORD = TuningRecord("a kernel", VectorTiling(8, 2), 1e-6, 1.2e-6, 9, 1, "2026-11-26")


def _database(folder: Path, conditions: Conditions = HERE) -> tuple[TuningDatabase, list[str]]:
    notes: list[str] = []
    return TuningDatabase(folder, conditions, notes.append), notes


def test_what_was_stored_is_found_by_another_run(tmp_path: Path) -> None:
    first, _ = _database(tmp_path)
    assert first.find("a kernel") is None
    first.store(RECORD)
    other = dataclasses.replace(RECORD, kernel="another", parameters=AmxTiling(2, 2, True))
    first.store(other)
    second, notes = _database(tmp_path)
    assert (second.find("a kernel"), second.find("another"), second.find("a third")) == (RECORD, other, None)
    assert notes == []
    better = dataclasses.replace(RECORD, seconds=0.9e-6)
    second.store(better)
    assert first.find("a kernel") == better


@pytest.mark.parametrize(
    "change", [{"device": "another"}, {"threads": 2}, {"instructions": "AMX"}, {"compiler": "tvm 2"}]
)
def test_conditions_are_kept_apart(tmp_path: Path, change: dict[str, object]) -> None:
    _database(tmp_path)[0].store(RECORD)
    assert _database(tmp_path, dataclasses.replace(HERE, **change))[0].find("a kernel") is None  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"kernel": "a kernel"}', b"\xff\xfe"])
def test_damage_is_noted_and_the_record_written_anew(tmp_path: Path, damage: bytes) -> None:
    database, notes = _database(tmp_path)
    database.store(RECORD)
    path = database.path_of("a kernel")
    path.write_bytes(damage)
    assert database.find("a kernel") is None
    assert f"{path}: damaged" in notes[0]
    database.store(RECORD)
    assert database.find("a kernel") == RECORD


def test_a_record_of_another_kernel_is_noted(tmp_path: Path) -> None:
    database, notes = _database(tmp_path)
    database.store(RECORD)
    database.path_of("a kernel").rename(database.path_of("other"))
    assert database.find("other") is None
    assert "is of another kernel" in notes[0]


def _store_many(folder: Path, number: int) -> None:
    database, _ = _database(folder)
    for turn in range(30):
        database.store(dataclasses.replace(RECORD, seconds=number + turn / 100))


def test_several_processes_never_leave_half_a_record(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_store_many, args=(tmp_path, n)) for n in (1, 2)]
    for process in processes:
        process.start()
    database, notes = _database(tmp_path)
    while any(process.is_alive() for process in processes):
        record = database.find("a kernel")
        assert record is None or dataclasses.replace(record, seconds=RECORD.seconds) == RECORD
    assert notes == []
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(database.folder.iterdir())) == 2  # the record and the conditions
