"""Comparing predictors of the loss increase with what is measured on held-out samples."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.flow.held_out import Meter, SampleIncreases
from codesign.ir.program import Program
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.progress import track
from codesign.report.analysis_contents import (
    NOISE_CEILING,
    WHOLE_ASSIGNMENT,
    Assignment,
    LayerAnalysis,
    MeasuredIncrease,
    Tau,
    Validation,
)
from codesign.report.contents import Estimate

Values = NDArray[np.float64]


def validate_predictors(
    program: Program,
    layers: Sequence[LayerAnalysis],
    analysed: CalibrationData,
    held_out: CalibrationData,
    source: str,
    assignment_bits: tuple[int, ...],
    assignments: int,
    context: PassContext,
) -> Validation:
    """Measures single layers and random assignments, and ranks predictors by Kendall's tau.

    Cost: on the held-out samples, about half a forward pass for each layer and width; on held-out and analysed samples,
    a forward pass for each assignment.

    Args:
        program: The network, with activation ranges and mean operands on its nodes.
        layers: What the predictors say.
        analysed: Samples that the predictors have seen.
        held_out: Samples that they have not seen, at least 2.
        source: Where these came from.
        assignment_bits: Widths that assignments draw from.
        assignments: How many.
        context: Seed of the draws, progress, this process's part of the samples, and the memory limit.

    Returns:
        What was measured and how well it was predicted.
    """
    started = time.perf_counter()
    meter = Meter(program, held_out, context)
    widths = tuple(layers[0].loss_increase)
    single = meter.layers(widths, context.progress)
    drawn = draw_assignments(
        {layer.name: layer.parameter for layer in layers}, assignment_bits, assignments, context.seed
    )
    on_analysed = Meter(program, analysed, context)
    work = track(context.progress, "Measuring random assignments", drawn, len(drawn))
    whole = [(bits, meter.assignment(bits), on_analysed.assignment(bits)) for bits in work]
    found = tuple(
        Assignment(bits, summary(held), {**_sums(layers, bits), WHOLE_ASSIGNMENT: float(seen.kl.mean())})
        for bits, held, seen in whole
    )
    return Validation(
        source=source,
        samples=len(held_out.images),
        layers={layer.name: {width: summary(single[layer.name, width]) for width in widths} for layer in layers},
        assignments=found,
        layer_taus={width: _layer_taus(layers, width, single) for width in widths},
        assignment_taus=_assignment_taus(found, [held for _, held, _ in whole]),
        seconds=time.perf_counter() - started,
    )


def draw_assignments(
    weight_of: Mapping[str, str], bits: tuple[int, ...], count: int, seed: int
) -> tuple[Mapping[str, int], ...]:
    """Random assignments: every weight takes each width with the same probability.

    Args:
        weight_of: Name of each layer's weight; layers that share one share its width.
        bits: Widths to draw from.
        count: How many.
        seed: Of the draws.

    Returns:
        Width by layer.
    """
    weights = tuple(dict.fromkeys(weight_of.values()))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(bits), (count, len(weights)), generator=generator).tolist()
    by_weight = [dict(zip(weights, row, strict=True)) for row in drawn]
    return tuple({layer: bits[row[weight]] for layer, weight in weight_of.items()} for row in by_weight)


def summary(increases: SampleIncreases) -> MeasuredIncrease:
    """Means over samples.

    Args:
        increases: Of at least two samples.

    Returns:
        The means with their standard errors.
    """
    return MeasuredIncrease(_mean(increases.kl), _mean(increases.loss))


def kendall_tau(predicted: Sequence[float] | Values, measured: Sequence[float] | Values) -> float | None:
    """Kendall's tau-b: the share of pairs in the same order less that of pairs in the opposite order, ties accounted.

    Args:
        predicted: At least two numbers.
        measured: As many.

    Returns:
        From -1 to 1; None where one side is constant, so that it has no order.
    """
    from scipy.stats import kendalltau

    if len(set(map(float, predicted))) < 2 or len(set(map(float, measured))) < 2:
        return None
    return float(kendalltau(predicted, measured, variant="b").statistic)


def _mean(values: Values) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def _sums(layers: Sequence[LayerAnalysis], bits: Mapping[str, int]) -> dict[str, float]:
    names = layers[0].loss_increase[next(iter(layers[0].loss_increase))]
    return {n: float(sum(layer.loss_increase[bits[layer.name]][n].nats for layer in layers)) for n in names}


def _layer_taus(
    layers: Sequence[LayerAnalysis], width: int, measured: Mapping[tuple[str, int], SampleIncreases]
) -> dict[str, Tau]:
    increases = [measured[layer.name, width] for layer in layers]
    taus = {
        name: _tau([layer.loss_increase[width][name].nats for layer in layers], increases)
        for name in layers[0].loss_increase[width]
    }
    return {**taus, NOISE_CEILING: _ceiling(increases)}


def _assignment_taus(found: Sequence[Assignment], increases: Sequence[SampleIncreases]) -> dict[str, Tau]:
    taus = {name: _tau([a.predicted[name] for a in found], increases) for name in found[0].predicted}
    return {**taus, NOISE_CEILING: _ceiling(increases)}


def _tau(predicted: Sequence[float], measured: Sequence[SampleIncreases]) -> Tau:
    kl, loss = ([float(v.mean()) for v in values] for values in _both(measured))
    return Tau(kendall_tau(predicted, kl), kendall_tau(predicted, loss))


def _ceiling(measured: Sequence[SampleIncreases]) -> Tau:
    """How well every other sample predicts the rest: no predictor can be seen to do better than about this."""
    kl, loss = (
        kendall_tau([float(v[::2].mean()) for v in values], [float(v[1::2].mean()) for v in values])
        for values in _both(measured)
    )
    return Tau(kl, loss)


def _both(measured: Sequence[SampleIncreases]) -> tuple[list[Values], list[Values]]:
    return [m.kl for m in measured], [m.loss for m in measured]
