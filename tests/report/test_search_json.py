import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from codesign.errors import InputError
from codesign.report.search_contents import JointSearch
from codesign.report.search_json import read_search_json, search_to_json, write_search_json


def _labels(value: object) -> Iterator[object]:
    """Everything that is said about where numbers come from."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "provenance":
                yield from item.values() if isinstance(item, dict) else [item]
            else:
                yield from _labels(item)
    elif isinstance(value, list):
        for item in value:
            yield from _labels(item)


def test_what_is_written_reads_back_the_same(search: JointSearch, tmp_path: Path) -> None:
    write_search_json(search, tmp_path / "search.json")
    assert read_search_json(tmp_path / "search.json") == search


def test_every_point_says_where_its_numbers_come_from(search: JointSearch, tmp_path: Path) -> None:
    write_search_json(search, tmp_path / "search.json")
    value = json.loads((tmp_path / "search.json").read_text())
    assert value == search_to_json(search)
    assert set(_labels(value)) == {"exact", "estimated", "calibrated", "measured"}
    for point in value["targets"][0]["points"]:
        numbers = point["predicted"].keys() - {"provenance"}
        assert point["predicted"]["provenance"].keys() == numbers
        if point["finalist"] is not None:
            known = point["finalist"]["provenance"]
            assert known["latency"] == known["energy_j"] == "measured"
            assert known["predicted_latency_s"] == "calibrated"
            for layer in point["finalist"]["layers"]:
                assert layer["provenance"] == {"predicted_s": "calibrated", "measured_s": "measured"}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_none_is_named(search: JointSearch, tmp_path: Path, number: float) -> None:
    target = search.targets[0]
    broken = dataclasses.replace(target.trials[2], hypervolume=number)
    trials = (*target.trials[:2], broken, *target.trials[3:])
    bad = dataclasses.replace(search, targets=(dataclasses.replace(target, trials=trials),))
    with pytest.raises(InputError, match=r"targets\[0\]\.trials\[2\]\.hypervolume is (nan|inf)"):
        write_search_json(bad, tmp_path / "search.json")
    assert not (tmp_path / "search.json").exists()


def test_other_files_are_refused_with_the_key_that_is_wrong(search: JointSearch, tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    with pytest.raises(InputError, match=r"search\.json: cannot be read"):
        read_search_json(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"search\.json: the file: Invalid JSON"):
        read_search_json(path)
    value = search_to_json(search)
    targets = value["targets"]
    assert isinstance(targets, list)
    targets[1]["points"][3]["predicted"]["latency_s"] = "fast"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"targets\.1\.points\.3\.predicted\.latency_s: .*valid number"):
        read_search_json(path)
