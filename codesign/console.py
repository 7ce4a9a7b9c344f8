"""What the terminal shows: progress with an estimate of the time left, tables, notes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from codesign.report.contents import TEST, Candidate, Latency, RunReport, latency_columns
from codesign.report.quantities import joules, nats, percent, seconds, size

_QUIET_SECONDS = 1.0
"""Without a terminal, work that ended sooner than this is not mentioned."""


class ConsoleProgress:
    """Bars on a terminal; elsewhere one line for each piece of work when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: RichProgress | None = None
        self._stack: list[tuple[TaskID | None, str, float]] = []

    @contextmanager
    def live(self) -> Iterator["ConsoleProgress"]:
        """Shows bars while the block runs.

        Yields:
            This listener.
        """
        if not self._console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            self._bars = bars
            try:
                yield self
            finally:
                self._bars = None

    def start(self, label: str, total: int) -> None:
        """Shows a new bar.

        Args:
            label: What is being done.
            total: Number of steps.
        """
        task = self._bars.add_task(label, total=total) if self._bars else None
        self._stack.append((task, label, time.monotonic()))

    def advance(self, steps: int = 1) -> None:
        """Moves the newest bar.

        Args:
            steps: How many steps are done.
        """
        if self._stack and self._bars and self._stack[-1][0] is not None:
            self._bars.advance(self._stack[-1][0], steps)

    def finish(self) -> None:
        """Removes the newest bar and says how long the work took."""
        task, label, started = self._stack.pop()
        took = time.monotonic() - started
        if self._bars and task is not None:
            self._bars.remove_task(task)
        if took >= _QUIET_SECONDS:
            self._console.print(f"  {label}: {took:.1f} s", style="dim", highlight=False, markup=False)

    def note(self, message: str) -> None:
        """Prints a line that stays.

        Args:
            message: One sentence.
        """
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)


def report_table(report: RunReport) -> Table:
    """The candidates of a run; every column says where its numbers come from.

    Args:
        report: What the run found.

    Returns:
        The table.
    """
    baseline = report.baseline.measured
    assert baseline is not None
    others = [name for name in baseline.accuracy if name != TEST]
    columns = latency_columns(report)
    by_model = next((c.predicted.cost_provenance for c in report.candidates if c.predicted), "estimated")
    table = Table(title=f"{report.run} on {report.target}", caption=_caption(report), caption_justify="left")
    table.add_column("plan")
    for name in (
        "bits",
        "accuracy\nmeasured",
        *(f"{name}\nmeasured" for name in others),
        "loss + nats\nmeasured",
        "loss + nats\nestimated",
        *(f"{x.compiler}\n{x.provenance}" for x in columns),
        f"latency\n{by_model}",
        f"energy\n{by_model}",
        "weights\nexact",
    ):
        table.add_column(name, justify="right")
    for candidate in report.candidates:
        style = "bold" if candidate is report.chosen else ""
        table.add_row(*_cells(candidate, report.chosen, others, columns), style=style)
    return table


def _cells(
    candidate: Candidate, chosen: Candidate, others: list[str], compilers: tuple[Latency, ...]
) -> tuple[str, ...]:
    mark = "★ " if candidate is chosen else "◆ " if candidate.on_front else "  "
    name = mark + ", ".join(candidate.roles)
    found, predicted = candidate.measured, candidate.predicted
    if found is None:
        return (name, f"{candidate.average_bits:.2f}", f"failed: {candidate.failure}")
    latency_of = {latency.compiler: latency for latency in found.latencies}
    return (
        name,
        f"{candidate.average_bits:.2f}",
        *(percent(found.accuracy[test].value) for test in (TEST, *others)),
        nats(found.loss_increase_nats.value) if found.loss_increase_nats else "0",
        nats(predicted.loss_increase_nats) if predicted else "0",
        *(seconds(latency_of[x.compiler].median_s) if x.compiler in latency_of else "–" for x in compilers),
        seconds(predicted.cost.latency_s) if predicted else "–",
        joules(predicted.cost.energy_j) if predicted else "–",
        size(found.artifact_weight_bytes),
    )


def _caption(report: RunReport) -> str:
    baseline = report.baseline.measured
    assert baseline is not None
    parts = ["★ chosen, ◆ on the Pareto front of accuracy, latency and weights."]
    spread = baseline.accuracy[TEST].standard_error
    parts.append(f"Standard error of an accuracy: about {100 * spread:.1f} points.")
    for latency in latency_columns(report)[:1]:
        parts.append(f"Latency: median of {latency.samples} samples, {latency.threads} thread(s), batch 1.")
    return " ".join(parts)
