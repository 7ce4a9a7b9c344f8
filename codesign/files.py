"""Writing files so that a reader never sees half of one, and digests of their contents."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codesign.errors import CodesignError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hands out a temporary path beside `path` and renames it to `path` when the block ends without an error.

    Args:
        path: Where the finished file shall stand; its folder is created.

    Yields:
        The temporary path to write to, with the same suffix as `path`.

    Raises:
        CodesignError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CodesignError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # the folder may be what failed
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` at once or not at all.

    Args:
        path: Destination.
        data: Contents.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON with sorted keys, at once or not at all.

    Args:
        path: Destination.
        value: Anything that `json` takes; NaN and infinity are refused.
    """
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def digest_of(*parts: object) -> str:
    """Hexadecimal SHA-256 over parts that are bytes, paths (their contents) or JSON values.

    Args:
        *parts: What the digest covers, in order.

    Returns:
        The first 32 hexadecimal digits.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            inner = hashlib.sha256(part).digest()
        elif isinstance(part, Path):
            with part.open("rb") as file:
                inner = hashlib.file_digest(file, "sha256").digest()
        else:
            inner = hashlib.sha256(json.dumps(part, sort_keys=True).encode()).digest()
        total.update(inner)
    return total.hexdigest()[:32]


def remove_leftovers(folder: Path) -> None:
    """Removes what `replacing` was writing below a folder in processes that were killed.

    Args:
        folder: May not exist.
    """
    for path in folder.rglob(".*.partial*"):
        process = path.name.partition(".partial")[0].rpartition(".")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
