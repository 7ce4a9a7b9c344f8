"""What passes wrote onto nodes, gathered layer by layer."""

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from codesign.flow.analysis_passes import pass_text
from codesign.ir.annotation import find, read
from codesign.ir.annotations import (
    ActivationSensitivity,
    ActivationTrace,
    CrossLayerTerms,
    FisherDiagonal,
    HessianTrace,
    LossMethod,
    Sensitivity,
)
from codesign.ir.program import Program, name_of
from codesign.ir.shapes import static_shape
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.report.analysis_contents import (
    ActivationAnalysis,
    CrossTerm,
    Curvature,
    LayerAnalysis,
    LossIncrease,
    Trace,
)
from codesign.report.contents import Estimate

LossTable = Mapping[str, Mapping[int, Mapping[str, LossIncrease]]]
"""By layer, width and predictor."""


def loss_table(
    program: Program, predictors: Sequence[LossMethod], bits: tuple[int, ...], context: PassContext
) -> LossTable:
    """What each predictor makes of the facts on the nodes.

    Args:
        program: With the facts that the predictors read.
        predictors: Methods of the pass `sensitivity`.
        bits: Widths; each must be known to each predictor.
        context: For the pass.

    Returns:
        By layer, width and predictor; no width for no predictor.
    """
    widths = bits if predictors else ()
    table: dict[str, dict[int, dict[str, LossIncrease]]] = {
        name_of(node): {width: {} for width in widths} for node in program.weighted_nodes
    }
    for predictor in predictors:
        PassManager(parse_pipeline(pass_text("sensitivity", {"method": predictor}))).run(program, context)
        for node in program.weighted_nodes:
            entries = {entry.weight_bits: entry for entry in read(node, Sensitivity).by_bits}
            for width in widths:
                entry = entries[width]
                found = LossIncrease(entry.loss_increase_nats, entry.standard_error_nats, entry.method)
                table[name_of(node)][width][predictor] = found
    return table


def gather_layers(program: Program, losses: LossTable) -> tuple[LayerAnalysis, ...]:
    """Everything that is known of each layer.

    Args:
        program: With facts on its nodes.
        losses: From `loss_table`.

    Returns:
        In the order of the graph.
    """
    return tuple(_layer(node, losses[name_of(node)]) for node in program.weighted_nodes)


def _layer(node: ir.Node, losses: Mapping[int, Mapping[str, LossIncrease]]) -> LayerAnalysis:
    weight = node.inputs[1]
    assert weight is not None
    shape = static_shape(weight)
    assert shape is not None
    curvature, fisher, crossed = find(node, HessianTrace), find(node, FisherDiagonal), find(node, CrossLayerTerms)
    return LayerAnalysis(
        name=name_of(node),
        parameter=str(weight.name) if curvature is None else curvature.parameter,
        parameters=math.prod(shape),
        curvature=None if curvature is None else _curvature(curvature),
        loss_increase=losses,
        fisher=None if fisher is None else fisher.total,
        activation=_activation(node),
        cross_terms=() if crossed is None else _cross_terms(crossed),
    )


def _curvature(fact: HessianTrace) -> Curvature:
    return Curvature(fact.trace, fact.standard_error, fact.matrix, fact.exact, fact.top_eigenvalues, fact.method)


def _activation(node: ir.Node) -> ActivationAnalysis | None:
    trace, rounded = find(node, ActivationTrace), find(node, ActivationSensitivity)
    if trace is not None:
        value = trace.value
    elif rounded is not None:
        value = rounded.value
    else:
        return None
    entries = () if rounded is None else rounded.by_bits
    found = None if trace is None else Trace(trace.trace, trace.standard_error, trace.matrix, trace.exact)
    return ActivationAnalysis(
        value=value,
        trace=found,
        elements=None if trace is None else trace.elements,
        kl={entry.activation_bits: Estimate(entry.kl_nats, entry.kl_standard_error_nats) for entry in entries},
        squared_error={entry.activation_bits: entry.squared_error for entry in entries},
    )


def _cross_terms(fact: CrossLayerTerms) -> tuple[CrossTerm, ...]:
    return tuple(
        CrossTerm(
            term.weight_bits, term.other, term.other_weight_bits, term.loss_increase_nats, term.standard_error_nats
        )
        for term in fact.terms
    )
