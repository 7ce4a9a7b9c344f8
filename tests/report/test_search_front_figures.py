import plotly.graph_objects as go
import pytest

from codesign.report.search_contents import JointSearch, TargetResult
from codesign.report.search_front_figures import front_figure, front_space_figure


def _numbers(figure: go.Figure) -> list[int]:
    return sorted(number for trace in figure.data for number in trace.customdata)


@pytest.fixture
def target(search: JointSearch) -> TargetResult:
    return search.targets[0]


def test_every_point_stands_once_in_both_figures(search: JointSearch, target: TargetResult) -> None:
    for figure in (front_figure(search.space, target), front_space_figure(search.space, target)):
        assert _numbers(figure) == list(range(len(target.points)))


def test_marks_tell_predicted_measured_and_built_apart(search: JointSearch, target: TargetResult) -> None:
    for trace in front_figure(search.space, target).data:
        role, _, kind = trace.name.partition(", ")
        points = [target.points[number] for number in trace.customdata]
        assert {p is target.chosen for p in points} == {role == "chosen"}
        assert role == "chosen" or {p.on_front for p in points} == {role == "front"}
        assert {p.finalist is not None for p in points} == {kind == "built"}
        assert kind == "built" or {p.loss is not None for p in points} == {kind == "loss measured"}
        symbol = {"built": "diamond", "loss measured": "circle", "predicted": "circle-open"}[kind]
        assert trace.marker.symbol == symbol


def test_points_stand_where_they_were_found(search: JointSearch, target: TargetResult) -> None:
    figure = front_figure(search.space, target)
    for trace in figure.data:
        for i, number in enumerate(trace.customdata):
            point = target.points[number]
            built, loss = point.finalist, point.measured_loss
            assert trace.x[i] == (point.predicted.latency_s if built is None else built.latency.median_s)
            assert trace.y[i] == (point.predicted.loss_nats if loss is None else loss.value)
            expected = point.predicted.float_loss if loss is None else loss
            assert trace.error_y.array[i] == expected.standard_error
            assert trace.error_x.array[i] == (0.0 if built is None else built.latency.spread_s / 2)
    assert figure.layout.xaxis.title.text == "latency (calibrated, measured)"
    assert figure.layout.yaxis.title.text == "loss, nats (estimated, measured)"


def test_menus_move_every_mark_and_say_what_the_numbers_are(search: JointSearch, target: TargetResult) -> None:
    figure = front_figure(search.space, target)
    across, up = figure.layout.updatemenus
    assert [button.label for button in across.buttons] == ["latency", "energy", "peak memory", "weights"]
    traces, layout = across.buttons[2].args
    for trace, values in zip(figure.data, traces["x"], strict=True):
        assert list(values) == [target.points[number].predicted.peak_memory_bytes for number in trace.customdata]
    assert layout["xaxis.title.text"] == "peak memory (exact)"
    assert len(up.buttons) == 1 + len(target.test_sets)
    traces, layout = up.buttons[1].args
    for trace, values, spreads in zip(figure.data, traces["y"], traces["error_y.array"], strict=True):
        for number, value, spread in zip(trace.customdata, values, spreads, strict=True):
            built = target.points[number].finalist
            accuracy = None if built is None else built.accuracy["test"].quantised
            assert (value, spread) == ((None, 0.0) if accuracy is None else (accuracy.value, accuracy.standard_error))
    assert layout["yaxis.title.text"] == "accuracy, test (measured)"


def test_the_second_cost_in_space_can_be_chosen(search: JointSearch, target: TargetResult) -> None:
    figure = front_space_figure(search.space, target)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["energy", "peak memory", "weights"]
    traces, layout = menu.buttons[2].args
    assert layout["scene.yaxis.title.text"] == "weights (exact)"
    for trace, values in zip(figure.data, traces["y"], strict=True):
        assert list(values) == [target.points[number].predicted.weight_bytes for number in trace.customdata]
        assert list(trace.z) == [
            (p.measured_loss.value if p.measured_loss else p.predicted.loss_nats)
            for p in (target.points[number] for number in trace.customdata)
        ]


def test_hover_texts_are_escaped(search: JointSearch, target: TargetResult) -> None:
    texts = [text for trace in front_figure(search.space, target).data for text in trace.text]
    assert all("<script>" not in text and "&lt;script&gt;" in text for text in texts)
