"""Kendall's tau of every predictor of the loss increase with what was measured on test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from curvature_setup import CHECKPOINTS, ROOT, Bar, Part, images_of, print_table
from numpy.typing import NDArray
from scipy.stats import kendalltau

from codesign.flow.held_out import Meter, SampleIncreases
from codesign.ir.annotation import read
from codesign.ir.annotations import KlSensitivity, LossMethod, Sensitivity
from codesign.ir.loading import load_program
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.passes.sensitivity import SensitivityPass
from codesign.plan.facts import GraphFacts
from codesign.plan.from_graph import facts_of
from codesign.progress import Silent
from codesign.quantization.scheme import WEIGHT_BITS

METHODS: tuple[LossMethod, ...] = get_args(LossMethod)
AUTO_FORWARDS = 400
"""What `auto` may spend on measuring in `codesign analyze`, in forward passes over the samples."""
RANKED_BITS = (2, 3, 4, 6, 8)
LEAST_TAU = {2: 0.80, 3: 0.75, 4: 0.75, 6: 0.65, 8: 0.65}
MIXED_BITS = (2, 3, 4, 8)
LEAST_SUM_TAU, LEAST_WHOLE_TAU = 0.55, 0.90
WHOLE, CEILING = "KL of the whole assignment", "(half the test images against the others)"
SPLIT_SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """A network with its facts under every predictor, and images that were not used for them.

    Attributes:
        network: `resnet20` or `resnet56`.
        program: Annotated.
        facts: By predictor.
        calibration: What the predictors saw.
        search: Other training images.
        test: The lossless test images.
    """

    network: str
    program: Program
    facts: Mapping[LossMethod, GraphFacts]
    calibration: CalibrationData
    search: CalibrationData
    test: CalibrationData

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers, in order."""
        return tuple(name_of(node) for node in self.program.weighted_nodes)

    def predicted(self, method: LossMethod) -> Mapping[tuple[str, int], float]:
        """What a predictor says of a layer at a width."""
        by_name = self.facts[method].by_name
        return {
            (layer, bits.weight): nats
            for layer in self.layers
            for bits, nats in by_name[layer].loss_increase_nats.items()
        }


def prepare(network: str, samples: int) -> Prepared:
    """Runs the passes of every predictor on a random subset of the lossless training images.

    Args:
        network: `resnet20` or `resnet56`.
        samples: How many images the predictors see; as many others are kept for a search.

    Returns:
        The network with its facts.
    """
    images, labels = images_of("lossless_train.npz")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    calibration, search = (
        CalibrationData(images[part], labels[part]) for part in (order[:samples], order[samples : 2 * samples])
    )
    program = load_program(
        f"codesign.architecture.resnet_cifar:{network}", str(CHECKPOINTS[network]), (1, 3, 32, 32), ROOT
    )
    bits = "+".join(map(str, WEIGHT_BITS))
    seen = f"bits={bits},samples={samples}"
    context = PassContext(calibration)
    _run(
        program,
        f"count-work,observe-activations,quantization-error{{bits={bits}}},"
        f"hessian-trace{{samples={samples},eigenvalues=1}},quadratic-loss{{{seen}}},"
        f"kl-sensitivity{{{seen},max-forwards={AUTO_FORWARDS}}}",
        context,
    )
    facts: dict[LossMethod, GraphFacts] = {}
    for method in sorted(METHODS, key=lambda name: name == "kl"):  # last: its entries are a superset of auto's
        measured = [len(read(node, KlSensitivity).by_bits) for node in program.weighted_nodes]
        if method == "kl" and min(measured) < len(WEIGHT_BITS):
            _run(program, f"kl-sensitivity{{{seen}}}", context)
        PassManager([SensitivityPass(method)]).run(program, context)
        facts[method] = facts_of(program)
        widths = {len(read(node, Sensitivity).by_bits) for node in program.weighted_nodes}
        assert widths == {len(WEIGHT_BITS)}, f"{method}: {widths}"
    return Prepared(network, program, facts, calibration, search, CalibrationData(*images_of("lossless_test.npz")))


def _run(program: Program, pipeline: str, context: PassContext) -> None:
    PassManager(parse_pipeline(pipeline)).run(program, context)


def predictors(prepared: Prepared, assignments: int, whole_samples: int) -> Part:
    """Runs the part.

    Args:
        prepared: The network.
        assignments: Number of random mixed assignments.
        whole_samples: Calibration images on which whole assignments are measured.

    Returns:
        Bars and numbers.
    """
    part = Part()
    meter = Meter(prepared.program, prepared.test, PassContext())
    _single_layers(prepared, meter.layers(RANKED_BITS, Silent()), part)
    seen = CalibrationData(
        prepared.calibration.images[:whole_samples],
        None if prepared.calibration.labels is None else prepared.calibration.labels[:whole_samples],
    )
    _mixtures(prepared, meter, Meter(prepared.program, seen, PassContext()), assignments, part)
    return part


