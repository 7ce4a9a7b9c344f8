"""The networks that a calibration measures, in order: the user's own first, then drawn ones."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from codesign.calibration.fitting import MeasuredKernel
from codesign.calibration.probe_network import probe_networks
from codesign.calibration.quantized_probe import probe_facts, quantized_copy
from codesign.calibration.samples import FLOAT, KernelSample
from codesign.cost.operators import kind_of
from codesign.files import digest_of
from codesign.plan.facts import GraphFacts, NodeFacts
from codesign.quantization.scheme import BitWidths, Widths

DRAWN = "drawn"
"""Start of the names of networks that are made to be measured."""
USUAL = BitWidths(8, 8)
MIXED_FORMS = 2
SHARE_OF_USUAL = 0.4
"""Of the layers of a drawn network in integers, those with 8-bit weights; the others share all narrower widths."""


@dataclass(frozen=True)
class Probe:
    """A network to measure.

    Attributes:
        name: Names the network with a digest of it, so that samples are never taken for those of another one.
        model: In float32.
        facts: Its facts.
        bits: Widths of every node with a weight; None for float32.
    """

    name: str
    model: ir.Model
    facts: GraphFacts
    bits: Mapping[str, BitWidths] | None

    @property
    def is_drawn(self) -> bool:
        """Whether it was made to be measured, and is no network at hand."""
        return self.name.startswith(DRAWN)

    def graph(self) -> ir.Model:
        """What is compiled: the network as it is, or with QDQ nodes."""
        return self.model if self.bits is None else quantized_copy(self.model, self.bits)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the network's only input, batch included."""
        (start,) = self.model.graph.inputs
        assert start.shape is not None
        return tuple(int(size) for size in start.shape.numpy())

    def widths(self, node: str) -> Widths:
        """Widths that a node has.

        Args:
            node: Its name.

        Returns:
            Its widths; those of activations for a node without a weight.
        """
        return FLOAT if self.bits is None else self.bits.get(node, USUAL)

    @cached_property
    def kernels(self) -> Mapping[str, tuple[NodeFacts, tuple[NodeFacts, ...]]]:
        """Nodes that run by themselves, each with those that are merged into it."""
        merged = {
            node.name: tuple(other for other in self.facts.nodes if other.fused_into == node.name)
            for node in self.facts.nodes
        }
        alone = [node for node in self.facts.nodes if node.fused_into is None and kind_of(node) != "free"]
        return {node.name: (node, merged[node.name]) for node in alone}

    def measured(self, sample: KernelSample, usual_s: float) -> MeasuredKernel:
        """A sample of this network with its facts.

        Args:
            sample: One of its operations.
            usual_s: Seconds of the reference kernel at the usual clock.

        Returns:
            What a fit needs.
        """
        node, merged = self.kernels[sample.operation]
        return MeasuredKernel(node, merged, self.widths(sample.operation), sample.seconds(usual_s))


def model_probes(models: Mapping[str, ir.Model], widths: Sequence[BitWidths]) -> Iterator[Probe]:
    """Forms of the networks at hand: float32, 8 bits, and mixed widths.

    Args:
        models: Lowered networks by name.
        widths: Widths that the device has rates for; none for a device without integers.

    Yields:
        Up to four probes a network.
    """
    for name, model in models.items():
        facts = probe_facts(model)
        label = f"{name} ({_shape_digest(facts)})"
        yield Probe(f"{label}, float32", model, facts, None)
        if USUAL in widths:
            yield Probe(f"{label}, 8 bits", model, facts, {node.name: USUAL for node in facts.weighted})
        for turn in range(MIXED_FORMS if widths else 0):
            yield Probe(f"{label}, mixed {turn}", model, facts, _in_turn(facts, widths, turn))


def drawn_probes(widths: Sequence[BitWidths], seed: int) -> Iterator[Probe]:
    """Drawn networks without end, each in float32 and in integers.

    Args:
        widths: Widths that the device has rates for; none for a device without integers.
        seed: Source of all draws.

    Yields:
        The probes.
    """
    for number, model in enumerate(probe_networks(seed)):
        facts = probe_facts(model)
        label = f"{DRAWN} {seed}.{number} ({_shape_digest(facts)})"
        yield Probe(f"{label}, float32", model, facts, None)
        if widths:
            bits = _drawn(facts, widths, seed * 10_007 + number, SHARE_OF_USUAL)
            yield Probe(f"{label}, integers", model, facts, bits)


def _in_turn(facts: GraphFacts, widths: Sequence[BitWidths], turn: int) -> Mapping[str, BitWidths]:
    """Layers of one shape take one width after the other, so that few networks show each shape at most widths."""
    roots = {node.fused_into for node in facts.nodes if node.op_type == "Add"}
    seen: Counter[tuple[object, bool]] = Counter()
    bits = {}
    for node in facts.weighted:
        shape = (node.geometry, node.name in roots)
        bits[node.name] = widths[(seen[shape] + turn * (len(widths) // MIXED_FORMS)) % len(widths)]
        seen[shape] += 1
    return bits


def _shape_digest(facts: GraphFacts) -> str:
    """Names what is measured; weights, which a factory may draw anew each time, do not matter."""
    return digest_of(repr(facts.nodes))[:8]


def _drawn(facts: GraphFacts, widths: Sequence[BitWidths], seed: int, usual: float) -> Mapping[str, BitWidths]:
    random = np.random.default_rng(seed)
    narrow = [pair for pair in widths if pair != USUAL] or list(widths)
    bits = {}
    for node in facts.weighted:
        takes_usual, choice = random.random() < usual, int(random.integers(len(narrow)))
        bits[node.name] = USUAL if takes_usual and USUAL in widths else narrow[choice]
    return bits
