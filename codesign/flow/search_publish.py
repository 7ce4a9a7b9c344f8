"""The report of a joint search."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy.stats import kendalltau

from codesign.architecture.space import Variant, variant_count
from codesign.cost.base import price
from codesign.cost.table import TabledModel
from codesign.errors import CodesignError
from codesign.flow.elastic import SECONDS
from codesign.flow.notes import notes_on
from codesign.flow.publish import environment
from codesign.flow.search_context import ELASTIC, SearchContext, TargetContext
from codesign.flow.search_finalists import Built
from codesign.flow.search_points import FoundNetwork, front_of
from codesign.flow.search_pricing import limits_of, problem_of
from codesign.flow.search_refinement import ROUNDING
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.plan.facts import GraphFacts
from codesign.report.search_contents import (
    BudgetPlan,
    ElasticTraining,
    JointSearch,
    Objective,
    PlanEverywhere,
    PlanOnTarget,
    RankAgreement,
    ReasonCount,
    SearchSpace,
    SpaceAxis,
    TargetResult,
    TrialDone,
)
from codesign.report.search_html import write_search_html
from codesign.report.search_json import write_search_json
from codesign.report.search_point import (
    LayerDecision,
    PointPrediction,
    SearchPoint,
    ShadowPrice,
    Stage,
    VariantShown,
)
from codesign.run_folder import RunFolder
from codesign.search.joint_allocation import allocate
from codesign.search.joint_front import shadow_prices
from codesign.search.joint_study import METRICS, FinishedTrial
from codesign.search.pareto import hypervolume_growth

REPORT_HTML, REPORT_JSON = "report.html", "report.json"
SHOWN_POINTS = 400
"""Points beyond the front that a page shows at most; all of them are in the study."""
UNITS = {
    "latency_s": "s",
    "period_s": "s",
    "energy_j": "J",
    "weight_bytes": "B",
    "peak_memory_bytes": "B",
    "bops": "bit operations",
}


@dataclasses.dataclass(frozen=True)
class TargetOutcome:
    """What was done for one target.

    Attributes:
        place: The target, its cost model corrected by what was measured.
        finished: Its trials.
        networks: What they evaluated, as the corrected model prices it.
        built: Its finalists.
    """

    place: TargetContext
    finished: tuple[FinishedTrial, ...]
    networks: tuple[FoundNetwork, ...]
    built: Built


def publish_search(
    context: SearchContext, analyst: VariantAnalyst, outcomes: Sequence[TargetOutcome], workers: int, seconds: float
) -> JointSearch:
    """Gathers everything and writes the page and the numbers.

    Args:
        context: The search.
        analyst: Knows the variants.
        outcomes: Of every target.
        workers: Processes that searched.
        seconds: That the search took.

    Returns:
        What the report holds.
    """
    search = context.search
    results = tuple(_target_result(context, analyst, outcome) for outcome in outcomes)
    report = JointSearch(
        name=search.name,
        seed=search.seed,
        data=context.data.describe(),
        environment=environment(),
        strategy=_strategy(context),
        budget=_budget(context),
        storage=context.storage,
        dashboard_command=f"optuna-dashboard {context.storage.removeprefix('journal:')}",
        workers=workers,
        seconds=seconds,
        space=SearchSpace(
            context.space.name,
            tuple(SpaceAxis(axis.name, axis.values) for axis in context.space.axes),
            variant_count(context.space),
        ),
        elastic=_elastic(context, analyst),
        targets=results,
        comparison=_comparison(context, analyst, outcomes, results) if len(results) > 1 else (),
    )
    write_search_json(report, context.folder / REPORT_JSON)
    write_search_html(report, context.folder / REPORT_HTML)
    return report


def _target_result(context: SearchContext, analyst: VariantAnalyst, outcome: TargetOutcome) -> TargetResult:
    place, networks = outcome.place, outcome.networks
    front = {network.plan.digest for network in front_of(networks)}
    limits = limits_of(context.search.search.limits, place)
    shown = [n for n in networks if n.plan.digest in front or n.plan.digest in outcome.built]
    others = [n for n in networks if n not in shown]
    points = tuple(
        _point(context, analyst, place, network, front, outcome.built)
        for network in [*shown, *others[:: max(1, -(-len(others) // SHOWN_POINTS))]]
    )
    reference = reference_of(networks)
    built = [point for point in points if point.finalist]
    target = place.target
    return TargetResult(
        name=target.name,
        description=target.description,
        profile=place.profile.name,
        profile_notes=notes_on(target, place.profile),
        runner="simulated" if place.is_several else target.runner,
        cost_provenance=place.cost_model.provenance,
        joint_points=_joint_points(context, place, analyst, networks),
        joint_points_at_least=len({n.variant for n in networks}) < variant_count(context.space),
        objectives=tuple(
            Objective(name, value) for name, value in zip(("loss_nats", *METRICS), reference, strict=True)
        ),
        trials=_progress(outcome, reference),
        discarded=_reasons(outcome.finished, "discarded"),
        failed=(*_reasons(outcome.finished, "infeasible"), *_reasons(outcome.finished, "failed")),
        points=points,
        budgets=(_budget_plan(context, place, analyst, limits, points, networks),),
        latency_agreement=_agreement([
            (p.finalist.predicted_latency_s, p.finalist.latency.median_s) for p in built if p.finalist
        ]),
        loss_agreement=_agreement([
            (p.predicted.loss_nats, p.finalist.loss.value) for p in built if p.finalist and p.finalist.loss
        ]),
    )


def reference_of(networks: Sequence[FoundNetwork]) -> tuple[float, ...]:
    """The worst corner that volumes are counted from: a tenth beyond the worst of the first networks.

    Trials begin with the largest and the smallest variant, so that it hardly depends on how the search went on.

    Args:
        networks: By the number of their trials.

    Returns:
        Loss and metrics.
    """
    first = networks[:3]
    return tuple(1.1 * max(network.values[k] for network in first) for k in range(1 + len(METRICS)))


def _point(
    context: SearchContext,
    analyst: VariantAnalyst,
    place: TargetContext,
    network: FoundNetwork,
    front: set[str],
    built: Built,
) -> SearchPoint:
    digest = network.plan.digest
    found = built.get(digest)
    prices: tuple[ShadowPrice, ...] = ()
    facts = analyst.screen(network.variant).facts
    if digest in front:
        prices = _prices(context, place, analyst, network)
    places = dict(network.plan.placement)
    by_name = facts.by_name
    layers = tuple(
        LayerDecision(
            name, bits.weight, bits.activation, by_name[name].macs, by_name[name].weight_elements, places.get(name, "")
        )
        for name, bits in network.plan.bits
    )
    return SearchPoint(
        identity=digest,
        variant=_shown(context, network.variant),
        layers=layers,
        predicted=_prediction(place, network, facts),
        loss=network.loss,
        decision=network.decision,
        shadow_prices=prices,
        on_front=digest in front,
        finalist=None if isinstance(found, str) else found,
        failure=found if isinstance(found, str) else None,
    )


def _prediction(place: TargetContext, network: FoundNetwork, facts: GraphFacts) -> PointPrediction:
    metrics, model = network.metrics, place.cost_model
    predicted = PointPrediction(
        metrics["latency_s"],
        metrics["energy_j"],
        metrics["peak_memory_bytes"],
        metrics["weight_bytes"],
        network.float_loss,
        network.increase_nats,
        metrics.get("period_s"),
    )
    if not isinstance(model, TabledModel):
        return predicted
    known = model.coverage(facts, network.plan)
    share = known.measured_s / known.latency_s if known.latency_s else 0.0
    return dataclasses.replace(
        predicted, kernels=known.kernels, measured_kernels=known.measured_kernels, measured_share=share
    )


def _shown(context: SearchContext, variant: Variant) -> VariantShown:
    stages = tuple(Stage(s.label, s.width, s.blocks, s.stride) for s in context.space.stages(variant))
    return VariantShown(variant.identity, variant.values, stages)


def _prices(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, network: FoundNetwork
) -> tuple[ShadowPrice, ...]:
    """What its limits cost; none, with a note, where the decision cannot be proven once more."""
    problem = problem_of(place, analyst.analyse(network.variant))
    limits = {metric: limit * (1 + ROUNDING) for metric, limit in network.limits.items()}
    try:
        found = shadow_prices(problem, limits, allocate(problem, limits))
    except CodesignError as error:
        context.progress.note(f"{network.plan.digest}: no shadow prices: {error}")
        return ()
    return tuple(
        ShadowPrice(metric, network.limits[metric], UNITS.get(metric, ""), value) for metric, value in found.items()
    )


def _budget_plan(
    context: SearchContext,
    place: TargetContext,
    analyst: VariantAnalyst,
    limits: Mapping[str, float],
    points: Sequence[SearchPoint],
    networks: Sequence[FoundNetwork],
) -> BudgetPlan:
    """The network of least measured loss among the finalists, or among all where none was built."""
    candidates = [p for p in points if p.finalist] or [p for p in points if p.on_front]
    best = min(candidates, key=lambda p: p.measured_loss.value if p.measured_loss else math.inf)
    chosen = next(network for network in networks if network.plan.digest == best.identity)
    prices = _prices(context, place, analyst, dataclasses.replace(chosen, limits=limits)) if limits else ()
    return BudgetPlan(limits, best.identity, None, prices)


def _progress(outcome: TargetOutcome, reference: Sequence[float]) -> tuple[TrialDone, ...]:
    """Hypervolume after every trial; what was only bounded adds nothing."""
    finished = outcome.finished
    of_trial = {network.trial: network.values for network in outcome.networks}
    values = [of_trial.get(trial.candidate.number, tuple(reference)) for trial in finished]
    volumes = hypervolume_growth(values, reference)
    workers = {name: f"worker {i + 1}" for i, name in enumerate(dict.fromkeys(t.worker for t in finished))}
    start = finished[0].finished_s
    return tuple(
        TrialDone(trial.candidate.number, trial.finished_s - start, volume, workers[trial.worker])
        for trial, volume in zip(finished, volumes, strict=True)
    )


def _reasons(finished: Sequence[FinishedTrial], kind: str) -> tuple[ReasonCount, ...]:
    counts: dict[str, int] = {}
    for trial in finished:
        if trial.outcome.kind == kind:
            reason = "a lower bound is dominated" if kind == "discarded" else str(trial.outcome.record.get("reason"))
            counts[reason] = counts.get(reason, 0) + 1
    return tuple(ReasonCount(reason, count) for reason, count in counts.items())


def _joint_points(
    context: SearchContext, place: TargetContext, analyst: VariantAnalyst, networks: Sequence[FoundNetwork]
) -> int:
    """Variants x widths x places; variants that were not looked at count with the fewest layers that were seen."""
    counts = {}
    for network in networks:
        problem = problem_of(place, analyst.analyse(network.variant))
        counts[network.variant.identity] = math.prod(len(offered) for offered in problem.options)
    unseen = variant_count(context.space) - len(counts)
    return sum(counts.values()) + unseen * min(counts.values())


def _agreement(pairs: Sequence[tuple[float, float]]) -> RankAgreement:
    if len(pairs) < 3:
        return RankAgreement(None, len(pairs))
    tau = float(kendalltau([a for a, _ in pairs], [b for _, b in pairs]).statistic)
    return RankAgreement(None if math.isnan(tau) else tau, len(pairs))


def _strategy(context: SearchContext) -> str:
    section = context.search.search
    names = {"nsga2": "NSGA-II", "tpe": "TPE", "random": "random draws", "exhaustive": "every member in order"}
    return names[section.sampler]


def _budget(context: SearchContext) -> str:
    section = context.search.search
    parts = []
    if section.sampler != "exhaustive" or section.trials is not None:
        parts += [f"{section.trials} trials"] if section.trials is not None else []
    parts += [f"{section.seconds:g} s"] if section.seconds is not None else []
    return " or ".join(parts) + " for each target" if parts else "every member"


def _elastic(context: SearchContext, analyst: VariantAnalyst) -> ElasticTraining:
    options = context.search.elastic
    seconds = RunFolder.read_json(context.folder / ELASTIC / SECONDS)["seconds"]
    learn = "distilled from the largest" if options.distillation else "on the labels"
    method = f"largest, smallest and {options.random_variants} random variants a batch, {learn}"
    if options.weight_bits:
        method += f", weights drawn at {', '.join(map(str, sorted(options.weight_bits)))} bits"
    parameters = sum(parameter.numel() for parameter in analyst.supernet.parameters())
    return ElasticTraining(method, options.epochs, float(str(seconds)), parameters)


def _comparison(
    context: SearchContext,
    analyst: VariantAnalyst,
    outcomes: Sequence[TargetOutcome],
    results: Sequence[TargetResult],
) -> tuple[PlanEverywhere, ...]:
    """Each target's choice, priced on every target."""
    rows = []
    for outcome, result in zip(outcomes, results, strict=True):
        identity = result.budgets[0].identity
        network = next(n for n in outcome.networks if n.plan.digest == identity)
        on = tuple(_on_target(analyst, network, other.place, own=other is outcome) for other in outcomes)
        rows.append(PlanEverywhere(result.name, network.plan.digest, on))
    return tuple(rows)


def _on_target(analyst: VariantAnalyst, network: FoundNetwork, place: TargetContext, *, own: bool) -> PlanOnTarget:
    facts = analyst.screen(network.variant).facts
    provenance = place.cost_model.provenance
    name = place.target.name
    try:
        if network.plan.placement and not own:
            raise CodesignError("it is placed on the devices of another target")
        cost = network.cost if own else price(place.cost_model, facts, network.plan)
    except CodesignError as error:
        return PlanOnTarget(name, None, None, None, provenance, "measured", str(error))
    return PlanOnTarget(name, cost.latency_s, cost.energy_j, network.loss.value, provenance, "measured")
