"""The one strict TOML loader: unknown keys, wrong types and values out of range fail with `file: key`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from codesign.errors import InputError, closest


class StrictModel(BaseModel):
    """Base of everything that is read from TOML: immutable, no unknown keys, no conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=False)


ModelT = TypeVar("ModelT", bound=BaseModel)

LONGEST_SHOWN = 200
"""Characters of a value that a message repeats."""


def read_toml(path: Path) -> dict[str, object]:
    """Parses a TOML file.

    Args:
        path: The file.

    Returns:
        Its top-level table.

    Raises:
        InputError: The file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid TOML ({error}); correct that line") from None


def validate(kind: type[ModelT], values: Mapping[str, object], source: str) -> ModelT:
    """Builds a typed value from a parsed table.

    Args:
        kind: The pydantic model to build.
        values: The parsed table.
        source: Where it came from, for messages; usually the file's path.

    Returns:
        The validated model.

    Raises:
        InputError: A key is unknown or missing, or a value has the wrong type or range; all are listed.
    """
    try:
        return kind.model_validate(_immutable(values))
    except ValidationError as error:
        lines = [_explain(kind, item, source) for item in error.errors()]
        raise InputError("\n".join(lines)) from None


def load(kind: type[ModelT], path: Path) -> ModelT:
    """Reads and validates a TOML file.

    Args:
        kind: The pydantic model to build.
        path: The file.

    Returns:
        The validated model.
    """
    return validate(kind, read_toml(path), str(path))


def _immutable(value: object) -> object:
    """TOML arrays as tuples, which the immutable models hold."""
    if isinstance(value, list):
        return tuple(_immutable(item) for item in value)
    if isinstance(value, Mapping):
        return {str(key): _immutable(item) for key, item in value.items()}
    return value


def _explain(kind: type[BaseModel], item: Mapping[str, object], source: str) -> str:
    location = item["loc"]
    assert isinstance(location, tuple)
    key = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        table = _table_at(kind, location[:-1])
        known = table.model_fields if table is not None else {}
        return f"{source}: {key}: unknown key{closest(str(location[-1]), known)}"
    if item["type"] == "missing":
        return f"{source}: {key}: missing; add it"
    return f"{source}: {key}: {item['msg']}, got {_shown(item['input'])}; correct the value"


def _shown(value: object) -> str:
    """A value in a message: long ones, which nobody reads, by their size."""
    text = repr(value)
    if len(text) <= LONGEST_SHOWN:
        return text
    if isinstance(value, Mapping):
        return f"a table of {len(value)} keys"
    if isinstance(value, tuple | list):
        return f"an array of {len(value)} values"
    return f"{text[:LONGEST_SHOWN]}..."


def _table_at(kind: type[BaseModel], location: tuple[object, ...]) -> type[BaseModel] | None:
    table: type[BaseModel] | None = kind
    for part in location:
        if isinstance(part, int) or table is None:
            continue
        field = table.model_fields.get(str(part))
        if field is None:
            return None
        table = _model_in(field.annotation)
    return table


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
