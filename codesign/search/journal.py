"""What a search has measured, kept so that a search that is started again repeats nothing."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from codesign.errors import CodesignError
from codesign.progress import Progress, Silent

Record = Mapping[str, object]
"""JSON values by name."""


class Journal(Protocol):
    """Records by key; a record that was appended stays."""

    def find(self, key: str) -> Record | None:
        """Looks a record up.

        Args:
            key: Digest of everything that the record depends on.

        Returns:
            The record, or None.
        """

    def append(self, key: str, record: Record) -> None:
        """Adds a record; it is safe when this returns.

        Args:
            key: Digest of everything that the record depends on; not yet in the journal.
            record: JSON values.
        """

    def __len__(self) -> int:
        """Number of records."""


class MemoryJournal:
    """A journal that lasts as long as the program."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def find(self, key: str) -> Record | None:
        """Looks a record up.

        Args:
            key: Its key.

        Returns:
            The record, or None.
        """
        return self._records.get(key)

    def append(self, key: str, record: Record) -> None:
        """Adds a record, as it would be read back from a file.

        Args:
            key: Its key.
            record: JSON values.
        """
        self._records[key] = json.loads(_line(key, record))["record"]

    def __len__(self) -> int:
        return len(self._records)


class FileJournal:
    """A journal in a file of JSON lines `{"key": ..., "record": ...}`.

    Every line is written at once and flushed to the disk before `append` returns, so that a kill can only cut the last
    line short. Such a line is dropped with a note when the file is opened; damage elsewhere is an error.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        """Opens the file, or starts it when the first record comes.

        Args:
            path: The file.
            progress: Told of a dropped line.
        """
        self._path = path
        self._records: dict[str, Record] = {}
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise CodesignError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            key, record = self._parse(line, number)
            self._records[key] = record
        if whole < len(data):
            (progress or Silent()).note(f"{path}: the last line was cut short and is dropped; its step is done again")
            os.truncate(path, whole)

    def find(self, key: str) -> Record | None:
        """Looks a record up.

        Args:
            key: Its key.

        Returns:
            The record, or None.
        """
        return self._records.get(key)

    def append(self, key: str, record: Record) -> None:
        """Adds a record and waits until the disk has it.

        Args:
            key: Its key.
            record: JSON values.

        Raises:
            CodesignError: The disk is full or the file cannot be written; the journal is left as it was.
        """
        line = _line(key, record).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(line)
        except OSError as error:
            raise CodesignError(
                f"{self._path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
            ) from error
        self._records[key] = json.loads(line)["record"]

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            end = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError("the disk took only a part of the line")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)

    def _parse(self, line: bytes, number: int) -> tuple[str, Record]:
        try:
            entry = json.loads(line)
            key, record = entry["key"], entry["record"]
            if not isinstance(key, str) or not isinstance(record, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise CodesignError(
                f"{self._path}: line {number} is damaged; delete that line (its step is done again) or the whole file"
            ) from None
        return key, record

    def __len__(self) -> int:
        return len(self._records)


def _line(key: str, record: Record) -> str:
    return json.dumps({"key": key, "record": dict(record)}, allow_nan=False) + "\n"
