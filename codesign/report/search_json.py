"""`search.json`: everything that the page of a joint search shows, for programs, and read back."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from codesign.errors import InputError
from codesign.files import write_json
from codesign.report.search_contents import JointSearch

_SEARCH = TypeAdapter(JointSearch)
_PREDICTED = {
    "peak_memory_bytes": "exact",
    "weight_bytes": "exact",
    "float_loss": "measured",
    "kernels": "exact",
    "measured_kernels": "exact",
}
_MEASURED = {"accuracy": "measured", "loss": "measured", "artifact_weight_bytes": "exact"}


def write_search_json(search: JointSearch, path: Path) -> None:
    """Writes a joint search for programs, at once or not at all.

    Args:
        search: What was found.
        path: Destination.
    """
    write_json(path, search_to_json(search))


def read_search_json(path: Path) -> JointSearch:
    """The inverse of `write_search_json`.

    Args:
        path: The file.

    Returns:
        What was found.

    Raises:
        InputError: The file cannot be read, or holds something else; what is wrong first is named.
    """
    try:
        return _SEARCH.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {key}: {first['msg']}; write the report again") from None


def search_to_json(search: JointSearch) -> dict[str, object]:
    """A joint search as JSON values.

    Keys are the names of fields. What kind of number each one is stands under `provenance` beside it, with the same
    key.

    Args:
        search: What was found.

    Returns:
        Dictionaries, lists, strings and finite numbers.

    Raises:
        InputError: A number is NaN or infinite; it is named.
    """
    value: dict[str, Any] = _SEARCH.dump_python(search, mode="json")
    for key, number in _numbers(value):
        if not math.isfinite(number):
            raise InputError(f"report of {search.name}: {key} is {number}; leave out what was not found")
    value["provenance"] = {"seconds": "measured"}
    if value["elastic"] is not None:
        value["elastic"]["provenance"] = {"epochs": "exact", "seconds": "measured", "parameters": "exact"}
    for target in value["targets"]:
        for point in target["points"]:
            _add_provenance(point, target["cost_provenance"])
    return value


def _add_provenance(point: dict[str, Any], by_model: str) -> None:
    point["provenance"] = {"loss": "measured"}
    point["decision"]["provenance"] = {"bound_nats": "estimated", "seconds": "measured"}
    point["predicted"]["provenance"] = {
        "latency_s": by_model,
        "energy_j": by_model,
        "period_s": by_model,
        "measured_share": by_model,
        "loss_increase_nats": "estimated",
        **_PREDICTED,
    }
    found = point["finalist"]
    if found is not None:
        found["provenance"] = {
            "latency": found["latency"]["provenance"],
            "energy_j": found["energy_provenance"],
            "predicted_latency_s": by_model,
            **_MEASURED,
        }
        for layer in found["layers"]:
            layer["provenance"] = {"predicted_s": by_model, "measured_s": "measured"}


def _numbers(value: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number that is not whole, with where it stands."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{key}[{index}]")
