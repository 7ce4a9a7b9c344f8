"""Measurements correct a target's cost model while its search runs."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from codesign.cost.base import price
from codesign.cost.corrected import CorrectedModel, Correction, MeasuredNetwork, fit_correction, is_grouped
from codesign.files import write_bytes
from codesign.flow.runners import MEASURED
from codesign.flow.search_context import SearchContext, TargetContext
from codesign.flow.search_finalists import build_finalists
from codesign.flow.search_points import FoundNetwork, finalists_of
from codesign.flow.search_pricing import limits_of
from codesign.flow.variant_analysis import VariantAnalyst

FIRST_PART = 0.5
"""Share of a search's budget that is spent before the first networks are measured."""
LEAST_NETWORKS = 4
"""Networks that are measured for a correction, at least."""


@dataclasses.dataclass(frozen=True)
class Halfway:
    """What was learned when the first part of a budget was spent.

    Attributes:
        correction: Of the cost model.
        plans: Digests of the plans that were measured.
    """

    correction: Correction
    plans: tuple[str, ...]


_HALFWAY = TypeAdapter(Halfway)


def is_corrected_while_searching(context: SearchContext, place: TargetContext) -> bool:
    """Whether networks are measured halfway: something can be timed, and finalists are wanted at all.

    Args:
        context: The search.
        place: The target.

    Returns:
        False for simulated targets, whose latency is the cost model's own, and for several devices.
    """
    return place.target.runner in MEASURED and not place.is_several and context.search.search.finalists > 0


def file_of(context: SearchContext, place: TargetContext) -> Path:
    """Where a target's correction is kept.

    Args:
        context: The search.
        place: The target.

    Returns:
        The file, which may not exist yet.
    """
    return context.folder / "targets" / place.target.name / f"correction-{context.subject(place)}.json"


def corrected(context: SearchContext, place: TargetContext) -> TargetContext:
    """The target with its cost model corrected, as far as anything was measured.

    Args:
        context: The search.
        place: The target.

    Returns:
        The target.
    """
    path = file_of(context, place)
    if not path.is_file():
        return place
    correction = _HALFWAY.validate_json(path.read_bytes()).correction
    return dataclasses.replace(place, cost_model=CorrectedModel(place.cost_model, correction))


def measured_halfway(
    context: SearchContext, place: TargetContext, networks: Sequence[FoundNetwork]
) -> tuple[FoundNetwork, ...]:
    """Networks that the correction was fitted to; they are finalists too, since they are built already.

    Args:
        context: The search.
        place: The target.
        networks: All of its networks.

    Returns:
        Those of them that were measured.
    """
    path = file_of(context, place)
    if not path.is_file():
        return ()
    plans = set(_HALFWAY.validate_json(path.read_bytes()).plans)
    return tuple(network for network in networks if network.plan.digest in plans)


def measure_and_correct(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, networks: Sequence[FoundNetwork]
) -> None:
    """Builds the best networks so far and fits the correction to them; done once for a target.

    Args:
        context: The search.
        place: The target, not corrected.
        analyst: Knows the variants.
        networks: Found so far.
    """
    path = file_of(context, place)
    if path.is_file():
        return
    chosen = finalists_of(networks, max(LEAST_NETWORKS, context.search.search.finalists))
    built = build_finalists(context, place, analyst, chosen)
    measured = []
    for network in chosen:
        found = built[network.plan.digest]
        if not isinstance(found, str):
            measured.append(_beside_prediction(place, network, analyst, found.latency.median_s))
    correction = fit_correction(measured)
    halfway = Halfway(correction, tuple(d for d, found in built.items() if not isinstance(found, str)))
    write_bytes(path, _HALFWAY.dump_json(halfway, indent=1))
    context.progress.note(
        f"{place.target.name}: {len(measured)} networks measured; latencies are now {correction.scale:.3g} x predicted "
        f"({correction.grouped_scale:.3g} x for convolutions with groups) + {correction.call_s * 1e6:.3g} us a call"
    )


def _beside_prediction(
    place: TargetContext, network: FoundNetwork, analyst: VariantAnalyst, measured_s: float
) -> MeasuredNetwork:
    bits_of, usual = network.plan.bits_of, place.widths[-1]
    facts = analyst.screen(network.variant).facts
    prices = [(n, place.cost_model.price_node(n, bits_of.get(n.name, usual)).latency_s) for n in facts.nodes]
    return MeasuredNetwork(
        math.fsum(seconds for _, seconds in prices),
        math.fsum(seconds for node, seconds in prices if is_grouped(node)),
        sum(seconds > 0 for _, seconds in prices),
        measured_s,
    )


def repriced(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, networks: Sequence[FoundNetwork]
) -> tuple[FoundNetwork, ...]:
    """Networks as the corrected model prices them; those of other models stay as they are.

    Args:
        context: The search.
        place: The target, corrected where anything was measured.
        analyst: Knows the variants.
        networks: As trials recorded them.

    Returns:
        The same networks, in the same order, without those that keep a limit of the run file no longer. A budget that
        a network was decided under is what it costs itself, and follows its price.
    """
    if not isinstance(place.cost_model, CorrectedModel):
        return tuple(networks)
    wanted = limits_of(context.search.search.limits, place)
    found = []
    for network in networks:
        cost = price(place.cost_model, analyst.screen(network.variant).facts, network.plan)
        metrics = {**network.metrics, "latency_s": cost.latency_s, "energy_j": cost.energy_j}
        values = (network.values[0], cost.latency_s, cost.energy_j, *network.values[3:])
        if all(metrics[metric] <= limit for metric, limit in wanted.items()):
            limits = {metric: wanted.get(metric, metrics[metric]) for metric in network.limits}
            found.append(dataclasses.replace(network, metrics=metrics, values=values, limits=limits))
    return tuple(found)
