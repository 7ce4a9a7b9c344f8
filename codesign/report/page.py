"""The frame of a self-contained page, and the parts that pages are made of."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
import plotly.offline

from codesign.files import write_bytes

_STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 8px; }
p.soft, caption, .soft { color: var(--soft); } caption { text-align: left; padding-bottom: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 5px 8px; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.chosen { background: #fff1f0; } tr.baseline { background: #f0fff4; }
.scroll { overflow-x: auto; margin-bottom: 14px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 16px; min-width: 150px; }
.tile b { display: block; font-size: 21px; } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
@media (max-width: 900px) { .pair { grid-template-columns: 1fr; } }
.tag { font-size: 11px; border-radius: 9px; padding: 0 7px; margin-left: 4px; white-space: nowrap;
  font-weight: normal; }
.exact { background: #ddf4ff; } .estimated { background: #fff8c5; } .simulated { background: #fbefff; }
.calibrated { background: #ffe7d6; } .measured { background: #dafbe1; }
"""

_KINDS = (
    ("exact", "follows from the graph or a formula without error"),
    ("estimated", "a model or a sample; its error is stated where it is known"),
    ("simulated", "the cost model of a device that was not there"),
    ("calibrated", "a model fitted to measurements of the device"),
    ("measured", "run and observed"),
)


def write_page(title: str, sections: Iterable[str], path: Path, style: str = "") -> None:
    """Writes a page that needs no network and no other file, at once or not at all.

    Args:
        title: Plain text.
        sections: HTML of the body.
        path: Destination.
        style: CSS of parts that only this page has.
    """
    script = plotly.offline.get_plotlyjs()
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · codesign</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}{style}</style>'
        f"<script>{script}</script></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )
    write_bytes(path, page.encode())


def figure_block(figure: go.Figure, height: int = 380) -> str:
    """A figure that can be zoomed.

    Args:
        figure: The figure.
        height: In pixels.

    Returns:
        HTML.
    """
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, default_height=f"{height}px", config={"displayModeBar": False}
    )
    return f"<div>{html}</div>"


def row(cells: Iterable[str], kind: str = "", element: str = "td") -> str:
    """A row of a table.

    Args:
        cells: HTML.
        kind: Its class.
        element: `td` or `th`.

    Returns:
        HTML.
    """
    return f'<tr class="{kind}">{"".join(f"<{element}>{cell}</{element}>" for cell in cells)}</tr>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        head: HTML of the columns' heads.
        rows: HTML of the cells.
        caption: Plain text.

    Returns:
        HTML.
    """
    shown = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(row(cells) for cells in rows)
    return f'<div class="scroll"><table>{shown}{row(head, element="th")}{body}</table></div>'


def tag(kind: str) -> str:
    """A coloured label that says what kind of number stands beside it.

    Args:
        kind: A provenance.

    Returns:
        HTML.
    """
    return f'<span class="tag {kind}">{kind}</span>'


def tiles(items: Iterable[tuple[str, str, str, str]]) -> str:
    """Large numbers side by side.

    Args:
        items: Label, value, provenance and a small remark of each, as plain text.

    Returns:
        HTML.
    """
    cells = "".join(
        f'<div class="tile">{escape(label)} {tag(kind)}<b>{escape(value)}</b>'
        f'<span class="soft">{escape(more)}</span></div>'
        for label, value, kind, more in items
    )
    return f'<div class="tiles">{cells}</div>'


def origin_block(facts: Mapping[str, str]) -> str:
    """What the labels mean, and what the page was made with.

    Args:
        facts: Plain text by name.

    Returns:
        HTML.
    """
    legend = "".join(f"<p>{tag(kind)} {escape(meaning)}</p>" for kind, meaning in _KINDS)
    rows = "".join(row([escape(key), f'<span class="soft">{escape(value)}</span>']) for key, value in facts.items())
    return f'<div class="pair"><div>{legend}</div><table>{rows}</table></div>'
