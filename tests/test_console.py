import dataclasses
import io
import time

import pytest
from rich.console import Console

from codesign.console import ConsoleProgress, report_table
from codesign.plan.plan import Cost, Plan
from codesign.progress import track
from codesign.quantization.scheme import BitWidths
from codesign.report.contents import BudgetChoice, Candidate, Estimate, Latency, Measured, Prediction, RunReport


def _console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=160, color_system=None, markup=False), stream


def test_without_a_terminal_short_work_is_silent_and_notes_stay() -> None:
    console, stream = _console(terminal=False)
    with ConsoleProgress(console).live() as progress:
        assert list(track(progress, "short work", range(3), 3)) == [0, 1, 2]
        progress.note("a note of [1, 2] and [/tmp/x] in [red]")
    assert stream.getvalue() == "a note of [1, 2] and [/tmp/x] in [red]\n"


def test_long_work_is_told_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = _console(terminal=False)
    clock = iter((10.0, 11.0, 13.5, 20.0))
    monkeypatch.setattr("codesign.console.time.monotonic", lambda: next(clock))
    with ConsoleProgress(console).live() as progress:
        progress.start("outer [/tmp/x]", 2)
        progress.start("inner", 1)
        progress.finish()
        progress.finish()
    assert stream.getvalue().splitlines() == ["  inner: 2.5 s", "  outer [/tmp/x]: 10.0 s"]


def test_a_terminal_shows_a_bar_with_an_estimate() -> None:
    console, stream = _console(terminal=True)
    with ConsoleProgress(console).live() as progress:
        progress.start("work on [/tmp/x]", 4)
        progress.advance(3)
        time.sleep(0.3)  # bars are drawn ten times a second
        progress.note("still going")
        progress.finish()
    assert "still going" in stream.getvalue()
    assert "3/4" in stream.getvalue()
    assert "left" in stream.getvalue()
    assert "work on [/tmp/x]" in stream.getvalue()


def test_bars_end_when_the_work_fails() -> None:
    console, _ = _console(terminal=True)
    progress = ConsoleProgress(console)
    with pytest.raises(ZeroDivisionError), progress.live():
        for _ in track(progress, "work", range(3), 3):
            raise ZeroDivisionError
    progress.start("later", 1)
    progress.finish()


def _report(failure: str | None = None) -> RunReport:
    plan, other = (Plan("net", (("conv", BitWidths(bits, 8)),)) for bits in (4, 8))
    cost = Cost(1e-4, 2e-6, 900, 300, 1e6)
    latency = Latency("tvm", 1.5e-4, 1e-4, 1e-6, 50, 1, "measured")
    loss = Estimate(0.011, 0.001)
    accuracy = {"test": Estimate(0.91, 0.01), "rotated [/x]": Estimate(0.5, 0.01)}
    measured = Measured(loss, accuracy, (latency,), None, None, 600, None)
    candidates = (
        Candidate("baseline", ("float32",), None, 32.0, None, dataclasses.replace(measured, loss_increase_nats=None)),
        Candidate(plan.digest, ("chosen",), plan, 4.0, Prediction(0.01, cost, "estimated"), measured),
        Candidate(
            other.digest,
            ("uniform [/y]",),
            other,
            8.0,
            Prediction(0.01, cost, "estimated"),
            None if failure else measured,
            failure,
            on_front=True,
        ),
    )
    choices = (BudgetChoice("average_bits = 4", plan.digest, plan.digest, 0.0, 0.0, 1),)
    return RunReport("run [/z]", "host-cpu", "", (), 0, {}, {}, "kl", candidates, choices)


def test_the_table_says_where_each_number_comes_from() -> None:
    console, stream = _console(terminal=False)
    console.print(report_table(_report()))
    lines = stream.getvalue().splitlines()
    heading = "\n".join(lines[:6])
    assert heading.count("measured") == 4  # accuracy twice, loss, TVM
    assert heading.count("estimated") == 3  # loss, latency, energy
    assert heading.count("exact") == 1
    (chosen,) = (line for line in lines if "★ chosen " in line)
    for words in ("4.00", "91.00 %", "50.00 %", "0.011", "0.01", "150 µs", "100 µs", "2 µJ", "600 B"):
        assert words in chosen
    assert any("◆ uniform" in line for line in lines)


def test_names_and_failures_with_brackets_are_shown_as_they_are() -> None:
    console, stream = _console(terminal=False)
    console.print(report_table(_report("images have shape [n, 3], see [/tmp/x]")))
    for words in ("run [/z]", "uniform [/y]", "rotated [/x]", "[n,", "[/tmp/x]"):
        assert words in stream.getvalue().replace("\n", "")
