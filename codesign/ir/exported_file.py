"""Files written by `torch.export.save`, looked through for code before torch reads them."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from codesign.errors import InputError

_EXPRESSION_CALLS = frozenset({
    *(
        "Abs",
        "Add",
        "CeilDiv",
        "CeilToInt",
        "CleanDiv",
        "Eq",
        "FloorDiv",
        "FloorToInt",
        "Ge",
        "Gt",
        "Identity",
        "Integer",
    ),
    *(
        "IntTrueDiv",
        "Le",
        "Lt",
        "Max",
        "Min",
        "Mod",
        "ModularIndexing",
        "Mul",
        "Ne",
        "Pow",
        "PowByNatural",
        "PythonMod",
    ),
    *("Rational", "Symbol", "Where", "floor", "ceiling"),
})
_EXPRESSION = re.compile(r"[\w\s'(),=*+/<>!&|-]*")
_CALL = re.compile(r"([^\W\d]\w*)\s*\(")


def read_exported(path: Path) -> torch.export.ExportedProgram:
    """Reads a `.pt2` file that holds tensors and a graph, and no pickled Python objects.

    Args:
        path: Written by `torch.export.save` of torch 2.8 or later.

    Returns:
        The program; its guards are dropped, as they are stored as Python code.

    Raises:
        InputError: The file is missing, damaged, from an older torch, or holds pickled objects or code.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_code(archive, path)
        exported = torch.export.load(path)
    except InputError:
        raise
    except Exception as error:  # torch has no type of its own for damaged files
        raise InputError(f"{path}: is not a whole file of torch.export.save ({error}); save it again") from error
    exported._guards_code = []  # it would be executed; there is no public way to drop it
    return exported


def _refuse_code(archive: zipfile.ZipFile, path: Path) -> None:
    names = archive.namelist()
    if not any(name.endswith("/archive_format") for name in names):
        raise InputError(f"{path}: is not a whole file of torch.export.save, or of one before torch 2.8; save it again")
    for name in names:
        folder = name.split("/", 1)[-1]
        if folder.startswith("data/sample_inputs/"):
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)
        elif folder.startswith(("data/weights/", "data/constants/")) and folder.endswith(".pt"):
            raise _pickled(path, name)
        elif folder.endswith(".json"):
            for key, value in _entries(json.loads(archive.read(name))):
                if key == "use_pickle" and value:
                    raise _pickled(path, name)
                if key == "expr_str" and not _is_expression(str(value)):
                    raise InputError(
                        f"{path}: {name} holds {value!r} where a size should stand; export the network again"
                    )


def _pickled(path: Path, name: str) -> InputError:
    return InputError(f"{path}: {name} holds pickled Python objects, which are not loaded; export plain tensors only")


def _entries(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _is_expression(text: str) -> bool:
    return _EXPRESSION.fullmatch(text) is not None and set(_CALL.findall(text)) <= _EXPRESSION_CALLS
