"""Reports whose every text would break a page or a table that does not escape it."""

import dataclasses
import random

import pytest

from codesign.plan.plan import Cost, Plan
from codesign.quantization.scheme import BitWidths
from codesign.report.analysis_contents import (
    NOISE_CEILING,
    WHOLE_ASSIGNMENT,
    ActivationAnalysis,
    Analysis,
    Assignment,
    CrossTerm,
    Curvature,
    LayerAnalysis,
    LossIncrease,
    MeasuredIncrease,
    NetworkAnalysis,
    Spread,
    Tau,
    Trace,
    Validation,
)
from codesign.report.analysis_contents import Cost as AnalysisCost
from codesign.report.contents import (
    Agreement,
    BudgetChoice,
    Candidate,
    Estimate,
    Latency,
    LayerRow,
    Measured,
    Prediction,
    RunReport,
    mark_front,
)
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
from codesign.report.search_point import (
    Finalist,
    InnerDecision,
    LayerDecision,
    LayerLatency,
    PointPrediction,
    ProductAccuracy,
    SearchPoint,
    ShadowPrice,
    Stage,
    VariantShown,
)
from codesign.search.pareto import non_dominated

NASTY = "<script>alert('x')</script>&\"[/bold][red]"


def _plan(bits: int) -> Plan:
    return Plan("net", (("conv" + NASTY, BitWidths(bits, 8)), ("dense", BitWidths(8, 8))))


def _measured(accuracy: float, latency_s: float, weight_bytes: int, loss: float | None) -> Measured:
    latencies = (
        Latency("tvm", latency_s, 0.9 * latency_s, 1e-6, 50, 1, "measured"),
        Latency("onnxruntime", 2 * latency_s, 1.9 * latency_s, 1e-6, 50, 1, "measured"),
    )
    return Measured(
        None if loss is None else Estimate(loss, 0.1 * loss),
        {"test": Estimate(accuracy, 0.01), "rotated" + NASTY: Estimate(accuracy / 2, 0.02)},
        latencies,
        None,
        None,
        weight_bytes,
        Agreement(0.01, None if loss is None else 1.0, 0.97, 100),
    )


def _prediction(loss: float) -> Prediction:
    return Prediction(
        loss, Cost(latency_s=1e-4, energy_j=2e-6, peak_memory_bytes=900, weight_bytes=300, bops=1e6), "estimated"
    )


@pytest.fixture
def report() -> RunReport:
    """A baseline, two plans that were measured and one that failed."""
    eight, four, three = _plan(8), _plan(4), _plan(3)
    candidates = (
        Candidate("baseline", ("float32 baseline",), None, 32.0, None, _measured(0.92, 5e-4, 4000, None)),
        Candidate(
            eight.digest, ("uniform 8 bits",), eight, 8.0, _prediction(0.001), _measured(0.915, 2e-4, 1000, 0.002)
        ),
        Candidate(
            four.digest,
            ("additive optimum for average_bits = 6", "chosen for " + NASTY),
            four,
            5.5,
            _prediction(0.01),
            _measured(0.91, 1.9e-4, 600, 0.011),
        ),
        Candidate(three.digest, ("sweep",), three, 5.0, _prediction(0.02), None, "crashed: [/tmp/x] " + NASTY),
    )
    return RunReport(
        "run" + NASTY,
        "host-cpu",
        "A machine " + NASTY,
        ("profile: " + NASTY,),
        7,
        {"machine": "CPU " + NASTY},
        {"test data": "100 samples of " + NASTY},
        "kl",
        mark_front(candidates),
        (BudgetChoice("average_bits = 6", four.digest, four.digest, 0.009, 0.0, 12),),
        (
            LayerRow("conv" + NASTY, "Conv", 1000, 500, {3: 0.02, 4: 0.01, 8: 0.001}, 3.5, 0.2, False, 2e-5, 3e-5),
            LayerRow("dense", "Gemm", 100, 100, {3: 0.002, 4: 0.001, 8: 0.0}),
        ),
    )


def _layer(name: str, scale: float, exact: bool) -> LayerAnalysis:
    method = "packed-gauss-newton" if exact else "hutchinson"
    return LayerAnalysis(
        name=name,
        parameter=name + ".weight",
        parameters=500,
        curvature=Curvature(3.5 * scale, 0.0 if exact else 0.25, "hessian", exact, (2.0 * scale, 0.5), method),
        loss_increase={
            bits: {
                "auto": LossIncrease(scale / bits, 0.01, "kl" if exact else "gauss-newton"),
                "hawq-v2": LossIncrease(2 * scale / bits, 0.0, "hawq-v2"),
            }
            for bits in (2, 4)
        },
        fisher=1.25 * scale,
        activation=ActivationAnalysis(
            name + "_in",
            Trace(0.75, 0.125, "gauss-newton", False),
            64,
            {4: Estimate(0.02, 0.002)},
            {4: 1.5},
        ),
        cross_terms=(CrossTerm(2, "dense", 4, -0.0625, 0.01),),
        subsets={"trace": Spread(-3.0, 0.5, (-2.5, -3.5))},
    )


