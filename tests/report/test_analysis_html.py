import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pytest

from codesign.report.analysis_contents import Analysis, LayerAnalysis
from codesign.report.analysis_html import write_analysis_html

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Gathers open elements, text outside of scripts, and what a browser would fetch."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text += data


@pytest.fixture
def source(analysis: Analysis, tmp_path: Path) -> str:
    write_analysis_html(analysis, tmp_path / "a.html")
    return (tmp_path / "a.html").read_text()


def test_the_page_needs_nothing_but_itself(source: str) -> None:
    page = Page(source)
    assert (page.open, page.fetched) == ([], [])
    own = source.replace(plotly.offline.get_plotlyjs(), "")
    for words in ("http://", "https://", "@import", "url(", "fetch(", "//cdn"):
        assert words not in own


def test_names_are_escaped(source: str, analysis: Analysis) -> None:
    text = Page(source).text
    assert analysis.validation is not None
    names = (analysis.model, analysis.data, analysis.layers[0].name, analysis.validation.source)
    assert [name for name in names if "<script>" not in name or name not in text] == []
    assert "<script>alert" not in source


def test_every_number_is_shown_with_its_label(source: str) -> None:
    text = Page(source).text
    for words in (
        "3.5",
        "-1.75 ± 0.25",
        "0.88",
        "-0.25",
        "7.5 ± 0.38",
        "17.5",
        "1 GiB",
        "0.75 ± 0.12",
        "-0.0625",
    ):
        assert words in text
    for kind in ("exact", "estimated", "measured"):
        assert f'<span class="tag {kind}">' in source


def test_sections_are_there_when_asked_for(source: str, analysis: Analysis, tmp_path: Path) -> None:
    titles = ("Hessian in all", "Top eigenvalue of each block", "How far to trust", "empirical Fisher", "Cross-layer")
    bare = dataclasses.replace(analysis, layers=(LayerAnalysis("a", "w", 3),), network=None, validation=None)
    write_analysis_html(bare, tmp_path / "b.html")
    without = Page((tmp_path / "b.html").read_text())
    assert without.open == []
    for title in titles:
        assert title in Page(source).text
        assert title not in without.text