def _single_layers(prepared: Prepared, measured: Mapping[tuple[str, int], SampleIncreases], part: Part) -> None:
    taus: dict[str, dict[int, float]] = {method: {} for method in (*METHODS, CEILING)}
    for bits in RANKED_BITS:
        found = [measured[layer, bits].kl for layer in prepared.layers]
        truth = [float(kl.mean()) for kl in found]
        for method in METHODS:
            predicted = prepared.predicted(method)
            taus[method][bits] = tau([predicted[layer, bits] for layer in prepared.layers], truth)
        taus[CEILING][bits] = half_against_half(found)
    print_table(
        f"{prepared.network}: Kendall's tau with the KL of one quantised layer, {len(found[0])} test images",
        ["predictor", *(f"{bits} b" for bits in RANKED_BITS)],
        [[name, *(f"{row[bits]:.3f}" for bits in RANKED_BITS)] for name, row in taus.items()],
    )
    for bits in RANKED_BITS:
        auto = taus["auto"][bits]
        ceiling = f"ceiling by halves {taus[CEILING][bits]:.2f}"
        part.bars.append(
            Bar(f"{prepared.network}: tau of auto, {bits} bits", auto, least=LEAST_TAU[bits], note=ceiling)
        )
        over = auto - taus["hawq-v2"][bits]
        part.bars.append(Bar(f"{prepared.network}: tau of auto - tau of hawq-v2, {bits} bits", over, least=0))
    part.numbers["single_layer_tau"] = taus
    part.numbers["single_layer_kl"] = {
        layer: {bits: float(measured[layer, bits].kl.mean()) for bits in RANKED_BITS} for layer in prepared.layers
    }


def _mixtures(prepared: Prepared, meter: Meter, on_calibration: Meter, assignments: int, part: Part) -> None:
    generator = np.random.default_rng(SPLIT_SEED)
    drawn = generator.choice(MIXED_BITS, (assignments, len(prepared.layers))).tolist()
    plans = [dict(zip(prepared.layers, row, strict=True)) for row in drawn]
    found = [meter.assignment(plan) for plan in plans]
    predicted: dict[str, list[float]] = {}
    for method in METHODS:
        table = prepared.predicted(method)
        predicted[method] = [sum(table[layer, bits] for layer, bits in plan.items()) for plan in plans]
    predicted[WHOLE] = [float(on_calibration.assignment(plan).kl.mean()) for plan in plans]
    loss, kl = ([float(v.mean()) for v in values] for values in ([f.loss for f in found], [f.kl for f in found]))
    taus = {name: (tau(values, loss), tau(values, kl)) for name, values in predicted.items()}
    taus[CEILING] = (half_against_half([f.loss for f in found]), half_against_half([f.kl for f in found]))
    print_table(
        f"{prepared.network}: Kendall's tau over {assignments} random assignments of {MIXED_BITS}, sums over layers",
        ["predictor", "test loss", "test KL"],
        [[name, *(f"{value:.3f}" for value in row)] for name, row in taus.items()],
    )
    name = prepared.network
    part.bars.append(Bar(f"{name}: tau of auto's sums with the loss", taus["auto"][0], least=LEAST_SUM_TAU))
    part.bars.append(Bar(f"{name}: tau of the whole KL with the loss", taus[WHOLE][0], least=LEAST_WHOLE_TAU))
    part.bars.append(Bar(f"{name}: tau of the whole KL with the KL", taus[WHOLE][1], least=LEAST_WHOLE_TAU))
    part.numbers["mixture_tau"] = {name: {"loss": row[0], "kl": row[1]} for name, row in taus.items()}
    part.numbers["mixtures"] = {"plans": plans, "test_loss": loss, "test_kl": kl, "predicted": predicted}


def tau(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Kendall's tau-b.

    Args:
        predicted: One number for each item.
        measured: The same.

    Returns:
        From -1 to 1; NaN where one side is constant, which meets no bar.
    """
    return float(kendalltau(predicted, measured).statistic)


def half_against_half(samples: Sequence[Floats]) -> float:
    """Tau between every second test image and the others: what a measurement on so few images can tell apart.

    Args:
        samples: `[N]` for each item.

    Returns:
        Tau.
    """
    return tau([float(values[::2].mean()) for values in samples], [float(values[1::2].mean()) for values in samples])
