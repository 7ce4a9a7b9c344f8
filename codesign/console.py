"""What the terminal shows: progress with an estimate of the time left, tables, notes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from codesign.report.analysis_contents import Analysis, LayerAnalysis, Validation
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
    return " ".join([*parts, *report.profile_notes])


def analysis_lines(analysis: Analysis) -> Iterator[Table | str]:
    """What an analysis found: layers, the whole network, how far predictors can be trusted, and what it took.

    Args:
        analysis: What was found.

    Yields:
        Tables and lines, in the order in which they are shown.
    """
    yield layer_table(analysis)
    if (network := analysis.network) is not None:
        tops = ", ".join(f"{value:.4g}" for value in network.top_eigenvalues)
        yield (
            f"All {network.parameters:,} weights together (estimated): trace {network.trace:.5g} ± "
            f"{network.standard_error:.2g}, top eigenvalues {tops}"
        )
    if analysis.validation is not None:
        yield tau_table(analysis.validation)
    cost = analysis.cost
    yield (
        f"{analysis.samples} samples, {seconds(cost.seconds)} ({seconds(cost.cpu_seconds)} of CPU), peak memory "
        f"{size(cost.peak_memory_bytes)}, {cost.passes_over_data:,.1f} passes over the data for Hessian traces and "
        f"eigenvalues"
    )


def layer_table(analysis: Analysis) -> Table:
    """Curvature and expected loss increase of each layer.

    Args:
        analysis: What was found.

    Returns:
        The table.
    """
    predictor = analysis.main_predictor
    curved = any(layer.curvature is not None for layer in analysis.layers)
    activations = any(layer.activation is not None and layer.activation.trace for layer in analysis.layers)
    fisher = any(layer.fisher is not None for layer in analysis.layers)
    widths = tuple(analysis.layers[0].loss_increase)
    caption = "" if predictor is None else f"Loss increase in nats by {predictor}; ~ is estimated by a quadratic model."
    table = Table(title=analysis.model, caption=caption, caption_justify="left")
    table.add_column("layer")
    curvature = ("Hessian trace", "top eigenvalue", "") if curved else ()
    losses = tuple(f"{bits} bits" for bits in widths)
    extra = (*(("Fisher trace",) if fisher else ()), *(("activation trace",) if activations else ()))
    for name in ("weights", *curvature, *extra, *losses):
        table.add_column(name, justify="right")
    for layer in analysis.layers:
        cells = [layer.name, f"{layer.parameters:,}", *(_curvature_cells(layer) if curved else ())]
        cells += [f"{layer.fisher:.4g}"] if layer.fisher is not None else []
        cells += [_activation_cell(layer)] if activations else []
        table.add_row(*cells, *_loss_cells(layer, widths, predictor))
    return table


def tau_table(validation: Validation) -> Table:
    """How well each predictor orders layers and assignments.

    Args:
        validation: What was measured.

    Returns:
        Kendall's tau with the measured divergence and, after a stroke, with the measured loss.
    """
    title = f"Kendall's tau with KL / loss measured on {validation.samples} held-out samples"
    table = Table(title=title, caption=f"Assignments: {len(validation.assignments)}, sums over layers.")
    table.add_column("predictor")
    columns = [*validation.layer_taus.values(), validation.assignment_taus]
    for name in (*(f"layers, {bits} bits" for bits in validation.layer_taus), "assignments"):
        table.add_column(name, justify="right")
    for name in dict.fromkeys(name for column in columns for name in column):
        taus = [column.get(name) for column in columns]
        table.add_row(name, *("–" if tau is None else f"{_tau(tau.kl)} / {_tau(tau.loss)}" for tau in taus))
    return table


def _curvature_cells(layer: LayerAnalysis) -> tuple[str, ...]:
    found = layer.curvature
    if found is None:
        return ("–", "–", "–")
    spread = f" ± {found.standard_error:.1g}" if found.standard_error else ""
    top = f"{found.top_eigenvalues[0]:.4g}" if found.top_eigenvalues else "–"
    matrix = "" if found.matrix == "hessian" else f" {found.matrix}"
    return (f"{found.trace:.4g}{spread}", top, f"{found.provenance}{matrix}")


def _activation_cell(layer: LayerAnalysis) -> str:
    trace = None if layer.activation is None else layer.activation.trace
    if trace is None:
        return "–"
    return f"{trace.trace:.4g}" + (f" ± {trace.standard_error:.1g}" if trace.standard_error else "")


def _loss_cells(layer: LayerAnalysis, widths: Sequence[int], predictor: str | None) -> Iterator[str]:
    for bits in widths if predictor is not None else ():
        entry = layer.loss_increase[bits][predictor or ""]
        yield ("" if entry.provenance == "measured" else "~") + nats(entry.nats)


def _tau(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