def _increase(kl: float) -> MeasuredIncrease:
    return MeasuredIncrease(Estimate(kl, 0.1 * kl), Estimate(-kl, 0.2 * kl))


@pytest.fixture
def analysis() -> Analysis:
    """Everything that can be asked for, of two layers, one exact and one with a negative eigenvalue."""
    layers = (_layer("conv" + NASTY, 1.0, True), _layer("dense", -0.5, False))
    taus = {"auto": Tau(0.875, -0.25), "hawq-v2": Tau(0.5, None)}
    assignments = tuple(
        Assignment({layer.name: bits for layer in layers}, _increase(1 / bits), {"auto": 0.3, WHOLE_ASSIGNMENT: 0.4})
        for bits in (2, 4)
    )
    validation = Validation(
        source="test" + NASTY,
        samples=40,
        layers={layer.name: {2: _increase(0.5), 4: _increase(0.25)} for layer in layers},
        assignments=assignments,
        layer_taus={bits: {**taus, NOISE_CEILING: Tau(0.96875, 0.125)} for bits in (2, 4)},
        assignment_taus={**taus, WHOLE_ASSIGNMENT: Tau(0.9375, 0.75)},
        seconds=2.0,
    )
    runs = ((-1.0, 0.0, 4.0), (-0.5, 0.0, 4.25))
    weights = ((0.25, 0.5, 0.25), (0.25, 0.5, 0.25))
    network = NetworkAnalysis(1000, 7.5, 0.375, (4.25, -1.0), (0.01, 0.02), runs, weights, (-1.0, 4.25), (0.5, 0.0))
    return Analysis(
        model="net" + NASTY,
        data="train" + NASTY,
        samples=100,
        metrics=("trace", "auto", "hawq-v2"),
        pipeline="hessian-trace{samples=100}",
        bits=(2, 4),
        target="host-cpu",
        weights_of="folded",
        dtype="float64",
        seed=7,
        processes=2,
        layers=layers,
        network=network,
        validation=validation,
        cost=AnalysisCost(12.0, 23.0, 2**30, 17.5, {"hessian-trace": 11.0}),
        environment={"machine": "CPU " + NASTY},
    )


AXES = (
    SpaceAxis("depth1", (1, 2, 4)),
    SpaceAxis("width1", (16, 32, 64)),
    SpaceAxis("squeeze", (0.25, 0.5)),
    SpaceAxis("stem_kernel", (3,)),
    SpaceAxis("pair_order", ("alternating", "vertical-first")),
)


def _point(draw: random.Random, number: int, places: tuple[str, ...], nasty: str) -> SearchPoint:
    """Deeper and wider variants lose less and take longer; so do more bits."""
    choices = {axis.name: draw.choice(axis.values) for axis in AXES}
    depth, width = int(choices["depth1"]), int(choices["width1"])
    stages = (
        Stage("stem" + nasty, width, 1, 1),
        *(Stage(f"stage {i + 1}", width << i, depth << (i % 2), min(i + 1, 2)) for i in range(3)),
        Stage("tail", 4 * width, 1, 1),
        Stage("classifier", 10, 1, 1),
    )
    layers = tuple(
        LayerDecision(f"stage{i // 6}.block{i % 6}.conv{nasty}", draw.choice((2, 4, 4, 8)), 8, 20_000 * width,
                      64 * width, draw.choice(places))
        for i in range(6 + 8 * depth)
    )  # fmt: skip
    bits = sum(layer.weight_bits for layer in layers) / len(layers)
    work = depth * width
    latency_s, noise = 1e-5 * (work + 20) * (0.8 + bits / 20), draw.uniform(0.95, 1.2)
    floating = Estimate(0.35 + 2.0 / (4 + work**0.5) * noise, 0.02)
    predicted = PointPrediction(latency_s, 0.9 * latency_s * noise, 800.0 * width, 24.0 * work * bits, floating,
                                0.4 * 2.0 ** (2 - bits), 0.5 * latency_s if number % 2 else None,
                                4, 3, 0.875)  # fmt: skip
    loss = Estimate(predicted.loss_nats * draw.uniform(0.97, 1.1), 0.021) if number % 3 else None
    price = ShadowPrice("latency_s", latency_s, "s", 0.05 / latency_s)
    decision = InnerDecision("optimal", "integer programme", predicted.loss_increase_nats, 0.0, 0.031)
    variant = VariantShown(f"{number:012x}", choices, stages)
    return SearchPoint(f"{number:06x}{nasty}", variant, layers, predicted, loss, decision, (price,))


