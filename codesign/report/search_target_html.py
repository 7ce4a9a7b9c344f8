"""What a joint search found for one target, as sections of its page."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from codesign.report import search_figures as figures
from codesign.report.page import figure_block, table, tag, tiles
from codesign.report.quantities import joules, nats, percent, seconds, size
from codesign.report.search_contents import JointSearch, ReasonCount, TargetResult
from codesign.report.search_front_figures import front_figure, front_space_figure
from codesign.report.search_metrics import choices_text, limits_text, metric_label, metric_text, price_text
from codesign.report.search_point import SearchPoint, ShadowPrice
from codesign.report.search_point_html import accuracy_cell, energy_cell, estimate_text, latency_cell, point_panels
from codesign.report.search_rows import agreement_text, front_cells, front_columns, point_mark
from codesign.report.simulation_rows import NONE


def target_sections(search: JointSearch, target: TargetResult) -> Iterator[str]:
    """The sections of one target.

    Args:
        search: What was found.
        target: One of its targets.

    Yields:
        HTML, in the order in which it is shown.
    """
    notes = "".join(f'<p class="soft">⚠ {escape(note)}</p>' for note in target.profile_notes)
    yield (
        f'<h2>{escape(target.name)}</h2><p class="soft">{escape(target.description)}</p><p class="soft">Profile: '
        f"{escape(target.profile)}; runner: {escape(target.runner)}.</p>{notes}"
    )
    yield _choice_tiles(target)
    if target.points:
        yield _front(search, target)
        yield "<h3>The front</h3>" + _front_table(search, target)
        yield "<h3>What was built</h3>" + _built(target)
    yield "<h3>Budgets, and what limits cost</h3>" + _budgets(search, target)
    yield _agreement(target)
    yield "<h3>Progress</h3>" + _progress(target)


def _choice_tiles(target: TargetResult) -> str:
    chosen = target.chosen
    if chosen is None:
        return "<p><b>Nothing was chosen</b>; the table of budgets says why.</p>"
    expected, found, loss = chosen.predicted, chosen.finalist, chosen.measured_loss
    accuracies = [
        (f"accuracy, {name}", percent(pair.quantised.value, pair.quantised.standard_error), "measured",
         f"floating point: {percent(pair.floating.value)}")
        for name, pair in (found.accuracy.items() if found is not None else ())
    ]  # fmt: skip
    return tiles([
        *accuracies,
        ("loss", f"{nats(expected.loss_nats)} nats", "estimated", "not measured whole")
        if loss is None
        else ("loss", f"{estimate_text(loss)} nats", "measured", f"predicted: {nats(expected.loss_nats)}"),
        ("latency", seconds(expected.latency_s), target.cost_provenance, "not built")
        if found is None
        else ("latency", seconds(found.latency.median_s), found.latency.provenance,
              f"predicted: {seconds(found.predicted_latency_s)}"),
        ("energy", joules(expected.energy_j), target.cost_provenance, "not measured")
        if found is None or found.energy_j is None or found.energy_provenance is None
        else ("energy", joules(found.energy_j), found.energy_provenance, f"predicted: {joules(expected.energy_j)}"),
        ("peak memory", size(expected.peak_memory_bytes), "exact", "activations"),
        ("weights", size(expected.weight_bytes), "exact", f"{chosen.average_bits:.2f} bits on average"),
    ])  # fmt: skip


def _front(search: JointSearch, target: TargetResult) -> str:
    space = search.space
    numbered = sorted(enumerate(target.points), key=lambda item: (not item[1].on_front, item[1].predicted.latency_s))
    shown = numbered[0][0] if target.chosen is None else target.points.index(target.chosen)
    options = "".join(
        f'<option value="{number}"{" selected" if number == shown else ""}>{point_mark(target, point)}'
        f"{escape(point.identity)}, {seconds(point.predicted.latency_s)}: {escape(choices_text(space, point.variant))}"
        "</option>"
        for number, point in numbered
    )
    return (
        '<p class="soft">Rings are predicted, discs have a measured loss, diamonds were compiled and run; bars are one '
        "standard error of a loss or an accuracy, and the quartiles of a latency. Menus choose the axes; a click on a "
        "mark, or the list, shows a point.</p>"
        f'<div class="front"><div>{figure_block(front_figure(space, target), 520)}'
        f"{figure_block(front_space_figure(space, target), 560)}</div>"
        f'<div class="picked"><p><select aria-label="point">{options}</select></p>'
        f"{point_panels(space, target, shown)}</div></div>"
    )


def _front_table(search: JointSearch, target: TargetResult) -> str:
    head = [escape(c.name) + (f" {tag(c.provenance)}" if c.provenance else "") for c in front_columns(target)]
    rows = [[escape(cell) for cell in front_cells(search.space, target, point)] for point in target.front]
    shown = table(head, rows, "★ chosen, ◆ on the front; ± is one standard error. The fastest first.")
    return f'<div class="listing">{shown}</div>'


def _built(target: TargetResult) -> str:
    tests = [f"{escape(name)} {tag('measured')}" for name in target.test_sets]
    losses = [f"loss, nats {tag('measured')}", f"predicted latency {tag(target.cost_provenance)}"]
    head = ["point", "product", *tests, *losses, "latency", "energy", f"weights {tag('exact')}"]
    rows = [_built_cells(target, point) for point in target.built]
    caption = "Accuracy of the product, and below it of the same network in floating point; latencies are medians."
    failed = [
        [point_mark(target, p) + escape(p.identity), escape(p.failure)] for p in target.points if p.failure is not None
    ]
    shown = table(head, rows, caption) if rows else "<p>Nothing was run: the numbers above are predictions.</p>"
    shown += table(["point", "why it could not be built"], failed) if failed else ""
    return f'<div class="listing">{shown}</div>'


def _built_cells(target: TargetResult, point: SearchPoint) -> list[str]:
    found = point.finalist
    assert found is not None
    pairs = [found.accuracy.get(name) for name in target.test_sets]
    return [
        point_mark(target, point) + escape(point.identity),
        f"<code>{escape(found.artifact)}</code>"
        + ('<br><span class="soft">fine-tuned</span>' if found.finetuned else ""),
        *(NONE if pair is None else accuracy_cell(pair) for pair in pairs),
        NONE if found.loss is None else estimate_text(found.loss),
        seconds(found.predicted_latency_s),
        latency_cell(found),
        energy_cell(found),
        size(found.artifact_weight_bytes),
    ]


def _budgets(search: JointSearch, target: TargetResult) -> str:
    rows = []
    for budget in target.budgets:
        if budget.identity is None:
            rows.append([escape(limits_text(budget.limits)), f"none: {escape(budget.failure or '')}"])
            continue
        point = target.point(budget.identity)
        decision, choices = point.decision, escape(choices_text(search.space, point.variant))
        rows.append([
            escape(limits_text(budget.limits)),
            f"{escape(budget.identity)}<br><span class='soft'>{choices}</span>",
            f"{escape(decision.method)}: {escape(decision.status)}",
            nats(point.predicted.loss_increase_nats),
            nats(decision.bound_nats),
            f"{decision.gap:.2g}",
            seconds(decision.seconds),
        ])
    head = ["budget", "chosen", "bits and places by", f"loss increase, nats {tag('estimated')}",
            f"bound, nats {tag('estimated')}", "gap", f"time {tag('measured')}"]  # fmt: skip
    return table(head, rows) + _shadow_prices(target)


def _shadow_prices(target: TargetResult) -> str:
    chosen = _price_table((f"chosen under {limits_text(b.limits)}", b.shadow_prices) for b in target.budgets)
    front = _price_table((point_mark(target, p) + p.identity, p.shadow_prices) for p in target.front)
    if not chosen and not front:
        return ""
    unfolded = "" if chosen else " open"
    more = f"<details{unfolded}><summary>Along the front</summary>{front}</details>" if front else ""
    return (
        '<p class="soft">A shadow price says how much less would be lost if a limit were relaxed by one unit, with '
        "bits and places decided anew: it is the slope of the relaxed problem at the optimum, so it holds for small "
        "changes, and because bits are whole numbers, real gains come in steps. Zero: the limit does not bind.</p>"
        f"{chosen}{more}"
    )


def _price_table(priced: Iterable[tuple[str, Sequence[ShadowPrice]]]) -> str:
    rows = [
        [
            escape(name),
            escape(f"{metric_label(price.metric)} ≤ {metric_text(price.metric, price.limit)}"),
            f"{price.nats_per_unit:.3g} nats per {escape(price.unit)}",
            price_text(price),
        ]
        for name, prices in priced
        for price in prices
    ]
    head = ["decision", "limit", f"shadow price {tag('estimated')}", f"nats saved by 1 % more {tag('estimated')}"]
    return table(head, rows) if rows else ""


def _agreement(target: TargetResult) -> str:
    return (
        "<h3>Predicted against measured</h3>"
        f'<div class="pair"><div><p>Latency of products: {agreement_text(target.latency_agreement)}</p>'
        f"{figure_block(figures.latency_agreement_figure(target))}</div>"
        f"<div><p>Loss of products: {agreement_text(target.loss_agreement)}; shown is every point, with shared "
        f"weights</p>"
        f"{figure_block(figures.loss_agreement_figure(target))}</div></div>{_layer_agreement(target)}"
    )


def _layer_agreement(target: TargetResult) -> str:
    if not any(point.finalist and point.finalist.layers for point in target.built):
        return ""
    return (
        "<p>Latency of each layer of the products. Kernels are timed one by one and scaled so that they add up to the "
        f"product’s latency.</p>{figure_block(figures.layer_agreement_figure(target))}"
    )


def _progress(target: TargetResult) -> str:
    reference = ", ".join(f"{metric_label(o.metric)} {metric_text(o.metric, o.reference)}" for o in target.objectives)
    return (
        '<p class="soft">Hypervolume: the part of the box between zero and the reference point that the front '
        f"dominates, by what was known when each trial ended. Reference: {escape(reference)}.</p>"
        f"{figure_block(figures.progress_figure(target))}"
        f"{_reasons('variants kept out by a bound', target.discarded)}{_reasons('variants that failed', target.failed)}"
    )


def _reasons(what: str, reasons: Sequence[ReasonCount]) -> str:
    rows = [[escape(reason.reason), f"{reason.count:,}"] for reason in reasons]
    return table([what, f"how many {tag('exact')}"], rows) if rows else ""
