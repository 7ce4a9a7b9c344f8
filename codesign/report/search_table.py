"""What `codesign search` shows on the terminal."""

from collections.abc import Iterator

from rich.table import Table

from codesign.report.quantities import nats, seconds
from codesign.report.search_contents import BudgetPlan, JointSearch, TargetResult
from codesign.report.search_metrics import joint_points_text, limits_text
from codesign.report.search_rows import agreement_text, front_cells, front_columns, plan_cells


def search_lines(search: JointSearch) -> Iterator[Table | str]:
    """The front of each target with what was chosen, and which plan is best where.

    Args:
        search: What was found.

    Yields:
        Tables and lines, in the order in which they are shown.
    """
    for target in search.targets:
        yield front_table(search, target)
        for budget in target.budgets:
            yield _budget_line(target, budget)
        yield f"Latency: {agreement_text(target.latency_agreement)}. Loss: {agreement_text(target.loss_agreement)}."
        for point in target.points:
            if point.failure is not None:
                yield f"{point.identity} failed: {point.failure}"
        for failed in target.failed:
            yield f"{failed.count} variant(s) failed: {failed.reason}"
    if search.comparison:
        yield comparison_table(search)


def front_table(search: JointSearch, target: TargetResult) -> Table:
    """The front of a target; every column says where its numbers come from.

    Args:
        search: What was found.
        target: Whose front.

    Returns:
        The table, the fastest point first.
    """
    discarded = sum(reason.count for reason in target.discarded)
    caption = (
        f"★ chosen. {len(target.front)} of {len(target.points)} points are on the front; {discarded:,} variants were "
        f"discarded by bounds. {joint_points_text(target)} points in all, {seconds(search.seconds)}."
    )
    caption = " ".join([caption, *target.profile_notes])
    table = Table(title=f"{search.name} on {target.name}", caption=caption, caption_justify="left")
    for column in front_columns(target):
        if column.provenance is None:
            table.add_column(column.name)
        else:
            table.add_column(f"{column.name}\n{column.provenance}", justify="right")
    for point in target.front:
        table.add_row(*front_cells(search.space, target, point), style="bold" if point is target.chosen else "")
    return table


def comparison_table(search: JointSearch) -> Table:
    """Which plan is best where.

    Args:
        search: With chosen plans on all targets.

    Returns:
        A row for each plan, a column for each target.
    """
    table = Table("plan chosen for", title="chosen plans on every target", caption="★ the best there")
    for target in search.targets:
        table.add_column(target.name)
    for plan in search.comparison:
        cells = [" · ".join(plan_cells(search.comparison, on)) for on in plan.on]
        table.add_row(f"{plan.chosen_for}: {plan.identity}", *cells)
    return table


def _budget_line(target: TargetResult, budget: BudgetPlan) -> str:
    limits = limits_text(budget.limits)
    if budget.identity is None:
        return f"Under {limits}: no point ({budget.failure})"
    decision = target.point(budget.identity).decision
    return (
        f"Under {limits}: {budget.identity}; {decision.method}, {decision.status}, gap {decision.gap:.2g}, "
        f"loss increase at least {nats(decision.bound_nats)} nats"
    )
