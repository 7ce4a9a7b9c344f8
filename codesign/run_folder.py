"""The folder of one run: finished steps are remembered by the digest of what went into them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from codesign.errors import CodesignError, InputError
from codesign.files import digest_of, write_json
from codesign.progress import Progress

_RECORDS = "steps"


class RunFolder:
    """Results of a run on disk, and which of them are still true.

    A step's record holds the digest of its inputs and the digest of each file it wrote. It is written last, so a step
    that was killed has no record and is done again; a file that changed afterwards is noticed and its step done again.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self._progress = progress
        self._records = path / _RECORDS

    def state(self, name: str, key: str) -> str:
        """Whether a step would be done.

        Args:
            name: The step.
            key: Digest of its inputs.

        Returns:
            `done`, `to do`, `out of date` or `corrupt`.
        """
        record = self._record(name)
        if record is None:
            return "to do"
        outputs = record.get("outputs")
        if "key" not in record or not isinstance(outputs, dict):
            return "corrupt"
        if record["key"] != key:
            return "out of date"
        intact = all(self._digest(self.path / file) == digest for file, digest in outputs.items())
        return "done" if intact else "corrupt"

    def step(self, name: str, key: str, compute: Callable[[], Iterable[Path]]) -> bool:
        """Does a step unless its result is there.

        Args:
            name: The step; may contain `/`.
            key: Digest of everything that its result depends on.
            compute: Does the work and returns the files that it wrote, each of which appeared whole or not at all.

        Returns:
            Whether the work was done now.

        Raises:
            CodesignError: `compute` did not write a file that it named.
        """
        state = self.state(name, key)
        if state == "done":
            return False
        if state == "corrupt":
            self._progress.note(f"{self.path / name}: the stored result is damaged; it is computed again")
        self._record_path(name).unlink(missing_ok=True)
        digests = {str(path.relative_to(self.path)): self._digest(path) for path in compute()}
        missing = [file for file, digest in digests.items() if digest is None]
        if missing:
            raise CodesignError(f"step {name!r} did not write {missing}; free some space and repeat the command")
        write_json(self._record_path(name), {"key": key, "outputs": digests})
        return True

    @staticmethod
    def read_json(path: Path) -> dict[str, object]:
        """Reads a result.

        Args:
            path: The file.

        Returns:
            Its top-level object.

        Raises:
            InputError: The file is missing or is not a JSON object.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); repeat `codesign run`") from None
        if not isinstance(value, dict):
            raise InputError(f"{path}: is not a JSON object; delete it and repeat `codesign run`")
        return value

    def _record_path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _record(self, name: str) -> dict[str, object] | None:
        path = self._record_path(name)
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @staticmethod
    def _digest(path: Path) -> str | None:
        return digest_of(path) if path.is_file() else None
