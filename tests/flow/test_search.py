"""A joint search in seconds: a SqueezeNext of two stages on 8x8 images of three classes."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from codesign.architecture.space import variants
from codesign.errors import CodesignError, CompileError, InputError
from codesign.flow import search_finalists, search_trials
from codesign.flow.build import apply_and_compile
from codesign.flow.search import search
from codesign.flow.search_context import SearchContext, open_search
from codesign.flow.search_loop import Workers
from codesign.flow.search_points import Reached
from codesign.flow.search_pricing import lower_bounds, metrics_of, problem_of
from codesign.flow.search_trials import TrialEvaluator, decisions
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.progress import Silent
from codesign.report.search_contents import JointSearch
from codesign.report.search_json import read_search_json
from codesign.search.joint_study import Candidate
from codesign.search.pareto import non_dominated
from codesign.search_file import load_search_file

SEARCH = """
name = "tiny"
targets = ["squeezelerator-8x8"]

[space]
kind = "squeezenext"
depths = [[1], [1, 2]]
widths = [[8], [8, 16]]
groups = [1, 2]
stem_channels = 8
tail_channels = 8
resolutions = [8]
image_channels = 1
classes = 3

[elastic]
epochs = 2
batch_size = 16
random_variants = 1
threads = 1
weight_bits = [4, 8]

[data]
train = "train.npz"
test = "test.npz"
calibration_samples = 24
search_samples = 36

[quantization]
weight_bits = [4, 8]
hessian_samples = 0
sensitivity_samples = 16

[search]
trials = 9
points = 3
finalists = 2
refinements = 4

[measure]
compilers = ["onnxruntime"]
warm_up = 1
repeats = 3
runs_per_sample = 1
"""
Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, run file, and a finished search in `out`."""
    folder = tmp_path_factory.mktemp("search")
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 3
    prototypes = generator.normal(size=(3, 8, 8, 1))
    images = (prototypes[labels] + 2.0 * generator.normal(size=(240, 8, 8, 1))).astype(np.float32)
    np.savez(folder / "train.npz", images=images[:180], labels=labels[:180])
    np.savez(folder / "test.npz", images=images[180:], labels=labels[180:])
    (folder / "search.toml").write_text(SEARCH)
    search(load_search_file(folder / "search.toml"), folder, folder / "out", Silent())
    return folder


@pytest.fixture
def tiny_search(_trained: Path, tmp_path: Path) -> Path:
    """A folder with `search.toml`, its data, and `trained`: shared weights and nothing else."""
    folder = tmp_path / "search"
    folder.mkdir()
    for name in ("search.toml", "train.npz", "test.npz"):
        shutil.copy(_trained / name, folder)
    shutil.copytree(_trained / "out" / "elastic", folder / "trained" / "elastic")
    shutil.copytree(_trained / "out" / "steps", folder / "trained" / "steps")
    return folder


def _search(folder: Path, *settings: str, out: str = "trained", targets: tuple[str, ...] = ()) -> JointSearch:
    return search(load_search_file(folder / "search.toml", settings, targets), folder, folder / out, Silent())


def _front(report: JointSearch) -> list[tuple[object, ...]]:
    return [(p.identity, p.loss, p.predicted, p.layers) for p in report.targets[0].front]


