"""What `codesign simulate` shows on the terminal."""

from collections.abc import Iterator

from rich.table import Table

from codesign.report.simulation_contents import SimulationResult
from codesign.report.simulation_rows import columns_of, layer_cells, total_cells


def simulation_lines(result: SimulationResult) -> Iterator[Table | str]:
    """Every layer with totals, and how far the profile behind them is verified.

    Args:
        result: What was found.

    Yields:
        A table and lines, in the order in which they are shown.
    """
    yield simulation_table(result)
    yield unverified_line(result)


def unverified_line(result: SimulationResult) -> str:
    """Which numbers of the profile were recalled, inferred or assumed.

    Args:
        result: With the profile.

    Returns:
        One sentence.
    """
    profile = result.profile
    if not profile.unverified:
        return f"All numbers of profile {profile.name} are verified."
    return f"Not verified in profile {profile.name} (recalled, inferred or assumed): {', '.join(profile.unverified)}"


def simulation_table(result: SimulationResult) -> Table:
    """Every layer, and all together.

    Args:
        result: What was found.

    Returns:
        One row for each layer and one for the totals; every column says where its numbers come from.
    """
    widths = f"{result.widths.weight}-bit weights, {result.widths.activation}-bit activations"
    table = Table(title=f"{result.title} on {result.device}\n{widths}", show_footer=True)
    for column, total in zip(columns_of(result), total_cells(result), strict=True):
        if column.provenance is None:
            table.add_column(column.name, footer=total)
        else:
            table.add_column(f"{column.name}\n{column.provenance}", footer=total, justify="right")
    for layer in result.layers:
        table.add_row(*layer_cells(result, layer))
    return table
