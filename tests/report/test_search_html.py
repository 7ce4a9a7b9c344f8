import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pytest

from codesign.report.search_contents import JointSearch, RankAgreement
from codesign.report.search_html import write_search_html

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Gathers elements, rows of tables, text outside of scripts, what is selected, and what a browser would fetch."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.rows: list[list[str]] = []
        self.panels: list[tuple[str, bool]] = []
        self.selected: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
        elif tag == "option" and "selected" in values:
            self.selected.append(values["value"] or "")
        if "data-point" in values:
            self.panels.append((values["data-point"] or "", "hidden" not in values))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open or "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, *starts: str) -> list[str]:
        """The only row whose first cells begin so."""
        found = [r for r in self.rows if len(r) > 1 and all(c.startswith(s) for c, s in zip(r, starts, strict=False))]
        assert len(found) == 1, (starts, found)
        return found[0]


def _source(search: JointSearch, folder: Path) -> str:
    write_search_html(search, folder / "search.html")
    return (folder / "search.html").read_text()


@pytest.fixture
def source(search: JointSearch, tmp_path: Path) -> str:
    return _source(search, tmp_path)


def test_the_page_needs_nothing_but_itself(source: str) -> None:
    page = Page(source)
    assert (page.open, page.fetched) == ([], [])
    own = source.replace(plotly.offline.get_plotlyjs(), "")
    for words in ("http://", "https://", "@import", "url(", "fetch(", "//cdn", "NaN", "Infinity"):
        assert words not in own


def test_everything_from_outside_is_escaped(source: str, search: JointSearch) -> None:
    assert "<script>alert" not in source
    text = Page(source).text
    first = search.targets[0]
    point = first.points[0]
    built = first.built[0].finalist
    assert built is not None
    for words in (
        search.name, search.data["train"], search.environment["machine"], search.strategy, search.budget,
        search.storage, search.dashboard_command, search.space.name, first.description, first.profile_notes[0],
        first.runner, first.discarded[0].reason, first.failed[0].reason, point.identity, point.variant.stages[0].label,
        point.layers[0].name, built.energy_source, built.artifact, *first.test_sets, first.budgets[1].failure,
        next(p.failure for p in first.points if p.failure), search.targets[1].points[0].places[-1],
        search.comparison[1].on[0].failure,
    ):  # fmt: skip
        assert words is not None
        assert words in text


def test_a_panel_for_each_point_and_the_chosen_one_is_shown(source: str, search: JointSearch) -> None:
    page = Page(source)
    assert [number for number, _ in page.panels] == [str(i) for t in search.targets for i in range(len(t.points))]
    shown = [number for number, visible in page.panels if visible]
    chosen = [str(t.points.index(t.chosen)) for t in search.targets if t.chosen is not None]
    assert shown == page.selected == chosen
    assert source.count('<svg class="drawing"') == 2 * len(page.panels)


def test_the_front_table_has_every_point_with_its_numbers(source: str, search: JointSearch) -> None:
    page = Page(source)
    target = search.targets[1]
    point = target.chosen
    assert point is not None
    assert point.finalist is not None
    row = page.row(f"★ ◆ {point.identity}", "depth1=")
    assert len(row) == 12
    accuracy = point.finalist.accuracy["test"].quantised.value
    assert row[5] == f"{100 * accuracy:.2f} ± 0.95 %"
    (head,) = {tuple(r) for r in page.rows if r[:2] == ["point", "variant"]}
    labels = ("exact", "estimated", "measured", "measured", "measured", "calibrated", "measured", "calibrated")
    assert all(cell.endswith(f" {label}") for cell, label in zip(head[2:], (*labels, "exact", "exact"), strict=True))
    listed = [r[0] for r in page.rows if len(r) == 12 and r[0] != "point"]
    assert len(listed) == sum(len(t.front) for t in search.targets)