def _finalist(draw: random.Random, point: SearchPoint, nasty: str) -> Finalist:
    right = 1.05 - point.predicted.loss_nats / 2
    accuracy = {
        name: ProductAccuracy(Estimate(scale * right, 0.009), Estimate(scale * right - 0.01, 0.0095))
        for name, scale in (("test", 1.0), ("rotated" + nasty, 0.7))
    }
    median_s = point.predicted.latency_s * draw.uniform(0.9, 1.3)
    latency = Latency("tvm", median_s, 0.95 * median_s, 0.1 * median_s, 50, 1, "measured")
    expected = point.predicted
    return Finalist(True, accuracy, Estimate(expected.loss_nats - 0.03, 0.02), latency, expected.latency_s,
                    1.1 * expected.energy_j, "measured", "RAPL" + nasty, int(1.1 * expected.weight_bytes),
                    f"artifacts/{point.identity}", _layer_latencies(expected.latency_s, median_s, nasty))  # fmt: skip


def _layer_latencies(predicted_s: float, measured_s: float, nasty: str) -> tuple[LayerLatency, ...]:
    shares = (0.5, 0.375, 0.125)
    timed = (LayerLatency(f"conv{i}{nasty}", s * predicted_s, s * measured_s) for i, s in enumerate(shares))
    return (*timed, LayerLatency("softmax", 1e-7, 0.0))


def _search_target(name: str, seed: int, places: tuple[str, ...], nasty: str) -> TargetResult:
    draw = random.Random(seed)
    points = [_point(draw, number, places, nasty) for number in range(40)]
    costs = [(p.measured_loss.value if p.measured_loss else p.predicted.loss_nats, p.predicted.latency_s,
              p.predicted.energy_j) for p in points]  # fmt: skip
    front = non_dominated(costs)
    built, failing = front[::2], front[-1]
    for i in front:
        points[i] = dataclasses.replace(points[i], on_front=True)
    for i in built:
        points[i] = dataclasses.replace(points[i], finalist=_finalist(draw, points[i], nasty))
    points[failing] = dataclasses.replace(points[failing], finalist=None, failure="compiler: [/tmp/x] " + nasty)
    trials = []
    volume = 0.0
    for number in range(40):
        volume += (2.0 * 5e-3 * 5e-3 - volume) * draw.uniform(0.0, 0.15) * (number % 4 == 0)
        trials.append(TrialDone(number, 3.0 + 2.4 * number, volume, f"worker {number % 2}{nasty}"))
    limit = {"latency_s": 1.5 * points[built[0]].predicted.latency_s, "energy_j": 1e-3}
    prices = tuple(ShadowPrice(m, v, u, n) for (m, v), u, n in zip(limit.items(), ("s", "J"), (42.0, 0.0), strict=True))
    return TargetResult(
        name=name,
        description="A machine " + nasty,
        profile=name,
        profile_notes=("energies are assumed " + nasty,),
        runner="the local runner " + nasty,
        cost_provenance="calibrated",
        joint_points=432 * 3**22,
        objectives=(Objective("loss_nats", 2.0), Objective("latency_s", 5e-3), Objective("energy_j", 5e-3)),
        trials=tuple(trials),
        discarded=(ReasonCount("a lower bound on latency is above the budget " + nasty, 212),),
        failed=(ReasonCount("CompileError: [/tmp/x] " + nasty, 1),),
        points=tuple(points),
        budgets=(
            BudgetPlan(limit, points[built[0]].identity, None, prices),
            BudgetPlan({"weight_bytes": 10.0}, None, "the least weight_bytes is 1,200 " + nasty),
        ),
        latency_agreement=RankAgreement(0.87, len(built)),
        loss_agreement=RankAgreement(None, 2),
        joint_points_at_least=True,
    )


def example_search(nasty: str) -> JointSearch:
    """Two targets, one of two devices, with everything that a search can find."""
    targets = (_search_target("host-cpu", 1, ("",), nasty), _search_target("cpu+npu", 2, ("cpu", "npu" + nasty), nasty))
    plans = []
    for index, own in enumerate(targets):
        assert own.chosen is not None
        cells = [
            PlanOnTarget(
                t.name, 1e-3 * (1 + index + 2 * i), 2e-3 * (2 - index), 0.4 + index / 9, "calibrated", "measured"
            )
            for i, t in enumerate(targets)
        ]
        if index == 1:
            cells[0] = PlanOnTarget("host-cpu", None, None, None, "calibrated", "measured", "no npu there " + nasty)
        plans.append(PlanEverywhere(own.name, own.chosen.identity, tuple(cells)))
    return JointSearch(
        name="digits" + nasty,
        seed=7,
        data={"train": "1,078 samples of digits " + nasty, "search": "269 samples", "test": "450 samples"},
        environment={"machine": "CPU " + nasty, "codesign": "0.1.0"},
        strategy="NSGA-II " + nasty,
        budget="40 trials " + nasty,
        storage="journal:runs/digits/study.journal" + nasty,
        dashboard_command="optuna-dashboard runs/digits/study.journal" + nasty,
        workers=2,
        seconds=103.5,
        space=SearchSpace("squeezenext" + nasty, AXES, 36),
        elastic=ElasticTraining("largest, smallest and 2 random variants a step " + nasty, 20, 41.5, 61_234),
        targets=targets,
        comparison=tuple(plans),
    )


@pytest.fixture
def search() -> JointSearch:
    """A joint search."""
    return example_search(NASTY)
