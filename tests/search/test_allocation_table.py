"""Tables in JSON: the reference's answers, and every kind of bad input."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.search.allocation_table import allocate_table, problem_from_json, read_table

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "hawq_v3_resnet18.json"
TABLE: dict[str, Any] = {
    "network": "small",
    "same_bits": [["a", "c"]],
    "layers": [
        {
            "name": name,
            "options": [
                {"bits": 4, "loss_increase": 0.4 + i, "weight_bytes": 100, "latency_s": 1e-6},
                {"bits": 8, "loss_increase": 0.1, "weight_bytes": 200, "latency_s": 3e-6},
            ],
        }
        for i, name in enumerate("abc")
    ],
    "cases": [{"limit": {"weight_bytes": 500}}, {"limit": {"weight_bytes": 600, "latency_s": 5e-6}}],
}


def _write(tmp_path: Path, table: object) -> Path:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    return path


def test_each_case_is_answered(tmp_path: Path) -> None:
    results = [result.to_json() for result in allocate_table(_write(tmp_path, TABLE))]
    # a and c are tied: 8 bits for both leave 100 bytes for b, and take 6 us, which is too long in the second case.
    assert [result["bits"] for result in results] == [[8, 4, 8], [4, 8, 4]]
    assert [result["limit"] for result in results] == [
        {"weight_bytes": 500.0},
        {"weight_bytes": 600.0, "latency_s": 5e-6},
    ]
    assert [result["gap"] for result in results] == [0, 0]
    assert results[0]["loss_increase"] == pytest.approx(1.6)
    assert results[0]["metrics"] == {"weight_bytes": 500, "latency_s": pytest.approx(7e-6)}
    json.dumps(results, allow_nan=False)


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE.name} is absent")
def test_the_reference_is_answered_in_order() -> None:
    cases = json.loads(REFERENCE.read_text())["cases"]
    results = [result.to_json() for result in allocate_table(REFERENCE)]
    assert [result["bits"] for result in results] == [case["optimal_bits"] for case in cases]
    assert all(result["gap"] == 0 for result in results)


def test_an_infeasible_case_is_named(tmp_path: Path) -> None:
    table = {**TABLE, "cases": [{"limit": {"weight_bytes": 600}}, {"limit": {"weight_bytes": 250}}]}
    with pytest.raises(
        InfeasibleBudgetError, match=r"table.json: cases.1: .*at most 250 bytes.*least possible 300 bytes"
    ):
        allocate_table(_write(tmp_path, table))


DELETED = object()
OPTION = ("layers", 1, "options", 0)


def _edited(path: tuple[str | int, ...], value: object) -> object:
    table: Any = copy.deepcopy(TABLE)
    place = table
    for key in path[:-1]:
        place = place[key]
    if value is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return table


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("layers",), DELETED, "layers: missing"),
        (("layers",), [], "there are none"),
        (("layrs",), [], "layrs: unknown key; did you mean 'layers'"),
        (("layers", 0, "name"), DELETED, r"layers\.0\.name: missing"),
        (("layers", 1, "name"), "a", "layer 'a' occurs twice"),
        (("layers", 1, "options"), [], "layer 'b': no options"),
        (("layers", 2), 5, r"layers\.2: got 5, a JSON object"),
        ((*OPTION, "bits"), DELETED, r"layers\.1\.options\.0\.bits: got None"),
        ((*OPTION, "bits"), 4.5, r"options\.0\.bits: got 4.5"),
        ((*OPTION, "bits"), 8, "two options have the same bits"),
        ((*OPTION, "loss_increase"), DELETED, r"layers\.1\.options\.0\.loss_increase: missing"),
        ((*OPTION, "loss_increase"), float("nan"), r"loss_increase: got nan"),
        ((*OPTION, "loss_increase"), -0.1, r"loss_increase: got -0.1"),
        ((*OPTION, "latency_s"), "fast", r"latency_s: got 'fast', a number"),
        ((*OPTION, "latency_s"), True, r"latency_s: got True, a number"),
        ((*OPTION, "latency_s"), 10**400, r"latency_s: got inf"),
        ((*OPTION, "latency_s"), DELETED, "'latency_s' is not on every option"),
        (("same_bits", 0, 1), "d", "layer 'd' is tied or fixed but is not in the problem"),
        (("same_bits", 0), "a", r"same_bits\.0: got 'a', a list"),
        (("layers", 0, "options"), [{**TABLE["layers"][0]["options"][0], "bits": 6}], "no common bits: 'a' allows 6"),
        (("cases", 0, "limit"), DELETED, r"cases\.0\.limit: missing"),
        (("cases", 0, "limit", "weigth_bytes"), 3, r"cases\.0\.limit\.weigth_bytes: unknown key; did you mean"),
        (("cases", 0, "limit", "weight_bytes"), float("inf"), r"limit\.weight_bytes: got inf"),
    ],
)
def test_bad_tables_are_refused_by_key(
    tmp_path: Path, path: tuple[str | int, ...], value: object, message: str
) -> None:
    file = _write(tmp_path, _edited(path, value))
    with pytest.raises(InputError, match=message) as error:
        read_table(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", '{"layers": 1, "layers": 2}', "[" * 100_000, "\x00"])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError, match="is not valid JSON"):
        problem_from_json(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_table(binary)