def test_products_show_what_was_measured_and_by_what(source: str, search: JointSearch) -> None:
    found = search.targets[0].built[0]
    assert found.finalist is not None
    page = Page(source)
    rows = [r for r in page.rows if len(r) == 9 and found.finalist.artifact in r[1]]
    assert "fine-tuned" in rows[0][1]
    pair, latency = found.finalist.accuracy["test"], found.finalist.latency
    values = (pair.quantised.value, pair.floating.value)
    assert rows[0][2] == "{:.2f} ± 0.95 %float: {:.2f} ± 0.90 %".format(*(100 * value for value in values))
    assert f", least {latency.minimum_s * 1e6:.3g} µs" in rows[0][6]
    assert rows[0][6].endswith(" measured")
    assert f" measuredby {found.finalist.energy_source}" in rows[0][7]


def test_products_show_their_layers_and_how_much_was_known_of_them(source: str, search: JointSearch) -> None:
    page = Page(source)
    assert "3 of 4 kernels were measured, 87.50 % of it" in page.text
    assert "time between inputs" in page.text
    layers = [r for r in page.rows if len(r) == 3 and r[0].startswith("conv0<script>")]
    products = [p.finalist for target in search.targets for p in target.points if p.finalist is not None]
    assert len(layers) == len(products)
    assert "Latency of each layer of the products." in page.text


def test_budgets_and_shadow_prices(source: str, search: JointSearch) -> None:
    page = Page(source)
    impossible = next(r for r in page.rows if r[0] == "weights ≤ 10 B")
    assert impossible[1].startswith("none: the least weight_bytes is 1,200")
    limit = search.targets[0].budgets[0].limits["latency_s"]
    priced = next(r for r in page.rows if r[0].startswith("chosen under energy ≤ 1 mJ") and "latency" in r[1])
    assert priced[2:] == ["42 nats per s", f"{42 * limit / 100:.3g}"]
    unbound = next(r for r in page.rows if r[0].startswith("chosen under energy ≤ 1 mJ") and "energy" in r[1])
    assert unbound[2:] == ["0 nats per J", "0"]
    assert "A shadow price says" in page.text


def test_which_plan_is_best_where(source: str) -> None:
    page = Page(source)
    first, second = page.row("host-cpu", "1 ms"), page.row("cpu+npu", "cannot run")
    assert first[1] == "1 ms ★ calibrated4 mJ ★ calibrated0.4 nats ★ measured"
    assert first[2] == "3 ms ★ calibrated4 mJ calibrated0.4 nats ★ measured"
    assert second[1].startswith("cannot run: no npu there")
    assert second[2] == "4 ms calibrated2 mJ ★ calibrated0.511 nats measured"


def test_agreement_progress_and_the_study(source: str, search: JointSearch) -> None:
    text = Page(source).text
    assert f"Kendall’s tau 0.87 over {len(search.targets[0].built)} points" in text
    assert "no Kendall’s tau: 2 point(s), at least three are needed" in text
    assert "Reference: loss 2 nats, latency 5 ms, energy 5 mJ." in text
    assert search.dashboard_command in text
    assert "≥ 1.3e13" in text


def test_a_search_that_found_nothing_has_a_page(search: JointSearch, tmp_path: Path) -> None:
    empty = dataclasses.replace(
        search.targets[0], points=(), trials=(), discarded=(), failed=(), budgets=search.targets[0].budgets[1:],
        latency_agreement=RankAgreement(None, 0), loss_agreement=RankAgreement(None, 0),
    )  # fmt: skip
    bare = dataclasses.replace(search, targets=(empty,), comparison=(), elastic=None)
    page = Page(_source(bare, tmp_path))
    assert page.open == []
    assert "Nothing was chosen" in page.text
    assert "Every variant brought weights of its own." in page.text
    assert "Which plan is best where" not in page.text


def test_without_products_all_numbers_are_predictions(search: JointSearch, tmp_path: Path) -> None:
    target = search.targets[0]
    points = tuple(dataclasses.replace(p, finalist=None, failure=None) for p in target.points)
    bare = dataclasses.replace(search, targets=(dataclasses.replace(target, points=points),), comparison=())
    text = Page(_source(bare, tmp_path)).text
    assert "Nothing was run: the numbers above are predictions." in text
    assert "why it could not be built" not in text
    assert "accuracy, test" not in text
