"""The pass `cross-layer`: what quantising two layers together adds beyond each alone (CLADO)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal

import torch
from torch import Tensor

from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationRange, CrossLayerTerm, CrossLayerTerms, InputMean
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.pass_manager.calibration_samples import live_elements_at_once, own_samples
from codesign.pass_manager.sample_values import SampleValues
from codesign.progress import Progress
from codesign.quantization.divergence import divergence, estimate, reference_log_probabilities
from codesign.quantization.simulation import SimulatedNetwork

Choice = tuple[str, int]
"""A node and the width of its weight."""


@dataclass(frozen=True)
class CrossLayerPass(AnalysisPass):
    """Measures KL(i and j quantised) - KL(i quantised) - KL(j quantised) of all pairs of nodes with a weight.

    With L nodes and B widths there are L (L - 1) / 2 * B^2 pairs (CLADO, arXiv 2307.05657). The prefix before the later
    node of a pair is run once for each choice of the earlier one, so that all pairs together cost about L^2 B^2 / 6
    forward passes over the samples, and L B more for prefixes: 67 for a ResNet-20 and one width. Off unless asked for.
    No labels are needed; activations stay in floating point.

    Attributes:
        bits: Widths of both nodes; all combinations are tried.
        samples: How many calibration samples to use, from the first.
        bias_correction: Whether biases are corrected.
        dtype: What the network is computed in; divergences are in float64.
    """

    name: ClassVar[str] = "cross-layer"
    requires: ClassVar[AnnotationSet] = frozenset({ActivationRange, InputMean})
    provides: ClassVar[AnnotationSet] = frozenset({CrossLayerTerms})
    bits: tuple[int, ...] = (3,)
    samples: int = 64
    bias_correction: bool = True
    dtype: Literal["float32", "float64"] = "float32"

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight; pairs stand at the node that runs first.

        Args:
            program: The network.
            context: Must hold calibration data.
        """
        nodes = [name_of(node) for node in program.weighted_nodes]
        found = self._measure(program, context, nodes) if nodes and self.bits else {}
        for index, node in enumerate(program.weighted_nodes):
            pairs = product(self.bits, nodes[index + 1 :], self.bits)
            terms = tuple(_term((nodes[index], own), (other, width), found) for own, other, width in pairs)
            annotate(node, CrossLayerTerms(terms=terms))

    def _measure(
        self, program: Program, context: PassContext, nodes: Sequence[str]
    ) -> Mapping[tuple[Choice, ...], Tensor]:
        dtype = {"float32": torch.float32, "float64": torch.float64}[self.dtype]
        elements = 3 * live_elements_at_once(program)  # the snapshots of both nodes, and what goes on from there
        samples = own_samples(self.name, program, context, self.samples, dtype, elements)
        values = SampleValues(list(_keys(nodes, self.bits)), context.shard)
        network = SimulatedNetwork(program.graph, self.bias_correction, dtype)
        context.progress.start("Quantising two layers at a time", samples.batch_count * len(nodes) * len(self.bits))
        with torch.no_grad():
            for x, _ in samples.batches():
                for key, kl in self._divergences(network, x, nodes, context.progress):
                    what = " and ".join(f"node {name!r} at {width} bits" for name, width in key)
                    values.add(key, kl, f"pass {self.name}: {what}")
        context.progress.finish()
        return values.gather()

    def _divergences(
        self, network: SimulatedNetwork, x: Tensor, nodes: Sequence[str], progress: Progress
    ) -> Iterator[tuple[tuple[Choice, ...], Tensor]]:
        reference = reference_log_probabilities(network.graph, x)
        for index, name in enumerate(nodes):
            for width in self.bits:
                first = (name, width)
                logits = network.graph.run(x, network.constants(*first), network.hook(dict([first]), False))
                yield (first,), divergence(reference, logits)
                for second, logits in self._with_later(network, x, first, nodes[index + 1 :]):
                    yield (first, second), divergence(reference, logits)
                progress.advance()

    def _with_later(
        self, network: SimulatedNetwork, x: Tensor, first: Choice, later: Sequence[str]
    ) -> Iterator[tuple[Choice, Tensor]]:
        """Logits with one node and each later one quantised."""
        if not later:
            return
        constants = network.constants(*first)
        prefixes = network.graph.prefixes(x, later, constants, network.hook(dict([first]), False))
        for snapshot in prefixes:
            for width in self.bits:
                second = (snapshot.node, width)
                both = {**constants, **network.constants(*second)}
                hook = network.hook(dict([first, second]), quantize_activations=False)
                yield second, network.graph.resume(snapshot, both, hook)


def _keys(nodes: Sequence[str], bits: Sequence[int]) -> Iterator[tuple[Choice, ...]]:
    choices = [[(name, width) for width in bits] for name in nodes]
    for index, own in enumerate(choices):
        yield from ((choice,) for choice in own)
        for other in choices[index + 1 :]:
            yield from product(own, other)


def _term(first: Choice, second: Choice, found: Mapping[tuple[Choice, ...], Tensor]) -> CrossLayerTerm:
    extra = estimate(found[first, second] - found[first,] - found[second,])  # sample by sample: errors cancel
    return CrossLayerTerm(
        weight_bits=first[1],
        other=second[0],
        other_weight_bits=second[1],
        loss_increase_nats=extra.mean,
        standard_error_nats=extra.standard_error,
    )
