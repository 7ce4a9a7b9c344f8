"""Local search on measured losses around the best networks of a joint search, under what each of them costs.

Sums of sensitivities only propose: losses of layers do not add up. A network that the exact decision found is therefore
the start of a search among its neighbours, judged by the divergence of the whole network's outputs.
"""

import dataclasses
from collections.abc import Sequence

from codesign.flow.decide import JOURNAL, PlanMeter
from codesign.flow.search_context import SearchContext, TargetContext
from codesign.flow.search_points import FoundNetwork
from codesign.flow.search_pricing import architecture_name, metrics_of
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.report.search_point import InnerDecision
from codesign.search.engine import AllocationStrategy, drive
from codesign.search.from_facts import problem_from_facts
from codesign.search.journal import FileJournal

ROUNDING = 1e-9
"""Share by which limits are loosened, so that a network keeps what it costs itself however sums are rounded."""
KEPT = ("latency_s", "energy_j", "weight_bytes", "peak_memory_bytes")


def refine(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, chosen: Sequence[FoundNetwork]
) -> tuple[FoundNetwork, ...]:
    """Looks for networks that cost no more and lose less.

    Args:
        context: The search; `search.refinements` networks are measured around each one.
        place: The target, with one device.
        analyst: Knows the variants.
        chosen: Where to look.

    Returns:
        Networks with a smaller measured loss on search data than those they were found around.
    """
    found = []
    for network in chosen:
        better = _around(context, place, analyst, network)
        if better is not None and better.loss.value < network.loss.value:
            found.append(better)
    return tuple(found)


def _around(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, network: FoundNetwork
) -> FoundNetwork | None:
    analysed = analyst.analyse(network.variant)
    run = context.run_context(network.variant, place, analyst.folder(network.variant))
    problem = problem_from_facts(analysed.facts, place.cost_model, place.widths, analysed.ties)
    limits = {metric: network.metrics[metric] * (1 + ROUNDING) for metric in KEPT}
    name, count = architecture_name(context.space.name, network.variant), context.search.search.refinements
    strategy = AllocationStrategy(problem, limits, name, count)
    meter = PlanMeter(run, analysed.program, analysed.facts)
    journal = FileJournal(run.folder / JOURNAL, context.progress)
    label = f"Refining {network.plan.digest}"
    drive(strategy, meter.measure, journal, meter.subject, context.progress, count, label)
    plan = strategy.best.plan
    if plan.bits == network.plan.bits:
        return None
    by_name = analysed.facts.by_name
    totals = dict(problem.totals_of(plan.bits))
    loss = analyst.loss_of(network.variant, plan.bits_of)
    increase = sum(by_name[node].loss_increase_nats[bits] for node, bits in plan.bits)
    allocation = strategy.allocation
    return dataclasses.replace(
        network,
        plan=plan,
        values=(loss.value, *metrics_of(totals)),
        metrics=totals,
        increase_nats=increase + analysed.activation_increase_nats,
        loss=loss,
        decision=InnerDecision(
            allocation.status,
            f"local search over {strategy.told} measured networks",
            allocation.bound + analysed.activation_increase_nats,
            allocation.gap,
            allocation.seconds,
        ),
    )
