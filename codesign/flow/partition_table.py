"""What `codesign partition` shows on the terminal."""

from collections.abc import Iterator

from rich.table import Table

from codesign.report.partition_contents import PartitionResult, ratio_text
from codesign.report.quantities import seconds, size


def partition_lines(result: PartitionResult) -> Iterator[Table | str]:
    """Layers of the chosen plan, all modes, and the pipeline.

    Args:
        result: What was found.

    Yields:
        Tables and lines, in the order in which they are shown.
    """
    yield _layers(result)
    yield _modes(result)
    if result.pipeline is not None:
        pipeline, devices = result.pipeline
        names = [op.name for op in result.network.operators]
        table = Table("device", "from", "to", "one micro-batch", title="pipeline (simulated)")
        for stage, device in zip(pipeline.stages, devices, strict=True):
            table.add_row(device, names[stage.first], names[stage.end - 1], seconds(stage.seconds))
        yield table
        yield f"Pipeline with {pipeline.micro_batches} micro-batches: {seconds(pipeline.seconds)} for the whole batch."
    chosen = result.chosen
    taken = sum(p.seconds for p in result.plans.values() if p is not None)
    yield f"Mode {result.mode}: gap {chosen.gap:.3g} ({chosen.method}); all modes planned in {taken:.2f} s."


def _layers(result: PartitionResult) -> Table:
    counted = "" if result.redistribution else ", redistribution between layers not counted"
    title = f"{result.source} on {result.devices_text}, batch {result.network.batch}\nmode {result.mode}{counted}"
    table = Table("layer", "shared out by", "sent", "communication", title=title, show_footer=False)
    if result.with_compute:
        table.add_column("computing")
    for row in result.layers:
        cells = [row.name, row.placement, size(row.price.traffic.bytes), seconds(row.price.traffic.seconds)]
        table.add_row(*cells, *([seconds(row.price.compute_s)] if result.with_compute else []))
    return table


def _modes(result: PartitionResult) -> Table:
    best = result.chosen.price.seconds
    table = Table(
        "mode", "time (simulated)", "sent", "memory", title=f"one step on the busiest device; objective: {result.goal}"
    )
    for mode, found in result.plans.items():
        if found is None:
            table.add_row(mode, "impossible", "–", "–")
        else:
            price = found.price
            table.add_row(mode, ratio_text(price.seconds, best), size(price.traffic.bytes), size(price.memory_bytes))
    return table
