"""A joint search in seconds: a SqueezeNext of two stages on 8x8 images of three classes."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from codesign.architecture.space import variants
from codesign.backend.base import Artifact
from codesign.backend.layer_times import LayerTime, rescaled
from codesign.flow import search_finalists
from codesign.flow.context import RunContext
from codesign.flow.prepare import GRAPH
from codesign.flow.search import search
from codesign.flow.search_context import open_search
from codesign.flow.search_loop import Workers
from codesign.flow.search_pricing import limits_of, lower_bounds, metrics_of, problem_of
from codesign.flow.search_trials import decisions
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.ir.serialization import load_graph
from codesign.progress import Silent
from codesign.report.search_contents import JointSearch
from codesign.report.search_json import read_search_json
from codesign.search.pareto import non_dominated
from codesign.search_file import load_search_file

Call = Callable[..., tuple[int, str]]


def _search(folder: Path, *settings: str, out: str = "trained", targets: tuple[str, ...] = ()) -> JointSearch:
    return search(load_search_file(folder / "search.toml", settings, targets), folder, folder / out, Silent())


def _front(report: JointSearch) -> list[tuple[object, ...]]:
    return [(p.identity, p.loss, p.predicted, p.layers) for p in report.targets[0].front]


def test_the_whole_flow(trained_search: Path) -> None:
    report = read_search_json(trained_search / "out" / "report.json")
    (target,) = report.targets
    assert report.space.variants == 8
    assert len(target.trials) == 9
    assert report.elastic is not None
    assert report.elastic.epochs == 2
    volumes = [trial.hypervolume for trial in target.trials]
    assert volumes == sorted(volumes)
    assert volumes[0] > 0
    points = [
        (
            p.loss.value,
            p.predicted.latency_s,
            p.predicted.energy_j,
            p.predicted.weight_bytes + p.predicted.peak_memory_bytes,
        )
        for p in target.points
        if p.loss is not None
    ]
    front = {target.points[i].identity for i in non_dominated(points)}
    assert front == {p.identity for p in target.front}
    assert all(p.decision.gap == 0 and p.decision.status == "optimal" for p in target.points)
    assert len(target.built) == 2
    for point in target.built:
        assert point.finalist is not None
        assert point.finalist.latency.provenance == "simulated"
        assert point.finalist.latency.median_s == pytest.approx(point.predicted.latency_s)
        assert 0 <= point.finalist.accuracy["test"].quantised.value <= 1
        assert (trained_search / "out" / point.finalist.artifact).exists()
    assert "<svg" in (trained_search / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", ["squeezelerator-8x8", "cpu+npu", "host-2proc"])
def test_lower_bounds_are_below_every_decision(trained_search: Path, target: str) -> None:
    settings = ["quantization.weight_bits=[4, 8]"]
    file = load_search_file(trained_search / "search.toml", settings, [target])
    context = open_search(file, trained_search, trained_search / "out", None, Silent())
    analyst = VariantAnalyst(context, context.shared_weights)
    place = context.targets[0]
    for variant in variants(context.space):
        screened = analyst.screen(variant)
        bound = lower_bounds(place, screened.program, screened.facts)
        found = decisions(problem_of(place, analyst.analyse(variant)), {}, ("latency_s", "energy_j", "weight_bytes"), 3)
        for decision in found:
            totals = metrics_of(decision.allocation.metrics)
            assert all(least <= total * (1 + 1e-12) for least, total in zip(bound, totals, strict=True))


def test_data_for_training_and_for_searching_share_nothing(trained_search: Path) -> None:
    context = open_search(
        load_search_file(trained_search / "search.toml"), trained_search, trained_search / "out", None, Silent()
    )
    searched = {image.tobytes() for image in context.data.splits.search.images}
    trained = {image.tobytes() for image in context.data.training_without_search.images}
    tested = {image.tobytes() for image in context.data.splits.test.images}
    assert len(searched) == 36
    assert len(trained) == 180 - 36
    assert not searched & trained
    assert not tested & (searched | trained)


def test_repeating_does_nothing_again_and_a_new_folder_finds_the_same(trained_search: Path, tiny_search: Path) -> None:
    before = read_search_json(trained_search / "out" / "report.json")
    stamps = {path: path.stat().st_mtime_ns for path in (trained_search / "out" / "variants").rglob("*.onnx")}
    again = _search(trained_search, out="out")
    assert _front(again) == _front(before)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert _front(_search(tiny_search)) == _front(before)


def test_killed_at_any_point_the_same_command_finds_the_same_front(trained_search: Path, tiny_search: Path) -> None:
    expected = _front(read_search_json(trained_search / "out" / "report.json"))
    interrupting = """
import os, sys
count = int(sys.argv.pop(1))
seen = 0

def watch(name, arguments):
    global seen
    if name == "os.rename" and "variants" in repr(arguments):
        seen += 1
        if seen == count:
            os.kill(os.getpid(), 9)

