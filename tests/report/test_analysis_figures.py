import pytest

from codesign.report import analysis_figures as figures
from codesign.report.analysis_contents import Analysis


def test_losses_are_logarithms_by_width_and_layer(analysis: Analysis) -> None:
    (heat,) = figures.loss_figure(analysis.layers, "auto").data
    assert list(heat.y) == ["2 bits", "4 bits"]
    assert list(heat.x) == [layer.name for layer in analysis.layers]
    assert heat.z[0][0] == pytest.approx(-0.30103)
    assert heat.z[0][1] == -9  # below zero has no logarithm


def test_activation_losses(analysis: Analysis) -> None:
    (heat,) = figures.activation_figure(analysis.layers).data
    assert list(heat.y) == ["4 bits"]
    assert heat.z[0] == pytest.approx([-1.69897] * 2)


def test_negative_eigenvalues_are_marked_as_such(analysis: Analysis) -> None:
    figure = figures.eigenvalue_figure(analysis.layers)
    by_name = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert by_name["exact"] == ([analysis.layers[0].name], [2.0])
    assert by_name["magnitude of a negative one"] == (["dense"], [1.0])
    assert figure.layout.yaxis.type == "log"


def test_density_is_shown_on_a_logarithmic_axis(analysis: Analysis) -> None:
    assert analysis.network is not None
    figure = figures.density_figure(analysis.network)
    assert list(figure.data[0].x) == [-1.0, 4.25]
    assert list(figure.data[0].y) == pytest.approx([0.5, 0.0], abs=2e-7)
    assert min(figure.data[0].y) > 0
    assert figure.layout.yaxis.type == "log"


def test_predictions_stand_against_what_was_measured(analysis: Analysis) -> None:
    assert analysis.validation is not None
    figure = figures.layer_prediction_figure(analysis, analysis.validation)
    points = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert points["auto"] == ([0.5, 0.25, 0.125, 0.125], [0.5, 0.25, 0.5, 0.25])  # below zero: at the edge
    assert points["hawq-v2"][0][:2] == [1.0, 0.5]
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    points = {t.name: (list(t.x), list(t.y)) for t in figures.assignment_prediction_figure(analysis.validation).data}
    assert points["whole-assignment-kl"] == ([0.4, 0.4], [0.5, 0.25])
