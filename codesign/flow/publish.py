"""The last step: the report."""

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence

from codesign.backend.layer_times import LayerTime
from codesign.cost.base import kernel_latency_s
from codesign.errors import MeasurementError
from codesign.flow.build import BASELINE, machine
from codesign.flow.context import RunContext
from codesign.flow.decide import Decision, Proposal
from codesign.flow.notes import notes_on
from codesign.flow.prepare import versions
from codesign.ir.annotation import find
from codesign.ir.annotations import HessianTrace
from codesign.ir.program import Program
from codesign.plan.facts import GraphFacts
from codesign.report.contents import Candidate, LayerRow, Measured, Prediction, RunReport, mark_front
from codesign.report.html import write_report_html
from codesign.report.json import write_report_json

REPORT_HTML = "report.html"
REPORT_JSON = "report.json"
_FLOAT_BITS = 32.0


def publish(
    context: RunContext,
    program: Program,
    facts: GraphFacts,
    decision: Decision,
    built: Mapping[str, Measured | str],
    product: tuple[Sequence[LayerTime], str] = ((), ""),
) -> RunReport:
    """Gathers everything and writes `report.html` and `report.json`; step `report`.

    Args:
        context: The run.
        program: The annotated network.
        facts: Its facts.
        decision: What was chosen.
        built: By candidate: what was measured, or why it failed.
        product: Of the chosen network: times of its layers, empty where nothing timed them, and how its kernels were
            tuned, in words, empty where they were not.

    Returns:
        The report.

    Raises:
        MeasurementError: The chosen plan could not be built.
    """
    candidates = tuple(
        _candidate(context, facts, proposal, built[proposal.identity]) for proposal in decision.proposals
    )
    target = context.target
    report = RunReport(
        run=context.run.name,
        target=target.name,
        target_description=target.description,
        profile_notes=notes_on(target, context.profile),
        seed=context.run.seed,
        environment={**environment(), **({"kernels of the chosen network": product[1]} if product[1] else {})},
        data=context.data.describe(),
        sensitivity_method=context.run.quantization.sensitivity,
        candidates=mark_front(candidates),
        choices=decision.choices,
        layers=_layers(context, program, facts, decision, product[0]),
    )
    if report.chosen.measured is None:
        raise MeasurementError(
            f"the chosen plan {report.chosen.identity} failed: {report.chosen.failure}; repeat the run"
        )
    write_report_json(report, context.folder / REPORT_JSON)
    write_report_html(report, context.folder / REPORT_HTML)
    return report


def _candidate(context: RunContext, facts: GraphFacts, proposal: Proposal, found: Measured | str) -> Candidate:
    measured = (
        dataclasses.replace(found, loss_increase_nats=proposal.measured_loss) if isinstance(found, Measured) else None
    )
    predicted = None
    if proposal.plan is not None:
        assert proposal.cost is not None
        assert proposal.predicted_loss_nats is not None
        predicted = Prediction(proposal.predicted_loss_nats, proposal.cost, context.cost_model.provenance)
    return Candidate(
        proposal.identity,
        proposal.roles,
        proposal.plan,
        average_bits(facts, proposal),
        predicted,
        measured,
        None if isinstance(found, Measured) else found,
    )


def average_bits(facts: GraphFacts, proposal: Proposal) -> float:
    """Mean width of a weight.

    Args:
        facts: The network.
        proposal: A candidate.

    Returns:
        Bits; 32 for the baseline.
    """
    if proposal.plan is None:
        return _FLOAT_BITS
    bits_of = proposal.plan.bits_of
    weights = sum(node.weight_elements for node in facts.weighted)
    return sum(node.weight_elements * bits_of[node.name].weight for node in facts.weighted) / weights


def _layers(
    context: RunContext,
    program: Program,
    facts: GraphFacts,
    decision: Decision,
    layer_times: Sequence[LayerTime],
) -> tuple[LayerRow, ...]:
    chosen = next(p.plan for p in decision.proposals if p.identity == decision.choices[0].identity)
    assert chosen is not None
    measured = {time.layer: time.seconds for time in layer_times}
    traces = {node.name: find(node, HessianTrace) for node in program.graph.graph}
    rows = []
    for node in facts.weighted:
        losses = {bits.weight: loss for bits, loss in node.loss_increase_nats.items()}
        trace = traces.get(node.name)
        known = (trace.trace, trace.standard_error, trace.exact) if trace else (None, None, None)
        predicted = kernel_latency_s(context.cost_model, node, chosen.bits_of[node.name])
        found = measured.get(node.name)
        row = LayerRow(node.name, node.op_type, node.macs, node.weight_elements, losses, *known)
        rows.append(dataclasses.replace(row, predicted_s=predicted, measured_s=found))
    return tuple(rows)


def environment() -> dict[str, str]:
    """Machine and versions, in words."""
    found = {"machine": machine(), "system": platform.platform(terse=True), "python": platform.python_version()}
    return {**found, "cores this process may use": str(len(os.sched_getaffinity(0))), **versions()}


__all__ = ["BASELINE", "REPORT_HTML", "REPORT_JSON", "average_bits", "environment", "publish"]
