"""Accuracy of the optimum under every predictor, against uniform widths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from curvature_predictors import METHODS, Prepared
from curvature_setup import DATA, PREPROCESSING, Bar, Part, print_table
from numpy.typing import NDArray

from codesign.cost.base import price
from codesign.cost.select import cost_model_for
from codesign.hardware.catalog import load_profile
from codesign.plan.plan import Plan
from codesign.progress import Silent
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths
from codesign.quantization.simulation import SimulatedNetwork
from codesign.search.engine import AllocationStrategy, drive
from codesign.search.from_facts import plan_of_choice, problem_from_facts, weight_bytes_limit
from codesign.search.integer_program import solve
from codesign.search.journal import MemoryJournal
from codesign.search.objective import Evaluation
from codesign.search.problem import AllocationProblem
from codesign.training.evaluation import sample_kl_divergence
from codesign.training.loading import load_dataset
from codesign.training.preprocessing import preprocess

AVERAGE_BITS = (3, 4)
ACTIVATION_BITS = 8
UNIFORM, SEARCHED = "uniform", "measured local search from auto's optimum"
LEAST_GAIN = {3: 2.0, 4: 0.0}
"""Points over uniform."""
PROFILE = "host-cpu"
"""Prices latency and energy, which the budget leaves free."""

Images = NDArray[np.float32]
Right = NDArray[np.bool_]


@dataclass
class Judge:
    """Measures plans on test sets, each once.

    Attributes:
        network: Runs plans.
        sets: Images and labels of each test set.
    """

    network: SimulatedNetwork
    sets: Mapping[str, tuple[Images, NDArray[np.int64]]]
    _known: dict[tuple[str, str, bool], Right] = field(default_factory=dict)

    def right(self, plan: Plan | None, test_set: str, quantize_activations: bool) -> Right:
        """Which images a plan classifies rightly.

        Args:
            plan: Widths; None for float weights.
            test_set: Its name.
            quantize_activations: Whether activations are rounded to 8 bits.

        Returns:
            `[N]`.
        """
        key = (plan.digest if plan else "", test_set, quantize_activations)
        if key not in self._known:
            images, labels = self.sets[test_set]
            logits = self.network.logits(images, plan.bits_of if plan else None, quantize_activations)
            self._known[key] = logits.argmax(1) == labels
        return self._known[key]


def plans(prepared: Prepared, jpeg_samples: int, evaluations: int) -> Part:
    """Runs the part.

    Args:
        prepared: The network with its facts under every predictor.
        jpeg_samples: How many JPEG test images to use, drawn at random.
        evaluations: Plans that the local search measures; 0 leaves it out.

    Returns:
        Bars and numbers.
    """
    part = Part()
    judge = _judge(prepared, jpeg_samples)
    for average in AVERAGE_BITS:
        chosen = _choices(prepared, judge.network, average, evaluations)
        rows = [_row(judge, name, plan) for name, plan in [("fp32", None), *chosen.items()]]
        sizes = ", ".join(f"{name} {len(labels)}" for name, (_, labels) in judge.sets.items())
        columns = ["plan", *(f"{test_set} {kind}" for kind in ("W", "W+A8") for test_set in judge.sets)]
        title = f"{prepared.network}: accuracy in % at an average of {average} bits, bias corrected ({sizes} images)"
        print_table(title, columns, rows)
        part.bars += _bars(prepared.network, judge, average, chosen)
        part.numbers[f"average {average} bits"] = {
            "columns": columns,
            "rows": rows,
            "plans": {name: {layer: bits.weight for layer, bits in plan.bits} for name, plan in chosen.items()},
        }
    return part


def _judge(prepared: Prepared, jpeg_samples: int) -> Judge:
    jpeg = load_dataset(str(DATA / "jpeg_test.zip"), DATA, Silent())
    some = np.sort(np.random.default_rng(0).permutation(len(jpeg))[:jpeg_samples])
    assert prepared.test.labels is not None
    sets = {
        "lossless": (prepared.test.images, prepared.test.labels),
        "jpeg": (preprocess(jpeg.images[some], PREPROCESSING), jpeg.labels[some]),
    }
    return Judge(SimulatedNetwork(prepared.program.graph, bias_correction=True), sets)


def _choices(prepared: Prepared, network: SimulatedNetwork, average: int, evaluations: int) -> dict[str, Plan]:
    """Uniform, the optimum under every predictor, and what a search on measured losses makes of auto's."""
    facts = prepared.facts["auto"]
    limits = {"weight_bytes": float(weight_bytes_limit(facts, average))}
    widths = BitWidths(average, ACTIVATION_BITS)
    found = {UNIFORM: Plan(prepared.network, tuple((layer, widths) for layer in prepared.layers))}
    problems = {method: _problem(prepared, method) for method in METHODS}
    for method, problem in problems.items():
        found[method] = plan_of_choice(solve(problem, limits).choice, prepared.network)
    if evaluations:
        strategy = AllocationStrategy(problems["auto"], limits, prepared.network, evaluations)
        images = prepared.search.images
        reference = network.logits(images, None, quantize_activations=False)
        model = cost_model_for(load_profile(PROFILE))

        def measure(plan: Plan) -> Evaluation:
            losses = sample_kl_divergence(reference, network.logits(images, plan.bits_of))
            cost = price(model, facts, plan)
            return Evaluation(plan, cost, float(losses.mean()), None, tuple(losses.tolist()))

        drive(strategy, measure, MemoryJournal(), prepared.network)
        found[SEARCHED] = strategy.best.plan
    return found


def _problem(prepared: Prepared, method: str) -> AllocationProblem:
    widths = [BitWidths(bits, ACTIVATION_BITS) for bits in WEIGHT_BITS]
    facts = next(facts for name, facts in prepared.facts.items() if name == method)
    return problem_from_facts(facts, cost_model_for(load_profile(PROFILE)), widths)


def _row(judge: Judge, name: str, plan: Plan | None) -> list[object]:
    cells: list[object] = [name]
    for rounded in (False, True):
        cells += [f"{100 * judge.right(plan, test_set, rounded).mean():.2f}" for test_set in judge.sets]
    return cells


def _bars(network: str, judge: Judge, average: int, chosen: Mapping[str, Plan]) -> Sequence[Bar]:
    """Auto against uniform, weights only; the standard error is that of the paired difference."""
    bars = []
    for name in ("auto", *((SEARCHED,) if SEARCHED in chosen else ())):
        for test_set in judge.sets:
            ours, theirs = (judge.right(chosen[plan], test_set, False).astype(float) for plan in (name, UNIFORM))
            gain = 100 * (ours - theirs)
            error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
            label = f"{network}: {name} - uniform, {average} bits, {test_set}, points"
            bars.append(Bar(label, float(gain.mean()), least=LEAST_GAIN[average], note=f"standard error {error:.2f}"))
    return bars
