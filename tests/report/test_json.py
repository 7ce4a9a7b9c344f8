import json
from pathlib import Path

from codesign.report.contents import RunReport
from codesign.report.json import write_report_json

PREDICTED = {"loss_increase_nats", "latency_s", "energy_j", "power_w", "weight_bytes", "peak_memory_bytes", "bops"}
MEASURED = {
    "accuracy",
    "accuracy_standard_error",
    "accuracy_by_test_set",
    "loss_increase_nats",
    "latency_s",
    "latency_by_compiler",
    "energy_j",
    "artifact_weight_bytes",
    "agreement_with_onnxruntime",
}
CANDIDATE = {
    "id", "roles", "bits", "average_bits", "predicted", "measured", "provenance", "failure", "on_front",
}  # fmt: skip


def test_the_file_has_exactly_the_documented_keys(report: RunReport, tmp_path: Path) -> None:
    write_report_json(report, tmp_path / "report.json")
    value = json.loads((tmp_path / "report.json").read_text())
    assert value.keys() == {
        "run", "target", "target_description", "profile_notes", "seed", "environment", "data", "sensitivity_method",
        "baseline", "candidates", "chosen", "choices", "layers",
    }  # fmt: skip
    assert value["baseline"].keys() == {"accuracy", "accuracy_standard_error", "measured", "provenance"}
    assert value["baseline"]["measured"].keys() == MEASURED
    assert len(value["candidates"]) == 3
    for candidate in (*value["candidates"], value["chosen"]):
        assert candidate.keys() == CANDIDATE
        assert candidate["predicted"].keys() == PREDICTED
        assert candidate["provenance"]["predicted"].keys() == PREDICTED
        if candidate["measured"] is None:
            assert candidate["failure"].startswith("crashed")
            assert "measured" not in candidate["provenance"]
        else:
            assert candidate["measured"].keys() == MEASURED
            assert set(candidate["provenance"]["measured"]) <= MEASURED


def test_numbers_are_those_of_the_report(report: RunReport, tmp_path: Path) -> None:
    write_report_json(report, tmp_path / "report.json")
    value = json.loads((tmp_path / "report.json").read_text())
    assert value["run"] == report.run
    assert value["baseline"]["accuracy"] == 0.92
    chosen = value["chosen"]
    assert chosen == value["candidates"][1]
    assert chosen["id"] == report.chosen.identity
    assert chosen["measured"]["accuracy"] == 0.91
    assert chosen["measured"]["latency_s"] == 1.9e-4
    assert chosen["measured"]["latency_by_compiler"]["onnxruntime"]["median_s"] == 3.8e-4
    assert chosen["measured"]["loss_increase_nats"] == {"value": 0.011, "standard_error": 0.1 * 0.011}
    assert chosen["predicted"]["latency_s"] == 1e-4
    assert chosen["predicted"]["power_w"] == 2e-6 / 1e-4
    assert chosen["provenance"]["predicted"]["latency_s"] == "estimated"
    assert chosen["provenance"]["measured"]["latency_s"] == "measured"
    assert value["choices"][0]["id"] == chosen["id"]
    assert value["layers"][0]["loss_increase_nats"] == {"3": 0.02, "4": 0.01, "8": 0.001}
    assert value["layers"][1]["trace"] is None
    times = [(layer["predicted_latency_s"], layer["measured_latency_s"]) for layer in value["layers"]]
    assert times == [(2e-5, 3e-5), (None, None)]
