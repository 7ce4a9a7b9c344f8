"""Tables in JSON: the reference's answers, and every kind of bad input."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.errors import InfeasibleBudgetError, InputError
from codesign.search.allocation_table import allocate_table, problem_from_json, read_table

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "hawq_v3_resnet18.json"
TABLE = {
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
Json = dict[str, "Json"] | list["Json"] | str | float


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


def _option(table: Any) -> Any:
    return table["layers"][1]["options"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("layers"), "layers: missing"),
        (lambda t: t["layers"].clear(), "there are none"),
        (lambda t: t.update(layrs=[]), "layrs: unknown key; did you mean 'layers'"),
        (lambda t: t["layers"][0].pop("name"), r"layers\.0\.name: missing"),
        (lambda t: t["layers"][1].update(name="a"), "layer 'a' occurs twice"),
        (lambda t: t["layers"][1].update(options=[]), "layer 'b': no options"),
        (lambda t: t["layers"].__setitem__(2, 5), r"layers\.2: got 5, a JSON object"),
        (lambda t: _option(t).pop("bits"), r"layers\.1\.options\.0\.bits: got None"),
        (lambda t: _option(t).update(bits=4.5), r"options\.0\.bits: got 4.5"),
        (lambda t: _option(t).update(bits=8), "two options have the same bits"),
        (lambda t: _option(t).pop("loss_increase"), r"layers\.1\.options\.0\.loss_increase: missing"),
        (lambda t: _option(t).update(loss_increase=float("nan")), r"loss_increase: got nan"),
        (lambda t: _option(t).update(loss_increase=-0.1), r"loss_increase: got -0.1"),
        (lambda t: _option(t).update(latency_s="fast"), r"latency_s: got 'fast', a number"),
        (lambda t: _option(t).update(latency_s=True), r"latency_s: got True, a number"),
        (lambda t: _option(t).update(latency_s=10**400), r"latency_s: got inf"),
        (lambda t: _option(t).pop("latency_s"), "'latency_s' is not on every option"),
        (lambda t: t["same_bits"][0].append("d"), "layer 'd' is tied or fixed but is not in the problem"),
        (lambda t: t.update(same_bits=["a"]), r"same_bits\.0: got 'a', a list"),
        (lambda t: t["layers"][0]["options"].pop() and t["layers"][2]["options"].pop(0), "no common bits"),
        (lambda t: t["cases"][0].pop("limit"), r"cases\.0\.limit: missing"),
        (
            lambda t: t["cases"][0]["limit"].update(weigth_bytes=3),
            r"cases\.0\.limit\.weigth_bytes: unknown key; did you",
        ),
        (lambda t: t["cases"][0]["limit"].update(weight_bytes=float("inf")), r"limit\.weight_bytes: got inf"),
    ],
)
def test_bad_tables_are_refused_by_key(tmp_path: Path, edit: Edit, message: str) -> None:
    table = copy.deepcopy(TABLE)
    edit(table)
    path = _write(tmp_path, table)
    with pytest.raises(InputError, match=message) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: ")
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
