"""The pass `kl-sensitivity`: how much the outputs move when one layer alone is quantised (ZeroQ)."""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationRange, InputMean, KlSensitivity, LossAtBits
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.progress import track
from codesign.quantization.scheme import ACTIVATION_BITS, WEIGHT_BITS
from codesign.quantization.simulation import SimulatedNetwork

BATCH = 64


@dataclass(frozen=True)
class KlSensitivityPass(AnalysisPass):
    """Measures KL(p || p with one weight quantised) on calibration data, activations in floating point.

    Layers before the quantised one are not run again: each layer x width costs the rest of one forward pass. The bias
    is corrected as in the final network.

    Attributes:
        bits: Widths to try.
        samples: How many calibration samples to use, from the first.
        bias_correction: Whether biases are corrected.
    """

    name: ClassVar[str] = "kl-sensitivity"
    requires: ClassVar[AnnotationSet] = frozenset({ActivationRange, InputMean})
    provides: ClassVar[AnnotationSet] = frozenset({KlSensitivity})
    bits: tuple[int, ...] = WEIGHT_BITS
    samples: int = 256
    bias_correction: bool = True

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Must hold calibration data.

        Raises:
            InputError: There is no calibration data.
        """
        if context.calibration is None:
            raise InputError(f"pass {self.name} needs calibration data; name some with --data")
        images = torch.from_numpy(np.ascontiguousarray(context.calibration.images[: self.samples]))
        network = SimulatedNetwork(program.graph, self.bias_correction)
        found: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
        batches = torch.split(images, BATCH)
        with torch.no_grad():
            for x in track(context.progress, "Quantising one layer at a time", batches, len(batches)):
                reference = network.graph.run(x).double().log_softmax(-1)
                for snapshot in network.graph.prefixes(x):
                    for bits in self.bits:
                        constants = network.constants(snapshot.node, bits)
                        hook = network.hook({snapshot.node: bits}, quantize_activations=False)
                        logits = network.graph.resume(snapshot, constants, hook)
                        found[snapshot.node, bits].append(divergence(reference, logits))
        for node in program.weighted_nodes:
            entries = [_summary(bits, torch.cat(found[name_of(node), bits])) for bits in self.bits]
            annotate(node, KlSensitivity(by_bits=tuple(entries)))


def divergence(reference_log_probabilities: Tensor, logits: Tensor) -> Tensor:
    """KL divergence of each sample, in nats: sum_c p_c (log p_c - log q_c), mean over positions.

    Args:
        reference_log_probabilities: log p, `[N, ..., C]`, float64.
        logits: Of q, same shape.

    Returns:
        `[N]`.
    """
    log_q = logits.double().log_softmax(-1)
    kl = (reference_log_probabilities.exp() * (reference_log_probabilities - log_q)).sum(-1)
    return kl.reshape(len(kl), -1).mean(1)


def _summary(bits: int, values: Tensor) -> LossAtBits:
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return LossAtBits(
        weight_bits=bits,
        activation_bits=ACTIVATION_BITS[-1],
        loss_increase_nats=max(float(values.mean()), 0.0),
        standard_error_nats=spread,
        method="kl",
    )
