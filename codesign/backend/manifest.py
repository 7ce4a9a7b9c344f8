"""`manifest.json` of an artefact's folder: what the library is, for whom, and what goes in and out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from codesign.backend.kernels.parameters import KernelParameters
from codesign.errors import InputError
from codesign.files import digest_of, write_json

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class TensorEntry:
    """An input or output of the network; the library itself takes and gives float32.

    Attributes:
        name: As in the ONNX file.
        shape: With a batch of one.
        dtype: `float32`.
        scale: Real distance of neighbouring integers into which the network rounds an input, or that it makes an
            output of; None in floating point.
        zero_point: Integer that stands for 0; None in floating point.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class CompiledFor:
    """Where the library runs.

    Attributes:
        name: Name of the target.
        machine: Such as `aarch64`.
        mcpu: LLVM's name of the processor.
        mtriple: LLVM's target triple, None for the machine that compiled it.
        threads: Threads that its kernels are scheduled for.
    """

    name: str
    machine: str
    mcpu: str
    mtriple: str | None
    threads: int


@dataclass(frozen=True)
class TunedKernel:
    """A kernel whose loops a tuner chose.

    Attributes:
        kernel: What it computes, in words.
        identity: The same exactly (kernels/layer_kernel.py).
        parameters: Its loops.
        seconds: Of one call, when it was tuned.
        default_seconds: Of one call with the loops of the rules, measured beside it.
        date: When it was tuned, as YYYY-MM-DD.
    """

    kernel: str
    identity: str
    parameters: KernelParameters
    seconds: float
    default_seconds: float
    date: str


@dataclass(frozen=True)
class Manifest:
    """An artefact.

    Attributes:
        format: Version of this file's form.
        plan_digest: Which plan it executes, or a digest of the network.
        library: Path of the library in the folder.
        network: Path of the ONNX file in the folder.
        digests: By path in the folder, of each file that must not change.
        target: Where it runs.
        inputs: What goes in.
        outputs: What comes out.
        weight_bytes: Weights as stored in the library.
        versions: Of codesign and of TVM, which must be the same on the device.
        tuned: Kernels whose loops a tuner chose; rules chose those of all others.
        bfloat16_layers: Layers in float32 that multiply operands rounded to bfloat16.
    """

    format: int
    plan_digest: str
    library: str
    network: str
    digests: dict[str, str]
    target: CompiledFor
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    weight_bytes: int
    versions: dict[str, str]
    tuned: tuple[TunedKernel, ...] = ()
    bfloat16_layers: int = 0

    @property
    def arithmetic_note(self) -> str:
        """What a reader of numbers must know: that products of float32 layers were rounded; empty otherwise."""
        if not self.bfloat16_layers:
            return ""
        return f"{self.bfloat16_layers} layer(s) in float32 multiply operands rounded to bfloat16"

    def write(self, folder: Path) -> None:
        """Writes it.

        Args:
            folder: The artefact's folder.
        """
        write_json(folder / MANIFEST, asdict(self))


def read_manifest(folder: Path) -> Manifest:
    """Reads a manifest and checks that the files are those that it describes.

    Args:
        folder: The artefact's folder.

    Returns:
        The manifest.

    Raises:
        InputError: It is missing or damaged, of another form, or a file of the artefact is missing or changed.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise InputError(f"{path}: cannot be read ({reason}); name a folder that `codesign compile` wrote") from None
    try:
        if json.loads(text).get("format") != FORMAT:
            raise InputError(f"{path}: format is not {FORMAT}; compile the network with this version of codesign")
        manifest = TypeAdapter(Manifest).validate_json(text)
    except (ValueError, AttributeError, ValidationError) as error:
        raise InputError(f"{path}: is damaged ({str(error).splitlines()[0]}); compile the network again") from None
    for name in (manifest.library, manifest.network):
        if name not in manifest.digests:
            raise InputError(f"{path}: has no digest of {name!r}; compile the network again")
    for name, digest in manifest.digests.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: is missing; copy the whole folder, or compile the network again")
        if digest_of(file) != digest:
            raise InputError(f"{file}: is not what {path} describes (cut off or changed); copy or compile it again")
    return manifest
