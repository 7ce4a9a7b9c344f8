from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pytest

from codesign.cost.layer_report import report_layers
from codesign.cost.select import cost_model_for
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import Widths
from codesign.report.simulation_contents import SimulationResult
from codesign.report.simulation_html import write_simulation_html
from codesign.testing.cost_conformance import move_node, multiply_node

NASTY = "<script>alert(1)</script>&"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Gathers open elements, cells of tables, text outside of scripts, and what a browser would fetch."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open or "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def _result(name: str) -> SimulationResult:
    profile = load_profile(name)
    geometry = ConvGeometry(64, 128, 32, (1, 1), (1, 1), (1, 1), (1, 1), 1)
    nodes = [multiply_node("dense" + NASTY, "Gemm", geometry), move_node("relu", "Relu", 64, 64)]
    layers = report_layers(profile, nodes, 8, 8)
    provenance = cost_model_for(profile).provenance
    return SimulationResult("layers.csv", "net" + NASTY, profile, provenance, Widths(8, 8), layers)


def _source(name: str, folder: Path) -> str:
    write_simulation_html(_result(name), folder / "page.html")
    return (folder / "page.html").read_text()


@pytest.mark.parametrize("name", ["squeezelerator-16x16", "host-cpu"])
def test_the_page_needs_nothing_but_itself_and_is_escaped(name: str, tmp_path: Path) -> None:
    source = _source(name, tmp_path)
    page = Page(source)
    assert (page.open, page.fetched) == ([], [])
    own = source.replace(plotly.offline.get_plotlyjs(), "")
    for words in ("http://", "https://", "@import", "url(", "fetch(", "//cdn", "<script>alert"):
        assert words not in own
    assert "net" + NASTY + " of layers.csv on " + name in page.text


def test_the_table_has_a_row_for_each_layer_and_the_totals(tmp_path: Path) -> None:
    page = Page(_source("squeezelerator-16x16", tmp_path))
    (start,) = [index for index, row in enumerate(page.rows) if row and row[0] == "layer"]
    head, dense, relu, totals = page.rows[start : start + 4]
    assert [cell.partition(" ")[0] for cell in head[1:4]] == ["MACs", "dataflow", "cycles"]
    assert (dense[0], dense[1]) == ("dense" + NASTY, f"{64 * 128 * 32:,}")
    assert (relu[0], relu[1], relu[2], relu[3], relu[4]) == ("relu", "0", "–", "–", "–")
    assert (totals[0], totals[1], totals[3]) == ("all", dense[1], dense[3])
    assert {len(row) for row in (head, dense, relu, totals)} == {11}
    assert "simulated" in head[5]


def test_what_is_not_verified_is_said(tmp_path: Path) -> None:
    page = Page(_source("squeezelerator-16x16", tmp_path))
    (row,) = [row for row in page.rows if row and row[0] == "not verified in it"]
    assert row[1] == ", ".join(load_profile("squeezelerator-16x16").unverified)


def test_a_processor_is_estimated_and_has_no_cycles(tmp_path: Path) -> None:
    source = _source("host-cpu", tmp_path)
    assert '<span class="tag estimated">' in source
    head = next(row for row in Page(source).rows if row and row[0] == "layer")
    assert not [cell for cell in head if cell.startswith(("cycles", "dataflow"))]
