import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from codesign.report.analysis_contents import Analysis, LayerAnalysis
from codesign.report.analysis_json import analysis_to_json, write_analysis_json

PROVENANCES = {"exact", "estimated", "measured"}


def _labels(value: object) -> Iterator[str]:
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


def test_the_file_is_the_analysis(analysis: Analysis, tmp_path: Path) -> None:
    write_analysis_json(analysis, tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == analysis_to_json(analysis)
    assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in analysis.layers]
    assert (found["seconds"], found["cpu_seconds"], found["peak_memory_bytes"]) == (12.0, 23.0, 2**30)
    assert (found["passes_over_data"], found["samples"], found["seed"], found["dtype"]) == (17.5, 100, 7, "float64")


def test_a_layer_has_the_agreed_keys(analysis: Analysis, tmp_path: Path) -> None:
    write_analysis_json(analysis, tmp_path / "a.json")
    conv, dense = json.loads((tmp_path / "a.json").read_text())["layers"]
    assert (conv["parameter"], conv["parameters"]) == (analysis.layers[0].parameter, 500)
    assert (conv["trace"], conv["standard_error"], conv["exact"]) == (3.5, 0.0, True)
    assert (conv["top_eigenvalues"], conv["method"], conv["matrix"]) == ([2.0, 0.5], "packed-gauss-newton", "hessian")
    assert conv["loss_increase"]["4"]["auto"] == {
        "nats": 0.25,
        "standard_error": 0.01,
        "method": "kl",
        "provenance": "measured",
    }
    assert dense["loss_increase"]["2"]["auto"]["provenance"] == "estimated"
    assert (conv["fisher"]["trace"], conv["activation"]["trace"], conv["activation"]["elements"]) == (1.25, 0.75, 64)
    assert conv["activation"]["loss_increase"]["4"]["squared_error"] == 1.5
    assert conv["cross_layer"][0]["nats"] == -0.0625
    assert conv["subsets"]["trace"]["sensitivity"] == 3.5  # |mean| + standard deviation


def test_validation_and_network(analysis: Analysis, tmp_path: Path) -> None:
    write_analysis_json(analysis, tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    taus = found["validation"]["kendall_tau"]
    assert taus["layers"]["2"]["hawq-v2"] == {"kl": 0.5, "loss": None}
    assert taus["assignments"]["whole-assignment-kl"] == {"kl": 0.9375, "loss": 0.75}
    assert found["validation"]["layers"]["dense"]["4"]["kl"] == {"nats": 0.25, "standard_error": 0.025}
    assert found["validation"]["assignments"][0]["bits"]["dense"] == 2
    assert found["network"]["density"]["nodes"] == [[-1.0, 0.0, 4.0], [-0.5, 0.0, 4.25]]
    assert (found["network"]["trace"], found["network"]["top_eigenvalues"]) == (7.5, [4.25, -1.0])


def test_every_label_is_one_of_three(analysis: Analysis) -> None:
    labels = list(_labels(analysis_to_json(analysis)))
    assert set(labels) == PROVENANCES


def test_what_was_not_asked_for_is_null_or_absent(analysis: Analysis, tmp_path: Path) -> None:
    bare = dataclasses.replace(analysis, layers=(LayerAnalysis("a", "w", 3),), network=None, validation=None)
    write_analysis_json(bare, tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["network"], found["validation"]) == (None, None)
    (layer,) = found["layers"]
    assert (layer["trace"], layer["exact"], layer["loss_increase"]) == (None, None, {})
    assert not {"fisher", "activation", "cross_layer", "subsets"} & layer.keys()
