"""`codesign analyze` through the real command, on a network of three layers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.factory import call_factory
from codesign.ir.weights_file import assign_weights, read_weights

Codesign = Callable[..., tuple[int, str]]
MODULE = ("net.py:tiny", "--weights", "weights.safetensors", "--input-shape", "1,1,8,8")
GRAPH = ("net.onnx",)  # the same, but loaded faster
DATA = ("--data", "train.npz")
LAYERS = 3


def _analyze(codesign: Codesign, *options: str | Path, model: tuple[str, ...] = GRAPH) -> dict[str, Any]:
    code, printed = codesign("analyze", *model, *DATA, *options, "--json", "found.json")
    assert code == 0, printed
    found = json.loads(Path("found.json").read_text())
    assert isinstance(found, dict)
    return found


def _module(folder: Path) -> torch.nn.Module:
    module = call_factory("net.py:tiny", folder)
    assert isinstance(module, torch.nn.Module)
    assign_weights(module, read_weights(folder / "weights.safetensors"), "weights")
    return module.eval().double()


def _hessian(folder: Path, names: list[str], samples: int) -> Tensor:
    """The Hessian of the mean cross-entropy in some parameters, float64."""
    module = _module(folder)
    with np.load("train.npz") as archive:
        x = torch.from_numpy(archive["images"][:samples].astype(np.float64)).permute(0, 3, 1, 2)
        y = torch.from_numpy(archive["labels"][:samples])
    start = {name: value.detach() for name, value in module.named_parameters()}
    sizes = [start[name].numel() for name in names]

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, sizes)
        given = {name: part.view_as(start[name]) for name, part in zip(names, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(module, given, (x,)), y)

    flat = torch.cat([start[name].flatten() for name in names])
    found: Tensor = torch.func.hessian(loss)(flat)
    return found.detach()


def test_by_default_traces_eigenvalues_and_losses(tiny_graph: Path, codesign: Codesign) -> None:
    found = _analyze(codesign, "--samples", "24", "--html", "page.html")
    assert found["metrics"] == ["trace", "eigenvalues", "auto"]
    assert len(found["layers"]) == LAYERS
    assert [layer["parameters"] for layer in found["layers"]] == [72, 576, 384]
    for layer in found["layers"]:
        assert len(layer["top_eigenvalues"]) == 5
        assert layer["top_eigenvalues"] == sorted(layer["top_eigenvalues"], reverse=True)
        assert list(layer["loss_increase"]) == ["2", "3", "4", "6", "8"]
        assert {name: entry["method"] for name, entry in layer["loss_increase"]["2"].items()} == {"auto": "kl"}
        losses = [layer["loss_increase"][bits]["auto"]["nats"] for bits in ("2", "8")]
        assert losses[0] > losses[1] >= 0
    assert found["samples"] == 24
    assert found["passes_over_data"] > 0
    assert 0 < found["seconds_of"]["hessian-trace"] < found["seconds"]
    assert found["peak_memory_bytes"] > 2**20
    assert found["validation"] is None
    assert "<h2>Curvature of each layer</h2>" in Path("page.html").read_text()


def test_the_terminal_shows_every_layer_and_the_cost(tiny_graph: Path, codesign: Codesign) -> None:
    code, printed = codesign("analyze", *GRAPH, *DATA, "--samples", "8", "--drop", "0")
    assert code == 0, printed
    for words in ("Hessian trace", "top eigenvalue", "exact", "8 bits", "8 samples", "peak memory", "passes over the"):
        assert words in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("weights_of", ["module", "folded"])
def test_exact_blocks_are_those_of_the_full_hessian(tiny_graph: Path, codesign: Codesign, weights_of: str) -> None:
    options = ("--dtype", "float64", "--drop", "0", "--metric", "trace", "--metric", "eigenvalues")
    found = _analyze(codesign, *options, "--samples", "10", "--weights-of", weights_of, model=MODULE)
    dense = found["layers"][-1]  # no BatchNorm after it is folded into it: the same weights either way
    assert (dense["exact"], dense["matrix"], dense["standard_error"]) == (True, "hessian", 0.0)
    assert dense["parameter"] == "6.weight" or weights_of == "folded"
    hessian = _hessian(tiny_graph, ["6.weight"], 10)
    within = 1e-9 if weights_of == "module" else 1e-5  # folding BatchNorm rounds to float32
    assert dense["trace"] == pytest.approx(float(hessian.trace()), rel=within)
    tops = torch.linalg.eigvalsh(hessian).flip(0)[:5]
    assert dense["top_eigenvalues"] == pytest.approx(tops.tolist(), rel=within)
    conv = found["layers"][1]
    assert conv["exact"]
    hessian = _hessian(tiny_graph, ["3.weight"], 10)
    assert conv["trace"] == pytest.approx(float(hessian.trace()), rel=within)


def test_the_whole_network(tiny_graph: Path, codesign: Codesign) -> None:
    options = ("--dtype", "float64", "--weights-of", "module", "--samples", "10", "--eigenvalues", "2")
    network = _analyze(codesign, *options, "--metric", "density", model=MODULE)["network"]
    names = [name for name, _ in _module(tiny_graph).named_parameters()]
    hessian = _hessian(tiny_graph, names, 10)
    values = torch.linalg.eigvalsh(hessian)
    assert network["parameters"] == len(values)
    assert abs(network["trace"] - float(values.sum())) < 4 * network["standard_error"]
    largest = values[values.abs().argsort(descending=True)][:2]
    assert network["top_eigenvalues"] == pytest.approx(largest.tolist(), rel=1e-5)
    nodes, weights = np.array(network["density"]["nodes"]), np.array(network["density"]["weights"])
    assert weights.sum() == pytest.approx(1)
    assert float(values.min()) - 1e-9 <= nodes.min() <= nodes.max() <= float(values.max()) + 1e-9


def test_the_mean_over_equal_subsets_is_the_whole(tiny_graph: Path, codesign: Codesign) -> None:
    options = ("--dtype", "float64", "--drop", "0", "--samples", "24", "--subsets", "3")
    found = _analyze(codesign, *options, "--metric", "trace", "--metric", "subsets")
    for layer in found["layers"]:
        spread = layer["subsets"]["trace"]
        assert len(spread["values"]) == 3
        assert spread["mean"] == pytest.approx(layer["trace"], rel=1e-9)
        assert spread["standard_deviation"] == pytest.approx(np.std(spread["values"], ddof=1))
        assert layer["subsets"]["top_eigenvalue"]["mean"] > 0


def test_every_predictor_has_every_width(tiny_graph: Path, codesign: Codesign) -> None:
    names = ["hawq", "hawq-v2", "gauss-newton", "gradient-gauss-newton", "kl", "auto"]
    found = _analyze(codesign, *(f"--metric={name}" for name in names), "--bits", "4,2", "--samples", "16")
    for layer in found["layers"]:
        assert list(layer["loss_increase"]) == ["2", "4"]
        for row in layer["loss_increase"].values():
            assert set(row) == set(names)
            assert row["auto"] == row["kl"]


def test_auto_takes_a_quadratic_model_where_forwards_are_not_affordable(tiny_graph: Path, codesign: Codesign) -> None:
    found = _analyze(codesign, "--metric", "auto", "--bits", "2,8", "--samples", "16", "--max-forwards", "2.5")
    for layer in found["layers"]:
        methods = [row["auto"]["method"] for row in layer["loss_increase"].values()]
        assert methods == ["kl", "gauss-newton"]
        assert [row["auto"]["provenance"] for row in layer["loss_increase"].values()] == ["measured", "estimated"]
    assert "quadratic-loss{" in found["pipeline"]


def test_activations_fisher_and_pairs(tiny_graph: Path, codesign: Codesign) -> None:
    metrics = ("activation-trace", "activation-sensitivity", "fisher", "cross-layer")
    found = _analyze(codesign, *(f"--metric={m}" for m in metrics), "--bits", "2", "--samples", "12")
    for layer in found["layers"]:
        assert layer["activation"]["trace"] > 0
        assert layer["activation"]["loss_increase"]["2"]["nats"] > layer["activation"]["loss_increase"]["8"]["nats"]
        assert layer["fisher"]["trace"] > 0
        assert layer["trace"] is None
    pairs = [(layer["name"], term["other"]) for layer in found["layers"] for term in layer.get("cross_layer", ())]
    assert len(pairs) == LAYERS * (LAYERS - 1) // 2


def test_validation_measures_layers_and_assignments(tiny_graph: Path, codesign: Codesign) -> None:
    options = ("--samples", "24", "--bits", "2,4,8", "--metric", "auto", "--metric", "hawq-v2", "--validate")
    found = _analyze(codesign, *options, "--assignments", "12", "--assignment-bits", "2,8", "--html", "page.html")
    validation = found["validation"]
    assert validation["samples"] == 96
    assert validation["source"] == "train.npz after the first 24"
    names = {layer["name"] for layer in found["layers"]}
    assert set(validation["layers"]) == names
    assert len(validation["assignments"]) == 12
    assert {bits for a in validation["assignments"] for bits in a["bits"].values()} == {2, 8}
    for layer in found["layers"]:  # the sum over layers is that of the table
        assert set(layer["loss_increase"]["2"]) == {"auto", "hawq-v2"}
    first = validation["assignments"][0]
    total = sum(
        layer["loss_increase"][str(first["bits"][layer["name"]])]["hawq-v2"]["nats"] for layer in found["layers"]
    )
    assert first["predicted"]["hawq-v2"] == pytest.approx(total)
    taus = validation["kendall_tau"]
    assert set(taus["layers"]["2"]) == {"auto", "hawq-v2", "noise-ceiling"}
    assert set(taus["assignments"]) == {"auto", "hawq-v2", "whole-assignment-kl", "noise-ceiling"}
    assert taus["assignments"]["whole-assignment-kl"]["kl"] > 0.5
    assert "How far to trust" in Path("page.html").read_text()


def test_held_out_data_of_its_own(tiny_graph: Path, codesign: Codesign) -> None:
    options = ("--samples", "24", "--bits", "2,8", "--validate", "--assignments", "3")
    validation = _analyze(codesign, *options, "--held-out", "test.npz", "--held-out-samples", "30")["validation"]
    assert (validation["source"], validation["samples"]) == ("test.npz", 30)


def test_the_same_seed_gives_the_same_numbers_in_other_chunks(tiny_graph: Path, codesign: Codesign) -> None:
    options = ("--samples", "80", "--bits", "3,8", "--validate", "--assignments", "4", "--seed", "3")
    first = _analyze(codesign, *options)
    again = _analyze(codesign, *options, "--memory-limit", "1MiB")
    for a, b in zip(first["layers"], again["layers"], strict=True):
        assert a["trace"] == pytest.approx(b["trace"], rel=1e-6)
        assert a["top_eigenvalues"] == pytest.approx(b["top_eigenvalues"], rel=1e-4)
        assert a["loss_increase"]["3"]["auto"]["nats"] == pytest.approx(
            b["loss_increase"]["3"]["auto"]["nats"], rel=1e-4
        )
    for x, y in zip(first["validation"]["assignments"], again["validation"]["assignments"], strict=True):
        assert x["bits"] == y["bits"]
        assert x["measured"]["kl"]["nats"] == pytest.approx(y["measured"]["kl"]["nats"], rel=1e-4)


def test_a_target_restricts_widths(tiny_graph: Path, codesign: Codesign) -> None:
    code, printed = codesign(
        "analyze", *GRAPH, *DATA, "--samples", "8", "--target", "squeezelerator-16x16", "--json", "found.json"
    )
    assert code == 0, printed
    found = json.loads(Path("found.json").read_text())
    assert found["target"] == "squeezelerator-16x16"
    left_out = sorted({2, 3, 4, 6, 8} - set(found["bits"]))
    assert found["bits"]
    if left_out:
        assert "bits: left out" in printed


def test_data_in_the_order_of_its_classes_is_told(tiny_graph: Path, codesign: Codesign) -> None:
    with np.load("train.npz") as archive:
        order = np.argsort(archive["labels"], kind="stable")
        np.savez("sorted.npz", images=archive["images"][order], labels=archive["labels"][order])
    code, printed = codesign("analyze", *GRAPH, "--data", "sorted.npz", "--samples", "30", "--metric", "trace")
    assert code == 0, printed
    assert "sorted.npz: the first 30 samples hold 1 of 3 classes; shuffle the data, or raise --samples" in printed


def test_bytes_are_scaled_to_the_unit_interval(tiny_graph: Path, codesign: Codesign) -> None:
    with np.load("train.npz") as archive:
        scaled = np.clip(archive["images"] * 20 + 128, 0, 255).astype(np.uint8)
        np.savez("bytes.npz", images=scaled, labels=archive["labels"])
        np.savez("floats.npz", images=scaled.astype(np.float32) / np.float32(255), labels=archive["labels"])
    traces = []
    for source in ("bytes.npz", "floats.npz"):
        options = ("--data", source, "--samples", "8", "--metric", "trace", "--json", "found.json")
        code, printed = codesign("analyze", *GRAPH, *options)
        assert code == 0, printed
        traces.append([layer["trace"] for layer in json.loads(Path("found.json").read_text())["layers"]])
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)


def test_an_interruption_leaves_nothing(tiny_graph: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codesign.report.page.plotly.offline.get_plotlyjs", interrupt)
    before = set(Path().rglob("*"))
    code, printed = codesign("analyze", *GRAPH, *DATA, "--samples", "8", "--metric", "trace", "--html", "page.html")
    assert code == 130
    assert "interrupted" in printed
    assert {path for path in Path().rglob("*") if "__pycache__" not in path.parts} == before
