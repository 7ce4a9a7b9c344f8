"""Which values of a profile were recalled, inferred or assumed, and not checked against the device.

A profile lists them by keys of dots: `idle_power_w`; `array` (all of it) or `array.clock_hz`; `memories.l2` or
`memories.l2.energy_j_per_byte`, a level by its name; `compute.4x8.macs_per_s`, a row by its widths. Without a name a
key means every level or row: `memories.energy_j_per_byte`, `compute.efficiency`.
"""

from collections.abc import Iterator

from pydantic import BaseModel

from codesign.errors import InputError
from codesign.hardware.profile import ComputeRate, HardwareProfile, MemoryLevel

WORDS = frozenset({"name", "description", "source", "model", "unverified", "calibration"})
"""Keys that describe the profile; they are not properties of the device."""
NAMES_OF_ROWS = frozenset({"weight_bits", "activation_bits"})
"""Keys that tell which row a row is."""


def values_of(profile: HardwareProfile) -> tuple[str, ...]:
    """Full keys of all values that a profile states about its device.

    Args:
        profile: The profile.

    Returns:
        Keys such as `compute.4x8.macs_per_s`, in the order of the file; what is left to a default is not among them.
    """
    return tuple(".".join(path) for path in _paths(profile))


def unverified_values(profile: HardwareProfile) -> frozenset[str]:
    """Full keys of all values that a profile marks as not verified.

    Args:
        profile: The profile.

    Returns:
        A subset of `values_of`.

    Raises:
        InputError: A key of `unverified` means no value of the profile.
    """
    paths = _paths(profile)
    found: set[str] = set()
    for key in profile.unverified:
        meant = {".".join(path) for path in paths if _is_meant(tuple(key.split(".")), path)}
        if not meant:
            raise InputError(
                f"profile {profile.name!r}: unverified: {key!r} means no value that the profile states; keys are such "
                "as 'idle_power_w', 'memories.NAME.energy_j_per_byte', 'compute.4x8.efficiency', or parts of these"
            )
        found |= meant
    return frozenset(found)


def _paths(profile: HardwareProfile) -> tuple[tuple[str, ...], ...]:
    return tuple(_walk(profile, ()))


def _walk(model: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    hidden = WORDS | NAMES_OF_ROWS if isinstance(model, ComputeRate) else WORDS
    for key in type(model).model_fields:
        value = getattr(model, key)
        if key in hidden or key not in model.model_fields_set or value is None:
            continue
        if isinstance(value, BaseModel):
            yield from _walk(value, (*path, key))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for item in value:
                yield from _walk(item, (*path, key, _name_of(item)))
        else:
            yield (*path, key)


def _name_of(item: BaseModel) -> str:
    if isinstance(item, MemoryLevel):
        return item.name
    assert isinstance(item, ComputeRate)
    return f"{item.weight_bits}x{item.activation_bits}"


def _is_meant(key: tuple[str, ...], path: tuple[str, ...]) -> bool:
    every_row = (*path[:1], *path[2:]) if path[0] in {"memories", "compute"} else path
    return key in {path[: len(key)], every_row[: len(key)]}
