"""The front of a joint search in two and three dimensions, as plotly graphs with menus for the axes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from codesign.report.figures import CHOSEN, FRONT, LAYOUT, OTHER
from codesign.report.search_contents import SearchSpace, TargetResult
from codesign.report.search_metrics import COSTS, choices_text
from codesign.report.search_point import SearchPoint

_ROLES = {"dominated": OTHER, "front": FRONT, "chosen": CHOSEN}
_SYMBOLS = {"predicted": "circle-open", "loss measured": "circle", "built": "diamond"}
_LONGEST = 60
"""Letters of a variant's name in a hover text."""


@dataclass(frozen=True)
class _Reading:
    """A number of a point; None where it was not found.

    Attributes:
        value: The number.
        spread: Length of its error bar to either side.
        provenance: What it is.
    """

    value: float | None
    spread: float
    provenance: str


@dataclass(frozen=True)
class _Axis:
    """What an axis can show.

    Attributes:
        label: In words.
        unit: Behind an SI prefix.
        tick_format: Of its numbers, in d3's notation.
        read: The number of a point.
    """

    label: str
    unit: str
    tick_format: str
    read: Callable[[SearchPoint], _Reading]

    def layout(self, points: Sequence[SearchPoint]) -> dict[str, object]:
        """Title, with what the numbers of these points are, and ticks."""
        kinds = sorted({found.provenance for found in map(self.read, points) if found.value is not None})
        title = f"{self.label} ({', '.join(kinds)})"
        return {"title.text": title, "ticksuffix": self.unit, "tickformat": self.tick_format, "autorange": True}


@dataclass(frozen=True)
class _Group:
    """Points with the same mark; each with its number."""

    role: str
    kind: str
    members: tuple[tuple[int, SearchPoint], ...]

    def read(self, axis: _Axis) -> list[_Reading]:
        return [axis.read(point) for _, point in self.members]

    def values(self, axis: _Axis) -> list[float | None]:
        return [found.value for found in self.read(axis)]

    def spreads(self, axis: _Axis) -> list[float]:
        return [found.spread for found in self.read(axis)]


def front_figure(space: SearchSpace, target: TargetResult) -> go.Figure:
    """Loss or accuracy against latency, energy, memory or weights; menus choose which.

    Rings are predicted, discs have a measured loss, diamonds were built. Bars are one standard error of a loss or an
    accuracy, and the quartiles of a latency. `customdata` of a mark is the point's number.

    Args:
        space: What was searched.
        target: With its points.

    Returns:
        The figure.
    """
    groups = _groups(target)
    across, up = [_cost_axis(metric, target) for metric in COSTS], [_loss_axis(), *_accuracy_axes(target)]
    figure = go.Figure()
    for group in groups:
        bars = {
            f"error_{letter}": {"type": "data", "array": group.spreads(axis), "thickness": 1, "width": 3}
            for letter, axis in (("x", across[0]), ("y", up[0]))
        }
        x, y = group.values(across[0]), group.values(up[0])
        figure.add_trace(go.Scatter(x=x, y=y, **bars, **_mark(space, group, 10)))
    _lay_out(figure, target, {"xaxis": across[0], "yaxis": up[0]})
    menus = [_menu(place, [_choice(name, axis, groups, target) for axis in axes])
             for place, name, axes in ((0.0, "xaxis", across), (0.42, "yaxis", up)) if len(axes) > 1]  # fmt: skip
    figure.update_layout(updatemenus=menus)
    return figure


def front_space_figure(space: SearchSpace, target: TargetResult) -> go.Figure:
    """Loss over latency and a second cost that a menu chooses, in three dimensions.

    Args:
        space: What was searched.
        target: With its points.

    Returns:
        The figure, marked as `front_figure`.
    """
    groups = _groups(target)
    latency, *second = (_cost_axis(metric, target) for metric in COSTS)
    axes = {"scene.xaxis": latency, "scene.yaxis": second[0], "scene.zaxis": _loss_axis()}
    figure = go.Figure()
    for group in groups:
        x, y, z = (group.values(axis) for axis in axes.values())
        figure.add_trace(go.Scatter3d(x=x, y=y, z=z, **_mark(space, group, 4)))
    _lay_out(figure, target, axes)
    choices = [_choice("scene.yaxis", axis, groups, target) for axis in second]
    figure.update_layout(updatemenus=[_menu(0.0, choices)], margin={"l": 0, "r": 0}, legend={"y": -0.02})
    beside = {
        "eye": {"x": 1.5, "y": -1.7, "z": 0.5},
        "center": {"z": -0.15},
    }  # costs grow together: not along their line
    figure.update_scenes(aspectmode="cube", camera=beside)
    for axis in ("xaxis", "yaxis", "zaxis"):
        figure.update_scenes({axis: {"title": {"font": {"size": 11}}, "tickfont": {"size": 10}}})
    return figure


