"""Measurements correct a target's cost model while its search runs."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from codesign.backend.layer_times import CALL
from codesign.cost.base import DEFAULT_BITS, CostModel, kernel_latency_s, price
from codesign.cost.corrected import CorrectedModel, MeasuredNetwork, fit_correction, is_grouped
from codesign.cost.resembling import ResemblingModel, TimedKernel, fit_resemblance
from codesign.cost.table import ONE_WORD, Observation, TabledModel, tabulate, workload_of
from codesign.files import write_bytes
from codesign.flow.runners import MEASURED
from codesign.flow.search_context import SearchContext, TargetContext
from codesign.flow.search_finalists import Built, build_finalists, predicted_layer_s
from codesign.flow.search_points import FoundNetwork, finalists_of
from codesign.flow.search_pricing import limits_of
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.report.search_point import Finalist

FIRST_PART = 0.5
"""Share of a search's budget that is spent before the first networks are measured."""
SEED = 0
"""Of fits."""
LEAST_NETWORKS = 4
"""Networks that are measured for a correction, at least."""


@dataclasses.dataclass(frozen=True)
class HalfwayNetwork:
    """A network that was measured when the first part of a budget was spent.

    Attributes:
        plan: Digest of its plan.
        whole: Its predicted latency, and what was measured of it without the price of calling it.
        kernels: What its kernels were expected to take and took; empty where layers cannot be timed.
        call_s: What calling it takes beyond its kernels; 0 where these cannot be timed.
    """

    plan: str
    whole: MeasuredNetwork
    kernels: tuple[TimedKernel, ...]
    call_s: float = 0.0


_HALFWAY = TypeAdapter(tuple[HalfwayNetwork, ...])


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
    return context.folder / "targets" / place.target.name / f"halfway-{context.subject(place)}.json"


def corrected(context: SearchContext, place: TargetContext) -> TargetContext:
    """The target with its cost model corrected, as far as anything was measured.

    Args:
        context: The search.
        place: The target.

    Returns:
        The target.
    """
    return dataclasses.replace(place, cost_model=_model(place.cost_model, _halfway(context, place)))


def _halfway(context: SearchContext, place: TargetContext) -> tuple[HalfwayNetwork, ...]:
    path = file_of(context, place)
    return _HALFWAY.validate_json(path.read_bytes()) if path.is_file() else ()


def _model(base: CostModel, networks: Sequence[HalfwayNetwork]) -> CostModel:
    """The model corrected by whole networks, or by their kernels where these were timed."""
    if not networks:
        return base
    kernels = [kernel for network in networks for kernel in network.kernels]
    resemblance = fit_resemblance(kernels, SEED)
    model: CostModel
    if resemblance is None:
        model = CorrectedModel(base, fit_correction([network.whole for network in networks]))
    else:
        model = ResemblingModel(base, resemblance)
    table = tabulate(Observation(kernel.workload, kernel.seconds) for kernel in kernels)
    return TabledModel(model, table, ONE_WORD, _call_s(networks)) if table.entries else model


def _call_s(networks: Sequence[HalfwayNetwork]) -> float:
    """What calling a network takes beyond its kernels: the same for all, whatever their size."""
    return statistics.median(network.call_s for network in networks) if networks else 0.0


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
    plans = {network.plan for network in _halfway(context, place)}
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
    found = ((network, built[network.plan.digest]) for network in chosen)
    measured = [_halfway_network(place, n, analyst, f) for n, f in found if not isinstance(f, str)]
    write_bytes(path, _HALFWAY.dump_json(tuple(measured), indent=1))
    context.progress.note(f"{place.target.name}: {_in_words(_model(place.cost_model, measured), measured)}")


def _in_words(model: CostModel, networks: Sequence[HalfwayNetwork]) -> str:
    words = f"{len(networks)} networks measured"
    if isinstance(model, TabledModel):
        words += f", {len(model.table.entries)} different kernels in them; a call takes {model.run_s * 1e6:.3g} us"
        model = model.base
    if isinstance(model, ResemblingModel):
        factor = math.exp(model.resemblance.bias)
        return f"{words}; other kernels take {factor:.3g} x what was predicted, more or less as those like them did"
    if isinstance(model, CorrectedModel):
        fitted = model.correction
        return (
            f"{words}; other latencies are now {fitted.scale:.3g} x predicted ({fitted.grouped_scale:.3g} x for "
            f"convolutions with groups) + {fitted.call_s * 1e6:.3g} us a kernel"
        )
    return words


def _halfway_network(
    place: TargetContext, network: FoundNetwork, analyst: VariantAnalyst, found: Finalist
) -> HalfwayNetwork:
    bits_of, facts = network.plan.bits_of, analyst.screen(network.variant).facts
    call_s = math.fsum(layer.measured_s for layer in found.layers if layer.name == CALL)
    nodes = [dataclasses.replace(node, is_first=False) for node in facts.nodes] if call_s else facts.nodes
    prices = [(n, place.cost_model.price_node(n, bits_of.get(n.name, DEFAULT_BITS)).latency_s) for n in nodes]
    whole = MeasuredNetwork(
        math.fsum(seconds for _, seconds in prices),
        math.fsum(seconds for node, seconds in prices if is_grouped(node)),
        sum(seconds > 0 for _, seconds in prices),
        found.latency.median_s - call_s,
    )
    by_name = facts.by_name
    kernels = []
    for layer in found.layers:
        if layer.name != CALL:
            node, bits = by_name[layer.name], bits_of.get(layer.name, DEFAULT_BITS)
            predicted_s = kernel_latency_s(place.cost_model, node, bits)
            kernels.append(TimedKernel(workload_of(node, bits), predicted_s, layer.measured_s))
    return HalfwayNetwork(network.plan.digest, whole, tuple(kernels), call_s)


def held_out(
    context: SearchContext,
    place: TargetContext,
    analyst: VariantAnalyst,
    networks: Sequence[FoundNetwork],
    built: Built,
) -> Built:
    """Products with predictions that do not rest on their own measurement.

    A network that the model was corrected by is predicted by the model that the others alone correct.

    Args:
        context: The search.
        place: The target, not corrected.
        analyst: Knows the variants.
        networks: All of its networks.
        built: What was found of them.

    Returns:
        The same with these predictions.
    """
    halfway = _halfway(context, place)
    plans, shown = {network.plan for network in halfway}, dict(built)
    for network in networks:
        found = built.get(network.plan.digest)
        if network.plan.digest not in plans or found is None or isinstance(found, str):
            continue
        model = _model(place.cost_model, [other for other in halfway if other.plan != network.plan.digest])
        facts, bits_of = analyst.screen(network.variant).facts, network.plan.bits_of
        layers = (
            dataclasses.replace(layer, predicted_s=predicted_layer_s(model, facts, bits_of, layer.name))
            for layer in found.layers
        )
        predicted_s = price(model, facts, network.plan).latency_s
        shown[network.plan.digest] = dataclasses.replace(found, predicted_latency_s=predicted_s, layers=tuple(layers))
    return shown


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
    if not isinstance(place.cost_model, CorrectedModel | TabledModel):
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
