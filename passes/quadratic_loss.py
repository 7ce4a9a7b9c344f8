"""The pass `quadratic-loss`: the loss's second-order Taylor model along the true error of each quantised weight."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.curvature.quadratic_form import (
    gauss_newton_form,
    gradient_form,
    logit_directions,
    logit_directions_by_gradients,
)
from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationRange, InputMean, QuadraticLoss, QuadraticLossAtBits
from codesign.ir.attributes import Attributes
from codesign.ir.batching import Layout, Value, apply
from codesign.ir.onnx_to_torch import Snapshot, TorchGraph
from codesign.ir.operators import OPERATORS
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.pass_manager.calibration_samples import live_elements_at_once, own_samples, result_elements
from codesign.pass_manager.sample_values import SampleValues
from codesign.progress import track
from codesign.quantization.divergence import Estimate
from codesign.quantization.scheme import WEIGHT_BITS
from codesign.quantization.simulation import SimulatedNetwork

Term = Literal["gauss-newton", "gradient"]
Key = tuple[str, int, Term]


@dataclass(frozen=True)
class QuadraticLossPass(AnalysisPass):
    """Finds `1/2 d^T G d` and, where there are labels, `g^T d`, with d the true error of one quantised node.

    d holds the error of the weight and the change of the bias, as in the final network; G is the Gauss-Newton matrix
    of the mean cross-entropy and g its gradient (`codesign.curvature.quadratic_form`). Nothing is sampled but the data.

    Both ways give the same numbers up to rounding. `forward` differentiates the rest of the network after each node:
    about half of a forward pass for each node and width on average, and half of one more for each node. `backward`
    takes one backward pass for each logit of a sample and one forward pass for each width, however deep the network.

    Attributes:
        bits: Widths to try.
        samples: How many calibration samples to use, from the first.
        bias_correction: Whether biases are corrected.
        dtype: What the network is computed in; sums are in float64.
        direction: How the motion of the logits is found; `auto` takes what costs less.
    """

    name: ClassVar[str] = "quadratic-loss"
    requires: ClassVar[AnnotationSet] = frozenset({ActivationRange, InputMean})
    provides: ClassVar[AnnotationSet] = frozenset({QuadraticLoss})
    bits: tuple[int, ...] = WEIGHT_BITS
    samples: int = 256
    bias_correction: bool = True
    dtype: Literal["float32", "float64"] = "float32"
    direction: Literal["auto", "forward", "backward"] = "auto"

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Must hold calibration data; its labels, if any, give the first-order term.
        """
        nodes = [name_of(node) for node in program.weighted_nodes]
        if not nodes or not self.bits:
            found: Mapping[Key, Estimate] = {}
        else:
            found = self._measure(program, context, nodes)
        for node in program.weighted_nodes:
            entries = tuple(_entry(name_of(node), width, found) for width in self.bits)
            annotate(node, QuadraticLoss(by_bits=entries))

    def _measure(self, program: Program, context: PassContext, nodes: list[str]) -> Mapping[Key, Estimate]:
        dtype = {"float32": torch.float32, "float64": torch.float64}[self.dtype]
        backward = self._runs_backward(program)
        each = result_elements(program) if backward else live_elements_at_once(program)
        elements = (len(self.bits) + 2) * each
        samples = own_samples(self.name, program, context, self.samples, dtype, elements)
        terms: tuple[Term, ...] = ("gauss-newton",) if samples.labels is None else ("gauss-newton", "gradient")
        values = SampleValues([(n, width, term) for n in nodes for width in self.bits for term in terms], context.shard)
        network = SimulatedNetwork(program.graph, self.bias_correction, dtype)
        batches = track(context.progress, "Quadratic model of each layer", samples.batches(), samples.batch_count)
        for x, labels in batches:
            logits = network.graph.run(x)
            for name, moved in (self._backward if backward else self._forward)(network, x):
                forms = {"gauss-newton": gauss_newton_form(logits, moved)}
                if labels is not None:
                    forms["gradient"] = gradient_form(logits, labels, moved)
                for term in terms:
                    for width, form in zip(self.bits, forms[term], strict=True):
                        what = f"pass {self.name}: node {name!r} at {width} bits"
                        values.add((name, width, term), form, what)
        return values.estimates()

    def _runs_backward(self, program: Program) -> bool:
        """Which way takes fewer passes; a backward pass costs about two forward passes."""
        if self.direction != "auto":
            return self.direction == "backward"
        shape = program.graph.graph.outputs[0].shape
        assert shape is not None
        logits = 1
        for size in shape.numpy():
            logits *= size
        forward = len(program.weighted_nodes) * (len(self.bits) + 1) / 2
        return len(self.bits) + 2 * logits < forward

    def _forward(self, network: SimulatedNetwork, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            for snapshot in network.graph.prefixes(x):
                motions = self._motions(network, snapshot)
                logits_after = partial(_logits_after, network.graph, snapshot, motions)
                yield snapshot.node, logit_directions(logits_after, len(self.bits), x)

    def _backward(self, network: SimulatedNetwork, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            motions = {s.node: self._motions(network, s) for s in network.graph.prefixes(x)}
        results: dict[str, Tensor] = {}

        def watch(
            node: ir.Node, _: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...] | None:
            if node.name not in motions:
                return None
            results[node.name] = outputs[0] if outputs[0].requires_grad else outputs[0].requires_grad_()
            return (results[node.name], *outputs[1:])

        with torch.enable_grad():
            logits = network.graph.run(x, on_node=watch)
        yield from logit_directions_by_gradients(logits, results, motions).items()

    def _motions(self, network: SimulatedNetwork, snapshot: Snapshot) -> Tensor:
        """How a node's result moves along the error of each width, `[W, N, ...]`."""
        return torch.stack([_motion(network, snapshot, width) for width in self.bits])


def _logits_after(graph: TorchGraph, snapshot: Snapshot, motions: Tensor, steps: Tensor) -> Tensor:
    """Logits when the result of the snapshot's node has moved by `steps @ motions`."""

    def move(node: ir.Node, _: tuple[Tensor | None, ...], results: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if node.name != snapshot.node:
            return None
        return (results[0] + torch.tensordot(steps, motions, 1), *results[1:])

    return graph.resume(snapshot, on_node=move)


def _motion(network: SimulatedNetwork, snapshot: Snapshot, width: int) -> Tensor:
    """How a node's result moves when its weight and bias move by their error at one width, `[N, ...]`."""
    node = network.layers.nodes[snapshot.node]
    entering, error = node.inputs[0], network.error(snapshot.node, width)
    assert entering is not None
    operands = (snapshot.values[str(entering.name)], Value(error.weight, Layout.CONSTANT))
    attributes = Attributes(node, network.graph.dtype, network.graph.device)
    (moved,) = apply(OPERATORS[node.op_type], attributes, operands)
    return moved.data if error.bias is None else moved.data + error.bias


def _entry(name: str, bits: int, found: Mapping[Key, Estimate]) -> QuadraticLossAtBits:
    curved, slope = found[name, bits, "gauss-newton"], found.get((name, bits, "gradient"))
    return QuadraticLossAtBits(
        weight_bits=bits,
        gauss_newton_nats=curved.mean,
        gauss_newton_standard_error_nats=curved.standard_error,
        gradient_nats=None if slope is None else slope.mean,
        gradient_standard_error_nats=None if slope is None else slope.standard_error,
    )
