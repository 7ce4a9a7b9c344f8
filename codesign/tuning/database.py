"""What was found of kernels, on disk and shared by all runs: one small JSON file a kernel, replaced at once.

    tuning/CONDITIONS/conditions.json   processor, instruction set, threads, TVM and the templates' sources
    tuning/CONDITIONS/KERNEL.json       a record

Names are digests. All that the best loops of a kernel depend on is in the conditions: for a new version of the
templates everything is measured anew.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from codesign.backend.kernels.parameters import KernelParameters
from codesign.calibration.samples import Conditions
from codesign.files import digest_of, write_bytes, write_json


@dataclass(frozen=True)
class TuningRecord:
    """What was found of one kernel.

    Attributes:
        kernel: Its identity (backend/kernels/layer_kernel.py).
        parameters: The best loops, those of the rules where nothing is faster beyond noise.
        seconds: Of one call with them.
        default_seconds: Of one call with the loops of the rules, measured side by side.
        candidates: Loops that were measured, those of the rules included.
        failed: Loops that could not be compiled, crashed or ran for too long.
        date: Day, as YYYY-MM-DD.
    """

    kernel: str
    parameters: KernelParameters
    seconds: float
    default_seconds: float
    candidates: int
    failed: int
    date: str


_RECORD = TypeAdapter(TuningRecord)


class TuningDatabase:
    """Records of one processor, number of threads and version of the compiler.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path, conditions: Conditions, note: Callable[[str], None]) -> None:
        """Opens it; the folder is made when something is stored.

        Args:
            folder: Of all databases.
            conditions: What measurements depend on besides the kernel.
            note: Told of damaged records.
        """
        self._conditions = dataclasses.asdict(conditions)
        self._note = note
        self.folder = folder / digest_of(self._conditions)

    def path_of(self, kernel: str) -> Path:
        """Where a record is.

        Args:
            kernel: Identity of the kernel.

        Returns:
            The file; it may not exist.
        """
        return self.folder / f"{digest_of(kernel)}.json"

    def find(self, kernel: str) -> TuningRecord | None:
        """Looks a kernel up.

        Args:
            kernel: Its identity.

        Returns:
            The record; None if there is none, or if it is damaged, which is noted.
        """
        path = self.path_of(kernel)
        try:
            record = _RECORD.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = getattr(error, "strerror", None) or "is no record"
            self._note(f"{path}: damaged ({reason}), so that this kernel counts as not tuned; delete the file")
            return None
        if record.kernel != kernel:
            self._note(f"{path}: is of another kernel, so that this one counts as not tuned; delete the file")
            return None
        return record

    def store(self, record: TuningRecord) -> None:
        """Writes a record, at once or not at all.

        Args:
            record: The record; it replaces an older one.
        """
        about = self.folder / "conditions.json"
        if not about.exists():
            write_json(about, self._conditions)
        write_bytes(self.path_of(record.kernel), _RECORD.dump_json(record, indent=1) + b"\n")
