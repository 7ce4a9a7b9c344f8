"""The page of a joint search: one self-contained file."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from codesign.report.page import origin_block, table, tag, tiles, write_page
from codesign.report.quantities import seconds
from codesign.report.search_contents import JointSearch
from codesign.report.search_metrics import count_text, joint_points_text
from codesign.report.search_rows import plan_cells
from codesign.report.search_target_html import target_sections

_STYLE = """
.front { display: grid; grid-template-columns: minmax(0, 1.3fr) minmax(0, 1fr); gap: 16px; align-items: start; }
.front .picked { position: sticky; top: 8px; max-height: calc(100vh - 34px); overflow-y: auto;
  border: 1px solid var(--line); border-radius: 8px; padding: 4px 14px; overflow-wrap: anywhere; }
.front h3 { margin: 8px 0 0; font-size: 16px; } .front p { margin: 4px 0; }
.front .picked td { padding: 3px 4px; font-size: 13px; }
.drawing { display: block; width: 100%; max-width: 560px; margin: 6px 0; font: 10px system-ui, sans-serif; }
.drawing text { fill: var(--soft); } .drawing line { stroke: var(--line); stroke-width: 0.6; }
.drawing .slab rect { fill: #b6d3ff; stroke: #1f6feb; stroke-width: 0.8; }
.place { display: inline-block; margin-right: 14px; font-size: 13px; }
.place i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px; }
.listing th, .listing td { padding: 5px; font-size: 13px; } .listing td { white-space: nowrap; }
.listing td:nth-child(2), .listing th:nth-child(2) { text-align: left; }
.listing td:nth-child(2) { white-space: normal; min-width: 130px; } summary { cursor: pointer; color: var(--soft); }
select { font: inherit; max-width: 100%; padding: 2px 4px; }
code { font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 900px) { .front { grid-template-columns: minmax(0, 1fr); }
  .front .picked { position: static; max-height: none; } }
"""

_SCRIPT = """
for (const front of document.querySelectorAll('.front')) {
  const choice = front.querySelector('select');
  const show = (number) => {
    choice.value = number;
    for (const panel of front.querySelectorAll('[data-point]')) panel.hidden = panel.dataset.point !== String(number);
  };
  choice.addEventListener('change', () => show(choice.value));
  for (const plot of front.closest('section').querySelectorAll('.js-plotly-plot'))
    plot.on('plotly_click', (event) => {
      const number = event.points[0].customdata;
      if (number !== undefined) show(number);
    });
}
"""
"""Shows the panel of a mark that is clicked, or of the entry that is chosen in the list beside the figure."""


def write_search_html(search: JointSearch, path: Path) -> None:
    """Writes the page; it needs no network and no other file.

    Args:
        search: What was found.
        path: Destination.
    """
    write_page(f"Joint search {search.name}", _sections(search), path, _STYLE)


def _sections(search: JointSearch) -> Iterator[str]:
    yield _header(search)
    yield _comparison(search)
    for target in search.targets:
        yield f"<section>{''.join(target_sections(search, target))}</section>"
    yield _space(search)
    yield _dashboard(search)
    yield _origin(search)
    yield f"<script>{_SCRIPT}</script>"


def _header(search: JointSearch) -> str:
    trials = sum(len(target.trials) for target in search.targets)
    elastic = search.elastic
    shown = [
        ("variants", count_text(search.space.variants), "exact", "architectures of the space"),
        ("search", seconds(search.seconds), "measured", f"{trials:,} trials, {search.workers} worker(s)"),
    ]
    for target in search.targets:
        shown.append(("joint points", joint_points_text(target), "exact", f"on {target.name}"))
    if elastic is not None:
        more = f"{elastic.epochs} epochs, {elastic.parameters:,} parameters"
        shown.insert(1, ("training of shared weights", seconds(elastic.seconds), "measured", more))
    names = ", ".join(target.name for target in search.targets)
    return (
        f"<h1>{escape(search.name)}: joint search for {escape(names)}</h1>"
        f'<p class="soft">Architecture, bits and placement decided together. {escape(search.strategy)}; '
        f"budget: {escape(search.budget)}; seed {search.seed}.</p>{tiles(shown)}"
    )


def _comparison(search: JointSearch) -> str:
    if not search.comparison:
        return ""
    head = ["plan chosen for", *(escape(target.name) for target in search.targets)]
    rows = []
    for plan in search.comparison:
        cells = []
        for on in plan.on:
            kinds = ("",) if on.failure is not None else (on.cost_provenance, on.cost_provenance, on.loss_provenance)
            lines = zip(plan_cells(search.comparison, on), kinds, strict=True)
            cells.append("<br>".join(escape(line) + (f" {tag(kind)}" if kind else "") for line, kind in lines))
        rows.append([f'{escape(plan.chosen_for)}<br><span class="soft">{escape(plan.identity)}</span>', *cells])
    caption = "Latency, energy and loss of each target’s chosen plan on every target. ★ the best there."
    return f"<h2>Which plan is best where</h2>{table(head, rows, caption)}"


def _space(search: JointSearch) -> str:
    rows = [[escape(a.name), escape(", ".join(map(str, a.values))), str(len(a.values))] for a in search.space.axes]
    elastic = search.elastic
    trained = (
        "Every variant brought weights of its own."
        if elastic is None
        else f"Weights that all variants share: {elastic.parameters:,} {tag('exact')}, trained for {elastic.epochs} "
        f"epochs in {seconds(elastic.seconds)} {tag('measured')}; {escape(elastic.method)}."
    )
    return (
        f"<h2>The space: {escape(search.space.name)}</h2>{table(['axis', 'values', 'how many'], rows)}"
        f"<p>{count_text(search.space.variants)} variants {tag('exact')}. {trained}</p>"
    )


def _dashboard(search: JointSearch) -> str:
    return (
        f"<h2>The study</h2><p>Trials are kept in <code>{escape(search.storage)}</code>. To look at them with "
        f"optuna-dashboard:</p><p><code>{escape(search.dashboard_command)}</code></p>"
    )


def _origin(search: JointSearch) -> str:
    return f"<h2>How this was made</h2>{origin_block({'seed': str(search.seed), **search.data, **search.environment})}"
