"""The pass `kl-sensitivity`: how much the outputs move when one layer alone is quantised (ZeroQ)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationRange, InputMean, KlSensitivity, LossAtBits
from codesign.ir.multiply_accumulates import MAC_RULES
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.pass_manager.calibration_samples import live_elements_at_once, own_samples
from codesign.pass_manager.sample_values import SampleValues
from codesign.progress import track
from codesign.quantization.divergence import Estimate, divergence, reference_log_probabilities
from codesign.quantization.scheme import ACTIVATION_BITS, WEIGHT_BITS
from codesign.quantization.simulation import SimulatedNetwork
from codesign.quantization.softened import (
    TEMPERATURE,
    Movement,
    NodeAtBits,
    check_temperature,
    predicted_divergences,
)

Quantity = Literal["plain", "softened", "changed"]
Key = tuple[str, int, Quantity]
QUANTITIES: tuple[Quantity, ...] = ("plain", "softened", "changed")


@dataclass(frozen=True)
class KlSensitivityPass(AnalysisPass):
    """Measures KL(p || p with one weight quantised) on calibration data, activations in floating point.

    Where quantising one layer changes hardly any answer, the KL of softened outputs stands in for that of the outputs:
    it ranks layers on new samples better (`codesign.quantization.softened`). `temperature=1` is ZeroQ's plain KL.

    Layers before the quantised one are not run again: each layer x width costs the rest of one forward pass, about
    half of one on average, and two more passes per batch go into the reference and the prefixes. No labels are needed.
    The bias is corrected as in the final network. Samples may be shared among processes; the values do not depend on
    how, nor on the memory limit, but for the rounding of sums inside the network.

    Attributes:
        bits: Widths to try.
        samples: How many calibration samples to use, from the first.
        bias_correction: Whether biases are corrected.
        temperature: What logits are divided by to soften outputs.
        dtype: What the network is computed in; divergences are in float64.
        max_forwards: Most forward passes over the samples that may be spent, None for no limit. Whole widths are
            measured while they fit, the narrowest first: there a quadratic model, which the pass `sensitivity` can use
            for the others, is furthest from the truth. What is left out has no entry.
    """

    name: ClassVar[str] = "kl-sensitivity"
    requires: ClassVar[AnnotationSet] = frozenset({ActivationRange, InputMean})
    provides: ClassVar[AnnotationSet] = frozenset({KlSensitivity})
    bits: tuple[int, ...] = WEIGHT_BITS
    samples: int = 256
    bias_correction: bool = True
    temperature: float = TEMPERATURE
    dtype: Literal["float32", "float64"] = "float32"
    max_forwards: float | None = None

    def __post_init__(self) -> None:
        check_temperature(self.name, self.temperature)
        if self.max_forwards is not None and not self.max_forwards >= 0:
            raise InputError(
                f"pass {self.name}: max-forwards is {self.max_forwards}, allowed are numbers from 0 or none; try 400"
            )

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Must hold calibration data.
        """
        bits = self._affordable(program, context)
        found = self._measure(program, context, bits)
        for node in program.weighted_nodes:
            entries = (_entry(width, found[name_of(node), width]) for width in self.bits if width in bits)
            annotate(node, KlSensitivity(by_bits=tuple(entries)))

    def _affordable(self, program: Program, context: PassContext) -> tuple[int, ...]:
        if self.max_forwards is None:
            return self.bits
        spent, taken = 0.0, []
        each = sum(remaining_shares(program).values())
        for width in sorted(set(self.bits)):
            if spent + each > self.max_forwards:
                break
            spent += each
            taken.append(width)
        left = sorted(set(self.bits) - set(taken))
        if left:
            context.progress.note(
                f"{self.name}: {each:.3g} forward passes for each width; {', '.join(map(str, left))} bits are left out "
                f"to stay within max-forwards={self.max_forwards:g}"
            )
        return tuple(taken)

    def _measure(self, program: Program, context: PassContext, bits: tuple[int, ...]) -> Mapping[NodeAtBits, Estimate]:
        dtype = {"float32": torch.float32, "float64": torch.float64}[self.dtype]
        elements = 2 * live_elements_at_once(program)  # the snapshot, and what goes on from it
        samples = own_samples(self.name, program, context, self.samples, dtype, elements)
        pairs = [(name_of(node), width) for node in program.weighted_nodes for width in bits]
        values = SampleValues([(*pair, quantity) for pair in pairs for quantity in QUANTITIES], context.shard)
        if not pairs:
            return {}
        network = SimulatedNetwork(program.graph, self.bias_correction, dtype)
        batches = track(context.progress, "Quantising one layer at a time", samples.batches(), samples.batch_count)
        with torch.no_grad():
            for x, _ in batches:
                self._one_batch(network, x, bits, values)
        found = values.estimates()
        return predicted_divergences({
            pair: Movement(found[*pair, "plain"], found[*pair, "softened"], found[*pair, "changed"].mean)
            for pair in pairs
        })

    def _one_batch(
        self, network: SimulatedNetwork, x: Tensor, bits: tuple[int, ...], values: SampleValues[Key]
    ) -> None:
        reference = reference_log_probabilities(network.graph, x)
        softened = (reference / self.temperature).log_softmax(-1)
        for snapshot in network.graph.prefixes(x):
            for width in bits:
                constants = network.constants(snapshot.node, width)
                hook = network.hook({snapshot.node: width}, quantize_activations=False)
                logits = network.graph.resume(snapshot, constants, hook)
                what = f"pass {self.name}: node {snapshot.node!r} at {width} bits"
                changed = (logits.argmax(-1) != reference.argmax(-1)).double()
                values.add((snapshot.node, width, "plain"), divergence(reference, logits), what)
                values.add((snapshot.node, width, "softened"), divergence(softened, logits, self.temperature), what)
                values.add((snapshot.node, width, "changed"), changed.reshape(len(x), -1).mean(1), what)


def remaining_shares(program: Program) -> Mapping[str, float]:
    """How much of a forward pass is run again when a node's weight changes.

    Args:
        program: The network.

    Returns:
        By name of each node with a weight: multiply-accumulates from this node on, over those of the network.
    """
    work = [MAC_RULES[node.op_type](node) for node in program.graph.graph]
    shares, left = {}, sum(work)
    weighted = set(program.weighted_nodes)
    for node, macs in zip(program.graph.graph, work, strict=True):
        if node in weighted:
            shares[name_of(node)] = left / sum(work)
        left -= macs
    return shares


def _entry(bits: int, found: Estimate) -> LossAtBits:
    return LossAtBits(
        weight_bits=bits,
        activation_bits=ACTIVATION_BITS[-1],
        loss_increase_nats=max(found.mean, 0.0),
        standard_error_nats=found.standard_error,
        method="kl",
    )