sys.addaudithook(watch)
from codesign.cli import main
main()
"""
    for count in (3, 9):
        command = [sys.executable, "-c", interrupting, str(count), "search", "search.toml", "--out", "trained"]
        ended = subprocess.run(command, cwd=tiny_search, capture_output=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert _front(_search(tiny_search)) == expected


def test_workers_share_the_trials(trained_search: Path, tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_search)
    file = load_search_file(Path("search.toml"), ["search.finalists=0"])
    command = ("search", "search.toml", "--out", "trained", "--set", "search.finalists=0")
    report = search(file, tiny_search, Path("trained"), Silent(), workers=Workers(2, command))
    (target,) = report.targets
    assert len(target.trials) == 9
    assert "Error" not in Path("trained/workers.log").read_text(encoding="utf-8")
    assert {trial.worker for trial in target.trials} <= {"worker 1", "worker 2"}
    assert target.front


def test_several_targets_share_weights_and_are_compared(tiny_search: Path) -> None:
    stamp = (tiny_search / "trained/elastic/weights.safetensors").stat().st_mtime_ns
    report = _search(
        tiny_search, "search.trials=4", "search.finalists=1", targets=("squeezelerator-8x8", "squeezelerator-16x16")
    )
    assert (tiny_search / "trained/elastic/weights.safetensors").stat().st_mtime_ns == stamp
    assert [t.name for t in report.targets] == ["squeezelerator-8x8", "squeezelerator-16x16"]
    assert [len(row.on) for row in report.comparison] == [2, 2]
    for row, target in zip(report.comparison, report.targets, strict=True):
        own = next(on for on in row.on if on.target == target.name)
        assert own.latency_s == pytest.approx(target.point(row.identity).predicted.latency_s)


@pytest.mark.parametrize("target", ["cpu+npu", "host-2proc"])
def test_places_are_chosen_on_targets_with_several_devices(tiny_search: Path, target: str) -> None:
    settings = ["quantization.weight_bits=[8]", "elastic.weight_bits=[4, 8]"]
    report = _search(tiny_search, "search.trials=4", "search.finalists=1", *settings, targets=(target,))
    (result,) = report.targets
    assert result.front
    for point in result.points:
        assert all(layer.place for layer in point.layers)
    (built,) = result.built
    assert built.finalist is not None
    assert built.finalist.latency.provenance == "simulated"
    assert built.finalist.latency.median_s == pytest.approx(built.predicted.latency_s)


def test_a_placed_plan_has_its_own_cost_at_home(tiny_search: Path) -> None:
    settings = ["search.trials=4", "search.finalists=0", "quantization.weight_bits=[8]"]
    report = _search(tiny_search, *settings, targets=("cpu+npu", "squeezelerator-8x8"))
    home, abroad = report.comparison[0].on
    chosen = report.targets[0].point(report.comparison[0].identity)
    assert home.latency_s == chosen.predicted.latency_s
    assert all(layer.place for layer in chosen.layers)
    assert abroad.latency_s is None
    assert "another target" in (abroad.failure or "")


def _made_up_layers(context: RunContext, artifacts: Sequence[Artifact], network_s: float) -> tuple[LayerTime, ...]:
    names = [str(node.name) for node in load_graph(context.folder / GRAPH).graph]
    times = tuple(LayerTime(name, ("kernel",), 0.0, 1e-6 * (1 + i % 3)) for i, name in enumerate(names))
    return rescaled(times, network_s)


def test_a_measured_target_corrects_its_cost_model(tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_finalists, "measured_layers", _made_up_layers)  # the compiler would take a minute
    settings = ["search.trials=8", "search.finalists=1", "search.refinements=0"]
    report = _search(tiny_search, *settings, targets=("host-cpu",))
    (target,) = report.targets
    (file,) = (tiny_search / "trained/targets/host-cpu").glob("halfway-*.json")
    halfway = {network["plan"]: network for network in json.loads(file.read_text())}
    assert 1 <= len(halfway) <= len(target.built)
    assert target.cost_provenance == "calibrated"
    assert len(target.trials) == 8
    for point in target.built:
        found = point.finalist
        assert found is not None
        assert found.latency.provenance == "measured"
        assert sum(layer.measured_s for layer in found.layers) == pytest.approx(found.latency.median_s)
        assert sum(layer.predicted_s for layer in found.layers) == pytest.approx(found.predicted_latency_s)
        if point.identity in halfway:  # its own measurement is in the table, and not in what it is compared with
            assert point.predicted.measured_kernels == point.predicted.kernels == len(found.layers)
            assert point.predicted.measured_share == pytest.approx(1)
            assert found.predicted_latency_s != pytest.approx(point.predicted.latency_s, rel=1e-6)
            seconds = [kernel["seconds"] for kernel in halfway[point.identity]["kernels"]]
            assert sum(seconds) == pytest.approx(halfway[point.identity]["whole"]["measured_s"])
    for point in target.front:
        for price in point.shadow_prices:  # budgets follow corrected prices, so that none is beyond reach
            assert price.limit == pytest.approx(getattr(point.predicted, price.metric))
    assert _front(_search(tiny_search, *settings, targets=("host-cpu",))) == _front(report)


def test_layers_that_cannot_be_timed_leave_the_correction_alone(tiny_search: Path) -> None:
    settings = ["search.trials=4", "search.finalists=1", "search.refinements=0"]
    (target,) = _search(tiny_search, *settings, targets=("host-cpu",)).targets
    assert target.cost_provenance == "calibrated"
    assert all(point.predicted.kernels == 0 for point in target.points)
    assert all(point.finalist is not None and not point.finalist.layers for point in target.built)


def test_resolution_may_be_an_axis(tiny_search: Path) -> None:
    settings = ["space.resolutions=[6, 8]", "search.trials=4", "search.finalists=2", "search.finetune_epochs=1"]
    report = _search(tiny_search, *settings, out="sized")
    (target,) = report.targets
    assert {p.variant.choices["resolution"] for p in target.points} == {6, 8}
    assert target.built
    assert all(p.finalist is not None and p.finalist.finetuned for p in target.built)


def test_finalists_may_betrained_search_further(tiny_search: Path) -> None:
    report = _search(tiny_search, "search.trials=3", "search.finalists=1", "search.finetune_epochs=1")
    (point,) = report.targets[0].built
    assert point.finalist is not None
    assert point.finalist.finetuned
    assert point.finalist.loss != point.loss


def test_exhaustive_evaluates_every_member(tiny_search: Path) -> None:
    settings = ['search.sampler="exhaustive"', "search.points=2", 'search.metrics=["latency_s"]', "search.finalists=0"]
    report = _search(tiny_search, "search.trials=1000", *settings)
    (target,) = report.targets
    assert len(target.trials) == 8 * 2
    discarded = sum(reason.count for reason in target.discarded)
    assert len(target.points) + discarded == 16


def test_command(tiny_search: Path, codesign: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_search)
    code, printed = codesign("search", "search.toml", "--dry-run")
    assert code == 0
    assert "squeezenext: 8 variants" in printed
    code, printed = codesign("search", "search.toml", "--out", "trained", "--set", "search.trials=3")
    assert code == 0
    assert "Report: trained/report.html" in printed
    code, printed = codesign("search", "search.toml", "--out", "new", "--join", "squeezelerator-8x8")
    assert code != 0
    assert "start the search without --join first" in printed
    code, printed = codesign("search", "search.toml", "--out", "trained", "--join", "eyeriss")
    assert code != 0
    assert "the search is for squeezelerator-8x8" in printed


def test_what_changes_results_begins_a_study_of_its_own(tiny_search: Path) -> None:
    narrow = _search(tiny_search, "search.trials=3", "search.finalists=0", "quantization.weight_bits=[4]")
    wide = _search(tiny_search, "search.trials=3", "search.finalists=0", "quantization.weight_bits=[8]")
    assert [t.number for t in wide.targets[0].trials] == [0, 1, 2]
    assert {layer.weight_bits for p in narrow.targets[0].points for layer in p.layers} == {4}
    assert {layer.weight_bits for p in wide.targets[0].points for layer in p.layers} == {8}


def test_a_limit_is_kept(tiny_search: Path, trained_search: Path) -> None:
    free = read_search_json(trained_search / "out" / "report.json").targets[0]
    limit = sorted(p.predicted.weight_bytes for p in free.points)[len(free.points) // 2]
    report = _search(tiny_search, f"search.limits.weight_bytes={limit}", "search.finalists=1")
    (target,) = report.targets
    assert all(p.predicted.weight_bytes <= limit for p in target.points)
    assert target.budgets[0].limits == {"weight_bytes": limit}


def test_json_holds_where_every_number_comes_from(trained_search: Path) -> None:
    text = (trained_search / "out" / "report.json").read_text(encoding="utf-8")
    value: Mapping[str, object] = json.loads(text)
    assert value["seed"] == 0
    assert "simulated" in text
    assert "NaN" not in text


def test_the_time_between_inputs_of_a_pipeline_is_limited(tiny_search: Path) -> None:
    settings = ["search.trials=4", "search.finalists=0", "quantization.weight_bits=[8]", "search.points=2"]
    (free,) = _search(tiny_search, *settings, targets=("big-little",)).targets
    pairs = [(p.predicted.period_s, p.predicted.latency_s) for p in free.points]
    assert all(period_s is not None and 0 < period_s <= latency_s for period_s, latency_s in pairs)
    limit = min(period_s for period_s, _ in pairs if period_s is not None)
    (target,) = _search(tiny_search, *settings, f"search.limits.period_s={limit}", targets=("big-little",)).targets
    assert all(p.predicted.period_s is not None and p.predicted.period_s <= limit for p in target.points)
    assert target.budgets[0].limits == {"period_s": limit}


def test_one_device_takes_one_input_at_a_time(tiny_search: Path) -> None:
    file = load_search_file(
        tiny_search / "search.toml", ["search.limits.period_s=1e-4", "search.limits.latency_s=2e-4"]
    )
    context = open_search(file, tiny_search, tiny_search / "trained", None, Silent())
    assert limits_of(file.search.limits, context.targets[0]) == {"latency_s": 1e-4}
