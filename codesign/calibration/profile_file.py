"""Writes a profile with its calibration as TOML, so that it loads by its path like any other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from codesign.files import write_bytes
from codesign.hardware.profile import HardwareProfile


def write_profile(profile: HardwareProfile, path: Path, comment: Sequence[str]) -> None:
    """Writes a profile.

    Args:
        profile: The profile; its name must be that of the file.
        path: A `.toml` file.
        comment: Lines that stand on top.
    """
    values = profile.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    lines = [*(f"# {line}" for line in comment), *_table(values, "")]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _table(values: Mapping[str, object], prefix: str) -> Iterator[str]:
    """Plain values first, then tables, then arrays of tables, as TOML wants it."""
    nested = {key: value for key, value in values.items() if _is_nested(value)}
    for key, value in values.items():
        if key not in nested:
            yield f"{key} = {_value(value)}"
    for key, value in nested.items():
        name = f"{prefix}{key}"
        rows = value if isinstance(value, list) else [value]
        header = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
        for row in rows:
            assert isinstance(row, Mapping)
            yield from ("", header)
            yield from _table(row, f"{name}.")


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _value(value: object) -> str:
    """One value; JSON's strings, numbers and arrays are TOML's, too."""
    if isinstance(value, float):
        return repr(value)  # always with a point or an exponent, which TOML reads as a float
    return json.dumps(value, ensure_ascii=True)
