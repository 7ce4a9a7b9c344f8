import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pytest

from codesign.report.contents import RunReport
from codesign.report.html import write_report_html

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Gathers elements, text outside of scripts, and what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text.append(data)


@pytest.fixture
def source(report: RunReport, tmp_path: Path) -> str:
    write_report_html(report, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


@pytest.fixture
def page(source: str) -> Page:
    parsed = Page()
    parsed.feed(source)
    parsed.close()
    assert parsed.open == []
    return parsed


def test_the_page_needs_nothing_but_itself(page: Page, source: str) -> None:
    assert page.fetched == []
    assert not {"link", "iframe", "img", "object", "embed"} & set(page.tags)
    own = source.replace(plotly.offline.get_plotlyjs(), "")
    assert len(own) < len(source) / 10
    for words in ("http://", "https://", "@import", "url(", "fetch(", "//cdn"):
        assert words not in own


def test_names_are_escaped(page: Page, report: RunReport, source: str) -> None:
    text = "".join(page.text)
    for words in (
        report.run,
        report.target_description,
        report.profile_notes[0],
        report.environment["machine"],
        report.data["test data"],
        report.layers[0].name,
        report.chosen.roles[1],
        report.candidates[3].failure or "",
    ):
        assert "<script>" in words
        assert words in text
    assert "<script>alert" not in source


def test_every_candidate_and_provenance_is_shown(page: Page, report: RunReport) -> None:
    text = "".join(page.text)
    for candidate in report.candidates:
        assert candidate.identity in text
    for words in ("92.00 ± 1.00 %", "91.00 ± 1.00 %", "190 µs", "380 µs", "0.011 ± 0.0011", "600 B", "≤ 1 LSB", "3.5"):
        assert words in text
    for kind in ("exact", "estimated", "simulated", "calibrated", "measured"):
        assert kind in text


def test_the_same_report_gives_the_same_tables(report: RunReport, tmp_path: Path, source: str) -> None:
    write_report_html(report, tmp_path / "again.html")
    again = Page()
    again.feed((tmp_path / "again.html").read_text())
    first = Page()
    first.feed(source)
    assert again.text == first.text


def test_layers_show_predicted_and_measured_latency(report: RunReport, tmp_path: Path) -> None:
    write_report_html(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Predicted against measured latency of each layer" in text
    assert "<td>20 µs</td><td>30 µs</td>" in text
    unmeasured = tuple(dataclasses.replace(layer, measured_s=None) for layer in report.layers)
    write_report_html(dataclasses.replace(report, layers=unmeasured), tmp_path / "report.html")
    assert "Predicted against measured latency" not in (tmp_path / "report.html").read_text()
