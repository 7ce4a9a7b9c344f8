"""A target that nobody has at hand: its latency and energy are simulated, and never called measured."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

Codesign = Callable[..., tuple[int, str]]


@pytest.fixture
def report(tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run on the simulated target."""
    monkeypatch.chdir(tiny)
    _run(codesign, "search.uniform=true", "search.sweep.points=2")
    return tiny / "runs" / "tiny"


def _run(codesign: Codesign, *settings: str) -> str:
    flags = [part for setting in settings for part in ("--set", setting)]
    code, printed = codesign("run", "run.toml", "--target", "squeezelerator-16x16", *flags)
    assert code == 0, printed
    return printed


def test_every_latency_and_energy_is_simulated(report: Path, codesign: Codesign) -> None:
    value = json.loads((report / "report.json").read_text())
    assert len(value["candidates"]) >= 2
    for candidate in (*value["candidates"], value["chosen"]):
        said = candidate["provenance"]
        for key in ("latency_s", "energy_j"):
            assert said["predicted"][key] == "simulated"
            assert said["measured"][key] == "simulated"
            assert candidate["measured"][key] == candidate["predicted"][key] > 0
        assert said["measured"]["accuracy"] == "measured"
        assert candidate["measured"]["artifact_weight_bytes"] == candidate["predicted"]["weight_bytes"]
        latencies = candidate["measured"]["latency_by_compiler"].values()
        assert {latency["provenance"] for latency in latencies} == {"simulated"}
    baseline = value["baseline"]  # the device has no floating point
    assert baseline["measured"]["latency_s"] is None
    assert baseline["measured"]["latency_by_compiler"] == {}
    assert baseline["measured"]["energy_j"] is None
    assert 0 <= baseline["accuracy"] <= 1


def test_the_page_and_the_terminal_call_none_of_them_measured(report: Path, codesign: Codesign) -> None:
    page = (report / "report.html").read_text()
    body = page[page.index("<body>") :]
    tagged = re.findall(r'(latency[^<>]*|energy[^<>]*|onnxruntime) <span class="tag (\w+)">', body)
    assert len(tagged) >= 4
    assert {kind for _, kind in tagged} == {"simulated"}
    assert "latency, \\u00b5s (simulated)" in body or "latency, µs (simulated)" in body
    printed = _run(codesign, "search.uniform=true", "search.sweep.points=2")
    heading = printed[: printed.index("┡")]
    assert heading.count("simulated") == 3  # onnxruntime's column, latency, energy
    assert heading.count("measured") == 2  # accuracy, loss


@pytest.mark.parametrize("metric", ["latency_s", "energy_j", "bops", "weight_bytes"])
def test_a_budget_is_kept(report: Path, codesign: Codesign, metric: str) -> None:
    uniform = {
        candidate["roles"][0]: candidate["predicted"][metric]
        for candidate in json.loads((report / "report.json").read_text())["candidates"]
        if candidate["roles"][0].startswith("uniform")
    }
    least, most = uniform["uniform 4 bits"], uniform["uniform 8 bits"]
    assert least <= most
    limit = (least + most) / 2
    _run(codesign, f"search.budgets.0={{{metric}={limit!r}}}")
    chosen = json.loads((report / "report.json").read_text())["chosen"]
    assert chosen["predicted"][metric] <= limit
    assert chosen["measured"]["loss_increase_nats"]["value"] >= 0


def test_a_budget_of_memory_is_kept_or_refused_with_the_least(report: Path, codesign: Codesign) -> None:
    peak = json.loads((report / "report.json").read_text())["chosen"]["predicted"]["peak_memory_bytes"]
    _run(codesign, f"search.budgets.0={{peak_memory_bytes={peak}}}")
    assert json.loads((report / "report.json").read_text())["chosen"]["predicted"]["peak_memory_bytes"] <= peak
    command = ("run", "run.toml", "--target", "squeezelerator-16x16", "--set")
    code, printed = codesign(*command, "search.budgets.0={peak_memory_bytes=10}")
    assert code == 3
    assert "peak_memory_bytes: at most 10 bytes allowed, least possible " in printed


def test_widths_that_the_device_lacks_are_left_out_before_any_work(
    tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    flags = ["run", "run.toml", "--target", "edge-tpu", "--dry-run", "--set"]
    code, printed = codesign(*flags, "quantization.weight_bits=[4,8]")
    assert code == 0, printed
    assert "edge-tpu has no rate for weights of 4 bits: left out" in printed
    assert "kl-sensitivity{bits=8," in printed
    code, printed = codesign(*flags, "quantization.weight_bits=[2,4]")
    assert code != 0
    assert "quantization.weight_bits: profile 'edge-tpu' has rates for [8] bits" in printed
