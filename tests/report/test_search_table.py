import dataclasses
import io

from rich.console import Console

from codesign.report.search_contents import JointSearch
from codesign.report.search_table import search_lines


def _shown(search: JointSearch) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=400, color_system=None, markup=False)
    for line in search_lines(search):
        console.print(line, soft_wrap=isinstance(line, str))
    return stream.getvalue()


def test_the_front_of_each_target_is_shown_with_its_provenance(search: JointSearch) -> None:
    shown = _shown(search)
    for target in search.targets:
        assert f"{search.name} on {target.name}" in shown
        for point in target.front:
            assert f"◆ {point.identity}" in shown
    head = shown.partition("┡")[0]
    for label, times in (("calibrated", 2), ("measured", 4), ("estimated", 1), ("exact", 3)):
        assert head.count(label) == times
    assert "★ chosen. 15 of 40 points are on the front; 212 variants were discarded by bounds. ≥ 1.3e13 points" in shown


def test_choices_failures_and_agreement_have_lines(search: JointSearch) -> None:
    shown = _shown(search)
    chosen = search.targets[0].chosen
    assert chosen is not None
    assert f"{chosen.identity}; integer programme, optimal, gap 0, loss increase at least" in shown
    assert "Under weights ≤ 10 B: no point (the least weight_bytes is 1,200" in shown
    assert "[/tmp/x]" in shown
    assert "failed: compiler" in shown
    assert "1 variant(s) failed: CompileError" in shown
    assert "Latency: Kendall’s tau 0.87 over" in shown
    assert "Loss: no Kendall’s tau: 2 point(s)" in shown


def test_the_best_plan_on_each_target_is_marked(search: JointSearch) -> None:
    lines = _shown(search).splitlines()
    assert any("1 ms ★ · 4 mJ ★ · 0.4 nats ★" in line and "3 ms ★ · 4 mJ · 0.4 nats ★" in line for line in lines)
    assert any("cannot run: no npu there" in line and "4 ms · 2 mJ ★ · 0.511 nats" in line for line in lines)
    alone = dataclasses.replace(search, targets=search.targets[:1], comparison=())
    assert "chosen plans on every target" not in _shown(alone)
