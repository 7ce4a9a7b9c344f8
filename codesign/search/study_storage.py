"""Where the trials of a search are kept, so that several processes and machines can share them."""

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from codesign.errors import InputError, first_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "journal:"
"""How the name of a journal file begins; any other name is a database URL."""


class KernelLock(JournalFileOpenLock):
    """A lock that the system gives back when its holder dies, however it dies.

    Optuna's own locks are files that outlive a killed process, so that the others wait for half a minute.

    Args:
        path: The file that is protected; `path.lock` is locked.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock.

        Returns:
            True.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Gives the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_storage(name: str) -> "BaseStorage":
    """Opens or creates a storage.

    Args:
        name: `journal:PATH` for a file, or a URL that Optuna knows, such as `sqlite:///study.db` or
            `postgresql://user@host/studies`.

    Returns:
        The storage.

    Raises:
        InputError: It cannot be reached, or the name is of neither form.
    """
    if name.startswith(JOURNAL):
        return _journal(Path(name.removeprefix(JOURNAL)))
    if "://" not in name:
        raise InputError(
            f"storage: got {name!r}; give journal:PATH or a database URL such as postgresql://user@host/studies"
        )
    try:
        return RDBStorage(name)
    except Exception as error:  # each database's driver has errors of its own
        raise InputError(
            f"storage: {_without_password(name)} cannot be used ({first_line(error)}); check that the server runs, "
            "that its driver is installed and that the database exists"
        ) from error


def _journal(path: Path) -> JournalStorage:
    lock = KernelLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        try:
            _drop_broken_end(path)
        finally:
            lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"storage: the journal {path} cannot be used ({first_line(error)}); check the path, or delete the file to "
            "begin anew"
        ) from error


def _drop_broken_end(path: Path) -> None:
    """A process that was killed while it wrote may leave half a line, after which nobody could read on."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    return f"{scheme}://{account.partition(':')[0]}{at}{host}"
