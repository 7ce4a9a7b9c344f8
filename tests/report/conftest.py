"""A report whose every text would break a page or a table that does not escape it."""

import pytest

from codesign.plan.plan import Cost, Plan
from codesign.quantization.scheme import BitWidths
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
            LayerRow("conv" + NASTY, "Conv", 1000, 500, {3: 0.02, 4: 0.01, 8: 0.001}, 3.5, 0.2, False),
            LayerRow("dense", "Gemm", 100, 100, {3: 0.002, 4: 0.001, 8: 0.0}),
        ),
    )
