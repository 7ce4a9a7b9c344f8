"""What stands beside an artefact: a JSON file with what a runner must know to load it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codesign.errors import MeasurementError
from codesign.files import write_json


@dataclass(frozen=True)
class Sidecar:
    """Facts of an artefact.

    Attributes:
        compiler: Which compiler made it.
        target: Name of its target.
        plan_digest: Which plan it executes.
        input_shape: Shape of the input, batch of one included.
        output_shape: Shape of the logits.
        threads: Threads that it was compiled for.
        weight_bytes: Bytes of weights as stored.
        processor: LLVM's name of the processor it was compiled for; empty where the compiler makes no machine code.
        arena_bytes: Memory for intermediate results of one run; 0 where the compiler does not plan it.
        bfloat16_layers: Layers in float32 that multiply operands rounded to bfloat16.
    """

    compiler: str
    target: str
    plan_digest: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    threads: int
    weight_bytes: int
    processor: str = ""
    arena_bytes: int = 0
    bfloat16_layers: int = 0

    def write(self, artifact: Path) -> None:
        """Writes it beside an artefact.

        Args:
            artifact: Path of the artefact.
        """
        write_json(artifact.with_suffix(".json"), asdict(self))


def read_sidecar(artifact: Path) -> Sidecar:
    """Reads the facts of an artefact.

    Args:
        artifact: Path of the artefact.

    Returns:
        The facts.

    Raises:
        MeasurementError: They are missing or damaged.
    """
    path = artifact.with_suffix(".json")
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        shapes = {key: tuple(int(size) for size in values[key]) for key in ("input_shape", "output_shape")}
        return Sidecar(**(values | shapes))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MeasurementError(f"{path}: missing or damaged ({error}); compile the artefact again") from error
