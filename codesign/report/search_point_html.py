"""The panel of one point of a joint search: what it is, what was expected of it and what was found."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from codesign.ir.annotations import Provenance
from codesign.report.contents import Estimate
from codesign.report.page import row, table, tag
from codesign.report.quantities import joules, nats, percent, seconds, size
from codesign.report.search_contents import SearchSpace, TargetResult
from codesign.report.search_drawings import bits_drawing, place_colours, places_legend, stages_drawing
from codesign.report.search_metrics import choices_text, metric_label, metric_text, price_text
from codesign.report.search_point import Finalist, PointPrediction, ProductAccuracy, SearchPoint, ShadowPrice
from codesign.report.search_rows import point_mark
from codesign.report.simulation_rows import NONE


def point_panels(space: SearchSpace, target: TargetResult, shown: int) -> str:
    """A panel for each point, of which the page shows one at a time.

    Args:
        space: What was searched.
        target: With its points.
        shown: Which of them is shown first.

    Returns:
        HTML; panels are numbered as the target's points are.
    """
    colours = place_colours(target.points)
    panels = (_panel(space, target, point, colours) for point in target.points)
    return "".join(
        f'<div data-point="{index}"{"" if index == shown else " hidden"}>{panel}</div>'
        for index, panel in enumerate(panels)
    )


def _panel(space: SearchSpace, target: TargetResult, point: SearchPoint, colours: Mapping[str, str]) -> str:
    decision = point.decision
    failure = f"<p><b>Failed:</b> {escape(point.failure)}</p>" if point.failure is not None else ""
    return (
        f"<h3>{point_mark(target, point)}{escape(point.identity)}</h3>"
        f'<p class="soft">{escape(choices_text(space, point.variant))}</p>{failure}'
        f"{stages_drawing(point.variant.stages)}"
        f'<p class="soft">Bits of each layer’s weight, {point.average_bits:.2f} on average {tag("exact")}</p>'
        f"{bits_drawing(point.layers, colours)}{places_legend(point, colours)}"
        f"{table(['', 'predicted', 'found'], _numbers(target.cost_provenance, point))}"
        f'<p class="soft">Bits{" and places" if point.places != ("",) else ""} by {escape(decision.method)}: '
        f"{escape(decision.status)}, loss increase at least {nats(decision.bound_nats)} nats {tag('estimated')}, "
        f"gap {decision.gap:.2g}, {seconds(decision.seconds)} {tag('measured')}.</p>"
        f"{_layers(point.finalist, target.cost_provenance)}{_prices(point.shadow_prices)}"
    )


def _numbers(by_model: Provenance, point: SearchPoint) -> Iterator[Sequence[str]]:
    expected, found = point.predicted, point.finalist
    loss = f"{nats(expected.loss_nats)} {tag('estimated')}"
    spread = expected.float_loss
    yield ["loss in floating point, nats", NONE, f"{estimate_text(spread)} {tag('measured')}"]
    yield ["loss, nats", loss, NONE if point.loss is None else f"{estimate_text(point.loss)} {tag('measured')}"]
    if found is not None and found.loss is not None:
        tuned = "after fine-tuning" if found.finetuned else "of the product"
        yield [f"loss {tuned}, nats", NONE, f"{estimate_text(found.loss)} {tag('measured')}"]
    predicted = f"{seconds(expected.latency_s)} {tag(by_model)}{_measured_part(expected)}"
    yield ["latency", predicted, NONE if found is None else latency_cell(found)]
    if expected.period_s is not None:
        yield ["time between inputs", f"{seconds(expected.period_s)} {tag(by_model)}", NONE]
    yield ["energy", f"{joules(expected.energy_j)} {tag(by_model)}", NONE if found is None else energy_cell(found)]
    yield ["peak memory", f"{size(expected.peak_memory_bytes)} {tag('exact')}", NONE]
    stored = NONE if found is None else f"{size(found.artifact_weight_bytes)} {tag('exact')}"
    yield ["weights", f"{size(expected.weight_bytes)} {tag('exact')}", stored]
    if found is not None:
        for name, pair in found.accuracy.items():
            yield [f"accuracy, {escape(name)} {tag('measured')}", NONE, accuracy_cell(pair)]
        yield ["product", "", f"<code>{escape(found.artifact)}</code>"]


def _measured_part(expected: PointPrediction) -> str:
    """How much of a predicted latency is made of measured kernels; nothing where no kernel was measured at all."""
    if not expected.kernels:
        return ""
    counts = f"{expected.measured_kernels} of {expected.kernels} kernels were measured"
    return f'<br><span class="soft">{counts}, {percent(expected.measured_share)} of it</span>'


def _layers(found: Finalist | None, by_model: Provenance) -> str:
    if found is None or not found.layers:
        return ""
    rows = [[escape(x.name), seconds(x.predicted_s), seconds(x.measured_s)] for x in found.layers]
    shown = table(["layer", f"predicted {tag(by_model)}", f"latency {tag('measured')}"], rows)
    return f"<details><summary>Latency of each layer</summary>{shown}</details>"


def estimate_text(estimate: Estimate) -> str:
    """A mean with its standard error, without a unit.

    Args:
        estimate: Of a loss.

    Returns:
        Such as `0.412 ± 0.013`.
    """
    return f"{nats(estimate.value)} ± {estimate.standard_error:.1g}"


def accuracy_cell(pair: ProductAccuracy) -> str:
    """Accuracy on a test set.

    Args:
        pair: Of the product, and of the same network in floating point.

    Returns:
        HTML.
    """
    product, floating = (percent(e.value, e.standard_error) for e in (pair.quantised, pair.floating))
    return f'{product}<br><span class="soft">float: {floating}</span>'


def latency_cell(found: Finalist) -> str:
    """How long a run of a product takes.

    Args:
        found: The product.

    Returns:
        HTML: the median and the least of the samples.
    """
    latency = found.latency
    return f"{seconds(latency.median_s)}, least {seconds(latency.minimum_s)} {tag(latency.provenance)}"


def energy_cell(found: Finalist) -> str:
    """What a product's run takes, and what gave the number.

    Args:
        found: The product.

    Returns:
        HTML.
    """
    if found.energy_j is None or found.energy_provenance is None:
        return NONE
    source = f'<br><span class="soft">by {escape(found.energy_source)}</span>'
    return f"{joules(found.energy_j)} {tag(found.energy_provenance)}{source}"


def _prices(prices: Sequence[ShadowPrice]) -> str:
    rows = [
        row([
            escape(f"{metric_label(price.metric)} ≤ {metric_text(price.metric, price.limit)}"),
            f"{price_text(price)} {tag('estimated')}",
        ])
        for price in prices
    ]
    head = row(["limit", "nats saved by 1 % more"], element="th")
    return f"<table>{head}{''.join(rows)}</table>" if rows else ""
