"""The table of a simulation as plain text, for the terminal and the page."""

from dataclasses import dataclass

from codesign.cost.layer_report import LayerReport
from codesign.ir.annotations import Provenance
from codesign.report.quantities import joules, percent, seconds, size
from codesign.report.simulation_contents import SimulationResult

NONE = "–"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Its head.
        provenance: What its numbers are; None for words.
    """

    name: str
    provenance: Provenance | None = None


def columns_of(result: SimulationResult) -> tuple[Column, ...]:
    """Heads of the table.

    Args:
        result: What was found.

    Returns:
        One for each cell of a row; dataflow and cycles only where there is an array.
    """
    kind = result.provenance
    levels = [level.name for level in result.profile.memories]
    return (
        Column("layer"),
        Column("MACs", "exact"),
        *((Column("dataflow"), Column("cycles", kind)) if result.profile.array is not None else ()),
        *(Column(name, kind) for name in ("utilisation", "latency")),
        *(Column(name, result.energy_provenance) for name in ("energy", *levels)),
        Column("bound"),
    )


def layer_cells(result: SimulationResult, layer: LayerReport) -> tuple[str, ...]:
    """One row.

    Args:
        result: That the layer is part of.
        layer: The layer.

    Returns:
        A cell for each column.
    """
    return _cells(layer.name, result, layer, layer.dataflow or NONE, layer.bound)


def total_cells(result: SimulationResult) -> tuple[str, ...]:
    """The last row.

    Args:
        result: What was found.

    Returns:
        A cell for each column.
    """
    return _cells("all", result, result, "", "")


def _cells(
    name: str, result: SimulationResult, of: LayerReport | SimulationResult, dataflow: str, bound: str
) -> tuple[str, ...]:
    cycles = NONE if of.cycles is None else f"{of.cycles:,.0f}"
    return (
        name,
        f"{of.macs:,}",
        *((dataflow, cycles) if result.profile.array is not None else ()),
        percent(of.utilisation) if of.macs else NONE,
        seconds(of.latency_s),
        joules(of.energy_j),
        *(size(of.traffic_bytes[level.name]) for level in result.profile.memories),
        bound,
    )
