import dataclasses

import pytest

from codesign.report.contents import RunReport
from codesign.report.figures import (
    bits_figure,
    layer_latency_figure,
    pareto_figure,
    prediction_figure,
    sensitivity_figure,
)


@pytest.mark.parametrize(("metric", "values"), [("latency", [190.0]), ("weights", [600 / 1024])])
def test_the_choice_stands_where_it_was_measured(report: RunReport, metric: str, values: list[float]) -> None:
    figure = pareto_figure(report, metric)
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["chosen"].x) == pytest.approx(values)
    assert list(traces["chosen"].y) == pytest.approx([91.0])
    assert len(traces["baseline, float32"].x) == 1
    assert len(traces["Pareto front"].x) + len(traces["other candidates"].x) == 2  # the failed one is left out
    kind = "measured" if metric == "latency" else "exact"
    assert kind in figure.layout.xaxis.title.text


def test_predictions_stand_against_what_was_measured(report: RunReport) -> None:
    points = prediction_figure(report).data[-1]
    assert list(points.x) == [0.001, 0.01]
    assert list(points.y) == [0.002, 0.011]


def test_layers_stand_where_they_were_predicted_and_measured(report: RunReport) -> None:
    line, points = layer_latency_figure(report).data
    assert list(points.x) == pytest.approx([20.0])
    assert list(points.y) == pytest.approx([30.0])
    assert list(points.text) == [report.layers[0].name]
    assert list(line.x) == list(line.y)


def test_sensitivities_are_logarithms_by_width_and_layer(report: RunReport) -> None:
    heat = sensitivity_figure(report).data[0]
    assert list(heat.y) == ["3 bits", "4 bits", "8 bits"]
    assert [list(row) for row in heat.z][1] == pytest.approx([-2.0, -3.0])
    assert heat.z[2][1] == -9  # a loss of zero


def test_bits_of_the_choice_and_of_the_proposal(report: RunReport) -> None:
    (bars,) = bits_figure(report).data
    assert list(bars.y) == [4, 8]
    choice = dataclasses.replace(report.choices[0], proposal=report.candidates[1].identity)
    both = bits_figure(dataclasses.replace(report, choices=(choice,))).data
    assert [list(bars.y) for bars in both] == [[8, 8], [4, 8]]
