import dataclasses

import pytest

from codesign.report.search_contents import JointSearch, Objective
from codesign.report.search_figures import (
    latency_agreement_figure,
    layer_agreement_figure,
    loss_agreement_figure,
    progress_figure,
)


def test_progress_is_a_share_of_the_reference_box(search: JointSearch) -> None:
    target = search.targets[0]
    line, *workers = progress_figure(target).data
    assert line.line.shape == "hv"
    assert list(line.x) == [trial.seconds for trial in target.trials]
    assert list(line.y) == pytest.approx([100 * trial.hypervolume / (2.0 * 5e-3 * 5e-3) for trial in target.trials])
    assert [len(trace.x) for trace in workers] == [20, 20]
    assert list(workers[1].x) == [trial.seconds for trial in target.trials[1::2]]
    assert all("<script>" not in trace.name for trace in workers)


def test_a_cost_that_is_always_zero_leaves_no_volume(search: JointSearch) -> None:
    trials = tuple(dataclasses.replace(trial, hypervolume=0.0) for trial in search.targets[0].trials)
    objectives = (*search.targets[0].objectives[:2], Objective("energy_j", 0.0))
    line, *_ = progress_figure(dataclasses.replace(search.targets[0], trials=trials, objectives=objectives)).data
    assert set(line.y) == {0.0}


def test_predictions_stand_against_measurements(search: JointSearch) -> None:
    target = search.targets[0]
    line, points = latency_agreement_figure(target).data
    assert list(line.x) == list(line.y)
    built = [p.finalist for p in target.points if p.finalist is not None]
    assert list(points.x) == [found.predicted_latency_s for found in built]
    assert list(points.y) == [found.latency.median_s for found in built]
    assert list(points.error_y.array) == pytest.approx([found.latency.spread_s / 2 for found in built])
    losses = loss_agreement_figure(target).data[-1]
    measured = [(i, p) for i, p in enumerate(target.points) if p.loss is not None]
    assert list(losses.customdata) == [i for i, _ in measured]
    assert list(losses.x) == [p.predicted.loss_nats for _, p in measured]
    assert list(losses.y) == [p.loss.value for _, p in measured if p.loss is not None]


def test_layers_of_products_stand_against_measurements(search: JointSearch) -> None:
    target = search.targets[0]
    line, points = layer_agreement_figure(target).data
    assert list(line.x) == list(line.y)
    layers = [layer for p in target.points if p.finalist for layer in p.finalist.layers if layer.measured_s]
    assert list(points.x) == pytest.approx([1e6 * layer.predicted_s for layer in layers])
    assert list(points.y) == pytest.approx([1e6 * layer.measured_s for layer in layers])


def test_nothing_built_is_an_empty_figure_that_says_so(search: JointSearch) -> None:
    points = tuple(dataclasses.replace(p, finalist=None, loss=None) for p in search.targets[0].points)
    target = dataclasses.replace(search.targets[0], points=points)
    figure = latency_agreement_figure(target)
    assert [len(trace.x) for trace in figure.data] == [0]
    assert figure.layout.yaxis.title.text == "latency of the product, s (none was built)"
    assert [len(trace.x) for trace in loss_agreement_figure(target).data] == [0]
