"""Allocation problems given directly as a JSON table, and their answers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import InfeasibleBudgetError, InputError, closest
from codesign.search.integer_program import Allocation, solve
from codesign.search.problem import AllocationProblem, LayerOption, LayerOptions

TOP_KEYS = ("network", "source", "same_bits", "layers", "cases")
LAYER_KEYS = ("name", "options")
CASE_KEYS = ("name", "limit", "optimal_bits", "optimal_loss_increase")


@dataclass(frozen=True)
class AllocationTable:
    """What a table file holds.

    Attributes:
        problem: Layers, options and ties.
        cases: Limits by metric, one mapping for each case.
    """

    problem: AllocationProblem
    cases: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class CaseResult:
    """The answer to one case.

    Attributes:
        limit: Its limits.
        allocation: The optimum.
    """

    limit: Mapping[str, float]
    allocation: Allocation

    def to_json(self) -> dict[str, object]:
        """`limit`, `bits` in the order of the layers, `loss_increase`, `metrics`, `gap` and `seconds`."""
        answer = self.allocation
        return {
            "limit": dict(self.limit),
            "bits": [bits for _, bits in answer.choice],
            "loss_increase": answer.loss_increase,
            "metrics": dict(answer.metrics),
            "gap": answer.gap,
            "seconds": answer.seconds,
        }


def allocate_table(path: Path) -> tuple[CaseResult, ...]:
    """Solves every case of a table file.

    Args:
        path: The file, see `read_table`.

    Returns:
        One result a case, in the order of the file.

    Raises:
        InfeasibleBudgetError: A case has no solution; the message names the case and what can be reached.
    """
    table = read_table(path)
    results = []
    for position, limit in enumerate(table.cases):
        try:
            results.append(CaseResult(limit, solve(table.problem, limit)))
        except InfeasibleBudgetError as error:
            raise InfeasibleBudgetError(f"{path}: cases.{position}: {error}") from None
    return tuple(results)


def problem_from_json(path: Path) -> AllocationProblem:
    """The problem of a table file, without its cases.

    Args:
        path: The file, see `read_table`.

    Returns:
        The problem.
    """
    return read_table(path).problem


def read_table(path: Path) -> AllocationTable:
    """Reads a table file and checks it.

    It is a JSON object with `layers` (each `name` and `options`; each option `bits`, `loss_increase` and a column for
    each metric, the same columns everywhere), optionally `same_bits` (lists of names of layers that must take the same
    bits), `cases` (each with a `limit` by metric), `network` and `source`.

    Args:
        path: The file.

    Returns:
        Problem and cases.

    Raises:
        InputError: The file is missing or not JSON, or a value is missing, unknown, NaN, negative or of the wrong type.
    """
    top = _object(_parse(path), f"{path}:", TOP_KEYS)
    layers = [_layer(item, f"{path}: layers.{i}") for i, item in enumerate(_list(top.get("layers"), f"{path}: layers"))]
    ties = [
        tuple(_text(name, f"{path}: same_bits.{i}.{j}") for j, name in enumerate(_list(tie, f"{path}: same_bits.{i}")))
        for i, tie in enumerate(_list(top.get("same_bits", []), f"{path}: same_bits"))
    ]
    try:
        problem = AllocationProblem(tuple(layers), tuple(ties))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    cases = _list(top.get("cases", []), f"{path}: cases")
    return AllocationTable(problem, tuple(_limit(case, problem, f"{path}: cases.{i}") for i, case in enumerate(cases)))


def _parse(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); correct it") from None


def _unique_keys(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} occurs twice in one object")
        found[key] = value
    return found


def _layer(value: object, where: str) -> LayerOptions:
    layer = _object(value, where, LAYER_KEYS)
    name = _text(layer.get("name"), f"{where}.name")
    options = _list(layer.get("options"), f"{where}.options")
    return LayerOptions(name, tuple(_option(item, f"{where}.options.{i}") for i, item in enumerate(options)))


def _option(value: object, where: str) -> LayerOption:
    option = _object(value, where, None)
    bits = option.get("bits")
    if not isinstance(bits, int) or isinstance(bits, bool) or bits < 1:
        raise InputError(f"{where}.bits: got {bits!r}, allowed are whole numbers from 1 up; correct it")
    metrics = {k: _number(v, f"{where}.{k}") for k, v in option.items() if k not in {"bits", "loss_increase"}}
    return LayerOption(bits, _number(option.get("loss_increase"), f"{where}.loss_increase"), metrics)


def _limit(value: object, problem: AllocationProblem, where: str) -> dict[str, float]:
    case = _object(value, where, CASE_KEYS)
    limit = _object(case.get("limit"), f"{where}.limit", problem.metrics)
    return {metric: _number(number, f"{where}.limit.{metric}") for metric, number in limit.items()}


def _object(value: object, where: str, known: Sequence[str] | None) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InputError(f"{where.removesuffix(':')}: {_got(value)}, a JSON object is needed; correct it")
    for key in value:
        if known is not None and key not in known:
            place = f"{where} {key}" if where.endswith(":") else f"{where}.{key}"
            raise InputError(f"{place}: unknown key{closest(key, known)}")
    return value


def _list(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise InputError(f"{where}: {_got(value)}, a list is needed; correct it")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {_got(value)}, a name is needed; correct it")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {_got(value)}, a number is needed; correct it")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"{where}: got {number}, allowed are finite numbers from 0 up; correct it")
    return number


def _got(value: object) -> str:
    return "missing" if value is None else f"got {value!r:.60}"