def test_the_whole_flow(_trained: Path) -> None:
    report = read_search_json(_trained / "out" / "report.json")
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
        assert (_trained / "out" / point.finalist.artifact).exists()
    assert "<svg" in (_trained / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", ["squeezelerator-8x8", "cpu+npu", "host-2proc"])
def test_lower_bounds_are_below_every_decision(_trained: Path, target: str) -> None:
    settings = ["quantization.weight_bits=[4, 8]"]
    file = load_search_file(_trained / "search.toml", settings, [target])
    context = open_search(file, _trained, _trained / "out", None, Silent())
    analyst = VariantAnalyst(context, context.shared_weights)
    place = context.targets[0]
    for variant in variants(context.space):
        screened = analyst.screen(variant)
        bound = lower_bounds(place, screened.program, screened.facts)
        found = decisions(problem_of(place, analyst.analyse(variant)), {}, ("latency_s", "energy_j", "weight_bytes"), 3)
        for decision in found:
            totals = metrics_of(decision.allocation.metrics)
            assert all(least <= total * (1 + 1e-12) for least, total in zip(bound, totals, strict=True))


def test_data_for_training_and_for_searching_share_nothing(_trained: Path) -> None:
    context = open_search(load_search_file(_trained / "search.toml"), _trained, _trained / "out", None, Silent())
    searched = {image.tobytes() for image in context.data.splits.search.images}
    trained = {image.tobytes() for image in context.data.training_without_search.images}
    tested = {image.tobytes() for image in context.data.splits.test.images}
    assert len(searched) == 36
    assert len(trained) == 180 - 36
    assert not searched & trained
    assert not tested & (searched | trained)


def test_repeating_does_nothing_again_and_a_new_folder_finds_the_same(_trained: Path, tiny_search: Path) -> None:
    before = read_search_json(_trained / "out" / "report.json")
    stamps = {path: path.stat().st_mtime_ns for path in (_trained / "out" / "variants").rglob("*.onnx")}
    again = _search(_trained, out="out")
    assert _front(again) == _front(before)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert _front(_search(tiny_search)) == _front(before)


def test_killed_at_any_point_the_same_command_finds_the_same_front(_trained: Path, tiny_search: Path) -> None:
    expected = _front(read_search_json(_trained / "out" / "report.json"))
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


def test_workers_share_the_trials(_trained: Path, tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_measured_target_corrects_its_cost_model(tiny_search: Path) -> None:
    report = _search(tiny_search, "search.trials=8", targets=("host-cpu",))
    (target,) = report.targets
    (file,) = (tiny_search / "trained/targets/host-cpu").glob("correction-*.json")
    halfway = json.loads(file.read_text())
    assert halfway["correction"]["networks"] == len(halfway["plans"]) >= 1
    assert set(halfway["plans"]) <= {p.identity for p in target.built}
    assert target.cost_provenance == "calibrated"
    assert len(target.trials) == 8
    assert all(p.finalist is not None and p.finalist.latency.provenance == "measured" for p in target.built)
    for point in target.front:
        for price in point.shadow_prices:  # budgets follow corrected prices, so that none is beyond reach
            assert price.limit == pytest.approx(getattr(point.predicted, price.metric))
    again = _search(tiny_search, "search.trials=8", targets=("host-cpu",))
    assert _front(again) == _front(report)


def test_resolution_may_be_an_axis(tiny_search: Path) -> None:
    settings = ["space.resolutions=[6, 8]", "search.trials=4", "search.finalists=2", "search.finetune_epochs=1"]
    report = _search(tiny_search, *settings, out="sized")
    (target,) = report.targets
    assert {p.variant.choices["resolution"] for p in target.points} == {6, 8}
    assert target.built
    assert all(p.finalist is not None and p.finalist.finetuned for p in target.built)


def test_finalists_may_be_trained_further(tiny_search: Path) -> None:
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


def test_run_files_of_the_other_command_are_told_apart(tiny_search: Path, codesign: Call) -> None:
    code, printed = codesign("run", tiny_search / "search.toml")
    assert code != 0
    assert "run it with `codesign search`" in printed
    (tiny_search / "run.toml").write_text('name = "x"\n[model]\nsource = "a:b"\n')
    code, printed = codesign("search", tiny_search / "run.toml")
    assert code != 0
    assert "run it with `codesign run`" in printed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["space.depths=[]"], "the space is empty"),
        (["space.widths=[[6],[8]]"], "multiple of"),
        (["space.classes=2"], "labels"),
        (["space.image_channels=3"], "channel"),
        (["search.trials=0"], "search.trials"),
        (["targets=[]"], "targets"),
        (['targets=["squeezelerator-8x8", "squeezelerator-8x8"]'], "twice"),
        (['targets=["edge-tpu"]', "quantization.weight_bits=[4]"], "has rates for"),
        (["search.finalist=3"], "finalist"),
    ],
)
def test_bad_run_files(tiny_search: Path, settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        search(load_search_file(tiny_search / "search.toml", settings), tiny_search, tiny_search / "trained", Silent())


def test_a_limit_that_every_member_breaks_names_what_can_be_reached(tiny_search: Path) -> None:
    with pytest.raises(CodesignError, match=r"broke a limit(.|\n)*weight_bytes(.|\n)*least possible") as caught:
        _search(tiny_search, "search.limits.weight_bytes=10", "search.trials=4")
    assert "none of 4 trials" in str(caught.value)


def test_what_changes_results_begins_a_study_of_its_own(tiny_search: Path) -> None:
    narrow = _search(tiny_search, "search.trials=3", "search.finalists=0", "quantization.weight_bits=[4]")
    wide = _search(tiny_search, "search.trials=3", "search.finalists=0", "quantization.weight_bits=[8]")
    assert [t.number for t in wide.targets[0].trials] == [0, 1, 2]
    assert {layer.weight_bits for p in narrow.targets[0].points for layer in p.layers} == {4}
    assert {layer.weight_bits for p in wide.targets[0].points for layer in p.layers} == {8}


def test_a_limit_is_kept(tiny_search: Path, _trained: Path) -> None:
    free = read_search_json(_trained / "out" / "report.json").targets[0]
    limit = sorted(p.predicted.weight_bytes for p in free.points)[len(free.points) // 2]
    report = _search(tiny_search, f"search.limits.weight_bytes={limit}", "search.finalists=1")
    (target,) = report.targets
    assert all(p.predicted.weight_bytes <= limit for p in target.points)
    assert target.budgets[0].limits == {"weight_bytes": limit}


def test_a_variant_that_gives_nan_is_one_failed_candidate(tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from codesign.architecture.space import Variant
    from codesign.flow import elastic

    usual = elastic.calibrated_network

    def broken(context: SearchContext, supernet: nn.Module, variant: Variant) -> nn.Module:
        network = usual(context, supernet, variant)  # type: ignore[arg-type]  # any supernet
        if variant.values["groups"] == 2:
            with torch.no_grad():
                next(network.parameters()).fill_(1e38)
        return network

    monkeypatch.setattr(elastic, "calibrated_network", broken)
    report = _search(tiny_search, "search.finalists=0")
    (target,) = report.targets
    assert {p.variant.choices["groups"] for p in target.points} == {1}
    assert sum(reason.count for reason in target.failed) >= 1
    assert len(target.trials) == 9


def test_a_finalist_that_does_not_compile_is_one_failure(tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []

    def compile_all_but_one(*arguments: object) -> object:
        if not failed:
            failed.append(arguments)
            raise CompileError("no code for this")
        return apply_and_compile(*arguments)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(search_finalists, "apply_and_compile", compile_all_but_one)
    report = _search(tiny_search)
    (target,) = report.targets
    assert len(target.built) == 1
    assert [p.failure for p in target.points if p.failure] == ["no code for this"]


def test_a_trial_that_fails_is_told_and_the_search_goes_on(tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TrialEvaluator._evaluate

    def evaluate(self: TrialEvaluator, candidate: Candidate, reached: Reached) -> object:
        if candidate.number in {1, 4}:
            raise CodesignError("out of luck")
        return usual(self, candidate, reached)

    monkeypatch.setattr(search_trials.TrialEvaluator, "_evaluate", evaluate)
    notes: list[str] = []
    file = load_search_file(tiny_search / "search.toml", ["search.finalists=0"])
    report = search(file, tiny_search, tiny_search / "trained", Silent(notes.append))
    assert [(r.reason, r.count) for r in report.targets[0].failed] == [("out of luck", 2)]
    assert sum("out of luck" in note for note in notes) == 2


def test_json_holds_where_every_number_comes_from(_trained: Path) -> None:
    text = (_trained / "out" / "report.json").read_text(encoding="utf-8")
    value: Mapping[str, object] = json.loads(text)
    assert value["seed"] == 0
    assert "simulated" in text
    assert "NaN" not in text


def test_interrupted_the_report_holds_what_was_found(tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TrialEvaluator.evaluate

    def evaluate(self: TrialEvaluator, candidate: Candidate, reached: Reached) -> object:
        if candidate.number == 5:
            raise KeyboardInterrupt
        return usual(self, candidate, reached)

    monkeypatch.setattr(TrialEvaluator, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        _search(tiny_search)
    report = read_search_json(tiny_search / "trained" / "report.json")
    assert len(report.targets[0].trials) == 5
    assert report.targets[0].front
    assert not report.targets[0].built
