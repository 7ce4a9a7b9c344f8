"""The tables of a joint search as plain text, for the terminal and the page."""

from collections.abc import Callable, Sequence

from codesign.ir.annotations import Provenance
from codesign.report.quantities import joules, nats, percent, seconds, size
from codesign.report.search_contents import PlanEverywhere, PlanOnTarget, RankAgreement, SearchSpace, TargetResult
from codesign.report.search_metrics import choices_text
from codesign.report.search_point import SearchPoint
from codesign.report.simulation_rows import NONE, Column


def latency_kinds(target: TargetResult) -> tuple[Provenance, ...]:
    """What latencies of products are.

    Args:
        target: With its points.

    Returns:
        Each kind once, usually one.
    """
    return tuple(dict.fromkeys(p.finalist.latency.provenance for p in target.points if p.finalist is not None))


def point_mark(target: TargetResult, point: SearchPoint) -> str:
    """What stands before a point's name.

    Args:
        target: That the point was found for.
        point: The point.

    Returns:
        `★` for the choice, `◆` for the front.
    """
    return ("★ " if point is target.chosen else "") + ("◆ " if point.on_front else "")


def front_columns(target: TargetResult) -> tuple[Column, ...]:
    """Heads of the table of a front.

    Args:
        target: With its points.

    Returns:
        One for each cell of a row.
    """
    by_model = target.cost_provenance
    return (
        Column("point"),
        Column("variant"),
        Column("bits", "exact"),
        Column("loss, nats", "estimated"),
        Column("loss, nats", "measured"),
        *(Column(f"accuracy, {name}", "measured") for name in target.test_sets),
        Column("latency", by_model),
        *(Column("latency of product", kind) for kind in latency_kinds(target)),
        Column("energy", by_model),
        Column("peak memory", "exact"),
        Column("weights", "exact"),
    )


def front_cells(space: SearchSpace, target: TargetResult, point: SearchPoint) -> tuple[str, ...]:
    """One row of the table of a front.

    Args:
        space: What was searched.
        target: With its points.
        point: One of them.

    Returns:
        A cell for each column.
    """
    expected, built, loss = point.predicted, point.finalist, point.measured_loss
    accuracies = [None if built is None else built.accuracy.get(name) for name in target.test_sets]
    latencies = [None if built is None or built.latency.provenance != kind else built.latency.median_s
                 for kind in latency_kinds(target)]  # fmt: skip
    return (
        point_mark(target, point) + point.identity,
        choices_text(space, point.variant),
        f"{point.average_bits:.2f}",
        nats(expected.loss_nats),
        NONE if loss is None else f"{nats(loss.value)} ± {loss.standard_error:.1g}",
        *(NONE if a is None else percent(a.quantised.value, a.quantised.standard_error) for a in accuracies),
        seconds(expected.latency_s),
        *(NONE if value is None else seconds(value) for value in latencies),
        joules(expected.energy_j),
        size(expected.peak_memory_bytes),
        size(expected.weight_bytes),
    )


def agreement_text(agreement: RankAgreement) -> str:
    """How well predictions order what was measured, in words.

    Args:
        agreement: The number.

    Returns:
        Such as `Kendall's tau 0.87 over 8 points`.
    """
    if agreement.tau is not None:
        return f"Kendall’s tau {agreement.tau:.2f} over {agreement.points} points"
    if agreement.points < 3:
        return f"no Kendall’s tau: {agreement.points} point(s), at least three are needed"
    return f"no Kendall’s tau: all {agreement.points} points are equal on one side"


def plan_cells(comparison: Sequence[PlanEverywhere], on: PlanOnTarget) -> tuple[str, ...]:
    """A plan on one target.

    Args:
        comparison: All plans; the best number of each kind on this target gets a `★`.
        on: The plan on the target.

    Returns:
        Latency, energy and loss; or one line that says why it cannot run there.
    """
    if on.failure is not None:
        return (f"cannot run: {on.failure}",)
    here = [other for plan in comparison for other in plan.on if other.target == on.target]
    return (
        _starred(on.latency_s, [x.latency_s for x in here], seconds),
        _starred(on.energy_j, [x.energy_j for x in here], joules),
        _starred(on.loss_nats, [x.loss_nats for x in here], lambda v: f"{nats(v)} nats"),
    )


def _starred(value: float | None, all_values: Sequence[float | None], show: Callable[[float], str]) -> str:
    if value is None:
        return NONE
    best = min(other for other in all_values if other is not None)
    return show(value) + (" ★" if value == best else "")