def _cost_axis(metric: str, target: TargetResult) -> _Axis:
    """A cost: of the product where it was built, else as predicted."""

    def read(point: SearchPoint) -> _Reading:
        built = point.finalist
        if metric == "latency_s" and built is not None:
            return _Reading(built.latency.median_s, built.latency.spread_s / 2, built.latency.provenance)
        if metric == "energy_j" and built is not None and built.energy_j is not None:
            return _Reading(built.energy_j, 0.0, built.energy_provenance or "estimated")
        kind = target.cost_provenance if metric in {"latency_s", "energy_j"} else "exact"
        return _Reading(COSTS[metric].predicted(point.predicted), 0.0, kind)

    return _Axis(COSTS[metric].label, COSTS[metric].unit, "~s", read)


def _loss_axis() -> _Axis:
    def read(point: SearchPoint) -> _Reading:
        found = point.measured_loss
        if found is not None:
            return _Reading(found.value, found.standard_error, "measured")
        return _Reading(point.predicted.loss_nats, point.predicted.float_loss.standard_error, "estimated")

    return _Axis("loss, nats", "", "", read)


def _accuracy_axes(target: TargetResult) -> list[_Axis]:
    """One for each test set that a product was run on."""

    def reader(name: str) -> Callable[[SearchPoint], _Reading]:
        def read(point: SearchPoint) -> _Reading:
            accuracy = point.finalist.accuracy.get(name) if point.finalist is not None else None
            if accuracy is None:
                return _Reading(None, 0.0, "measured")
            return _Reading(accuracy.quantised.value, accuracy.quantised.standard_error, "measured")

        return read

    return [_Axis(f"accuracy, {escape(name, quote=False)}", "", ".0%", reader(name)) for name in target.test_sets]


def _groups(target: TargetResult) -> list[_Group]:
    members: dict[tuple[str, str], list[tuple[int, SearchPoint]]] = {(r, k): [] for r in _ROLES for k in _SYMBOLS}
    for number, point in enumerate(target.points):
        role = "chosen" if point is target.chosen else "front" if point.on_front else "dominated"
        kind = "built" if point.finalist else "predicted" if point.measured_loss is None else "loss measured"
        members[role, kind].append((number, point))
    return [_Group(role, kind, tuple(found)) for (role, kind), found in members.items() if found]


def _mark(space: SearchSpace, group: _Group, width: int) -> dict[str, object]:
    larger = 1.6 if group.role == "chosen" else 1.0
    return {
        "mode": "markers",
        "name": f"{group.role}, {group.kind}",
        "marker": {"color": _ROLES[group.role], "symbol": _SYMBOLS[group.kind], "size": larger * width},
        "text": [_hover(space, point) for _, point in group.members],
        "customdata": [number for number, _ in group.members],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(space: SearchSpace, point: SearchPoint) -> str:
    choices = choices_text(space, point.variant)
    expected, measured = point.predicted, point.measured_loss
    lines = [
        point.identity,
        choices if len(choices) <= _LONGEST else choices[: _LONGEST - 1] + "…",
        f"{point.average_bits:.2f} bits on average",
        f"loss {expected.loss_nats:.3g} nats predicted" + (f", {measured.value:.3g} measured" if measured else ""),
        *(f"{metric.label} {metric.show(metric.predicted(expected))} predicted" for metric in COSTS.values()),
    ]
    if point.finalist is not None:
        latency = point.finalist.latency
        lines.append(f"latency {COSTS['latency_s'].show(latency.median_s)} {latency.provenance}")
    return "<br>".join(escape(line, quote=False) for line in lines)  # plotly knows no &quot;


def _lay_out(figure: go.Figure, target: TargetResult, axes: Mapping[str, _Axis]) -> None:
    legend = {"orientation": "h", "y": -0.2, "yanchor": "top"}
    figure.update_layout(**{**LAYOUT, "margin": {"l": 70, "r": 20, "t": 50, "b": 60}, "legend": legend})
    for name, axis in axes.items():
        figure.update_layout({f"{name}.{key}": value for key, value in axis.layout(target.points).items()})


def _choice(name: str, axis: _Axis, groups: Sequence[_Group], target: TargetResult) -> Mapping[str, object]:
    """An entry of a menu: new numbers for every mark, and the axis that goes with them."""
    letter = name.removeprefix("scene.")[0]
    traces: dict[str, object] = {letter: [group.values(axis) for group in groups]}
    if not name.startswith("scene."):
        traces[f"error_{letter}.array"] = [group.spreads(axis) for group in groups]
    layout = {f"{name}.{key}": value for key, value in axis.layout(target.points).items()}
    return {"label": axis.label, "method": "update", "args": [traces, layout]}


def _menu(place: float, choices: Sequence[Mapping[str, object]]) -> dict[str, object]:
    return {"buttons": choices, "x": place, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
