"""Joint searches that cannot work, and parts of them that fail."""

from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.errors import CodesignError, CompileError, InputError
from codesign.flow import search_finalists, search_trials
from codesign.flow.build import apply_and_compile
from codesign.flow.search import search
from codesign.flow.search_context import SearchContext
from codesign.flow.search_points import Reached
from codesign.flow.search_trials import TrialEvaluator
from codesign.progress import Silent
from codesign.report.search_contents import JointSearch
from codesign.report.search_json import read_search_json
from codesign.search.joint_study import Candidate
from codesign.search_file import load_search_file

Call = Callable[..., tuple[int, str]]


def _search(folder: Path, *settings: str, out: str = "trained", targets: tuple[str, ...] = ()) -> JointSearch:
    return search(load_search_file(folder / "search.toml", settings, targets), folder, folder / out, Silent())


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
