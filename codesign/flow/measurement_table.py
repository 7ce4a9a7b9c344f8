"""What `codesign measure` shows."""

from collections.abc import Iterator

from rich.table import Table

from codesign.flow.measure import MeasuredArtifact
from codesign.report.quantities import joules, percent, seconds


def measurement_lines(found: MeasuredArtifact) -> Iterator[Table | str]:
    """The result as text and tables.

    Args:
        found: What was measured.

    Yields:
        Parts to print.
    """
    if found.manifest.arithmetic_note:
        yield found.manifest.arithmetic_note
    if found.instructions is not None:
        count = found.instructions
        yield (
            f"{found.folder} on {found.target}: {count.instructions:,.0f} instructions a run, counted by "
            f"{count.emulator} over {count.runs} runs on one thread; no measure of time"
        )
        return
    minimum = min(found.latencies_s)
    yield (
        f"{found.folder} on {found.target}: median {seconds(found.median_s)}, minimum {seconds(minimum)} (measured, "
        f"{len(found.latencies_s)} samples, {found.threads} thread(s))"
    )
    yield f"energy {joules(found.energy_j)} a run ({found.energy_source})" if found.energy_j else found.energy_source
    if found.layers:
        yield _layer_table(found)


def _layer_table(found: MeasuredArtifact) -> Table:
    table = Table("layer", "kernels", "latency", "share", "kernels alone", title=f"{found.folder} on {found.target}")
    for column in table.columns[2:]:
        column.justify = "right"
    for layer in found.layers:
        names = ", ".join(dict.fromkeys(layer.kernels))
        share = percent(layer.seconds / found.median_s)
        table.add_row(layer.layer, names, seconds(layer.seconds), share, seconds(layer.alone_s))
    table.caption = "Kernels timed alone (measured), then scaled by one factor so that they add up to the median."
    return table
