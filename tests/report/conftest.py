"""A report whose every text would break a page or a table that does not escape it."""

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
