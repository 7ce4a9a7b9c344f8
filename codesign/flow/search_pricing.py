"""The decision of one variant on one target, as a problem with an exact answer."""

import dataclasses
from collections.abc import Mapping

from codesign.architecture.space import Variant
from codesign.flow.partition_request import mesh_of
from codesign.flow.search_context import TargetContext
from codesign.flow.variant_analysis import Analysed
from codesign.ir.program import Program
from codesign.partition.graph_network import network_of
from codesign.plan.facts import GraphFacts
from codesign.plan.plan import Plan
from codesign.quantization.scheme import BitWidths
from codesign.search.joint_devices import devices_of, link_of, problem_on_devices, problem_on_one_device
from codesign.search.joint_mesh import problem_on_mesh
from codesign.search.joint_problem import JointAllocation, JointProblem
from codesign.search.joint_study import METRICS
from codesign.search_file import SearchLimits

DECIDED = {"latency_s": "latency_s", "energy_j": "energy_j", "memory_bytes": "weight_bytes"}
"""What the inner decision limits for each traded metric: of memory, widths decide the weights' part alone."""


def problem_of(place: TargetContext, analysed: Analysed) -> JointProblem:
    """Widths and places of a variant on a target.

    Args:
        place: The target.
        analysed: The variant.

    Returns:
        The problem, losses included.
    """
    return _problem(place, analysed.program, analysed.facts, analysed.ties)


def lower_bounds(place: TargetContext, program: Program, facts: GraphFacts) -> tuple[float, ...]:
    """What a variant takes at least on a target, whatever its widths and places.

    Each node takes its cheapest option, metric by metric, and nothing that crosses between places counts.

    Args:
        place: The target.
        program: The lowered network.
        facts: Its facts; sensitivities are not needed.

    Returns:
        One number for each of `METRICS`.
    """
    free = dict.fromkeys(place.widths, 0.0)
    nodes = (dataclasses.replace(n, loss_increase_nats=free if n.weight_elements else {}) for n in facts.nodes)
    problem = _problem(place, program, GraphFacts(tuple(nodes), facts.digest), ())
    least = {}
    for metric in ("latency_s", "energy_j", "weight_bytes", "peak_memory_bytes"):
        values = [min(option.metrics.get(metric, 0.0) for option in offered) for offered in problem.options]
        constant = problem.constant.get(metric, 0.0)
        least[metric] = max([constant, *values]) if problem.is_maximum(metric) else constant + sum(values)
    return metrics_of(least)


def metrics_of(totals: Mapping[str, float]) -> tuple[float, ...]:
    """The metrics that trials are compared by.

    Args:
        totals: Of a choice, by the metrics of the inner decision.

    Returns:
        One number for each of `METRICS`; memory is weights and live activations together.
    """
    memory = totals["weight_bytes"] + totals["peak_memory_bytes"]
    found = {"latency_s": totals["latency_s"], "energy_j": totals["energy_j"], "memory_bytes": memory}
    return tuple(found[metric] for metric in METRICS)


def limits_of(wanted: SearchLimits, place: TargetContext) -> dict[str, float]:
    """What every network must keep on a target.

    Args:
        wanted: Limits of the run file.
        place: The target, whose own limits count too.

    Returns:
        By metric of the inner decision, the tighter of both. Only devices that are named apart form a pipeline;
        elsewhere the time between two inputs is that of a run.
    """
    asked, own = wanted.model_dump(exclude_none=True), place.target.budget.model_dump(exclude_none=True)
    if "period_s" in asked and not place.target.devices:
        period_s = asked.pop("period_s")
        asked["latency_s"] = min(asked.get("latency_s", period_s), period_s)
    return {metric: min(asked.get(metric, value), value) for metric, value in {**asked, **own}.items()}


def plan_of(architecture: str, place: TargetContext, facts: GraphFacts, allocation: JointAllocation) -> Plan:
    """The plan that makes a choice.

    Args:
        architecture: Name of the variant.
        place: The target.
        facts: The network.
        allocation: The choice.

    Returns:
        Widths of nodes with weights, and places of all nodes where the target has several devices.
    """
    weighted = {node.name for node in facts.weighted}
    chosen = allocation.choice
    bits = tuple((name, BitWidths(o.widths.weight, o.widths.activation)) for name, o in chosen if name in weighted)
    return Plan(architecture, bits, tuple((name, option.place) for name, option in chosen) if place.is_several else ())


def architecture_name(space: str, variant: Variant) -> str:
    """What plans call a variant.

    Args:
        space: Name of its space.
        variant: The variant.

    Returns:
        Such as `squeezenext-0123456789ab`.
    """
    return f"{space}-{variant.identity}"


def _problem(
    place: TargetContext, program: Program, facts: GraphFacts, ties: tuple[tuple[str, ...], ...]
) -> JointProblem:
    target = place.target
    if target.devices:
        return problem_on_devices(facts, devices_of(target), link_of(target), place.widths, ties)
    if place.is_several:
        mesh = mesh_of(target, link_of(target))
        return problem_on_mesh(network_of(program, 1, "network"), facts, mesh, place.profile, place.widths, ties)
    return problem_on_one_device(facts, place.cost_model, place.widths, ties)
