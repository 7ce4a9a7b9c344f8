"""The pass `activation-trace`: trace of the loss's Hessian in the tensor that enters every weighted node (HAWQ-V2)."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.curvature.activation_hessian import activation_traces
from codesign.curvature.activation_memory import activation_bytes_per_sample
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_blocks
from codesign.curvature.probing import StoppingRule
from codesign.curvature.tapped_network import BlockCurvature, check_samples_apart
from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationTrace
from codesign.ir.linearity import gauss_newton_obstacle_of_value
from codesign.ir.program import Program, name_of
from codesign.ir.shapes import static_shape
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.pass_manager.calibration_samples import Samples
from codesign.pass_manager.curvature_source import DTYPES, DTypeName, all_samples, labels_of
from codesign.pass_manager.graph_network import GraphNetwork, taps_the_input_itself

_LEAST_SECONDS = 1e-3
"""A time limit that is used up still lets one round of probes run."""


@dataclass(frozen=True)
class ActivationTracePass(AnalysisPass):
    """Mean over samples of the trace of one sample's Hessian in the tensor that enters a node, for all its readers.

    Where the network is piecewise linear in the tensor the Hessian is its Gauss-Newton matrix, which needs no labels
    and is found from packed gradients. Elsewhere random vectors estimate the trace of the true Hessian, with labels.
    Nodes that read the same tensor carry the same numbers.

    Attributes:
        samples: How many calibration samples to use, from the first.
        dtype: What the network is computed in; sums are in float64.
        drop: Share of the softmax Hessian's eigenvalues that is sampled instead of run; 0 makes the trace exact.
        pairs_per_sample: Most eigenvectors that are run, as a mean over samples; more are sampled, unless `drop` is 0.
            It bounds the cost for many classes and unsure networks.
        probes: Most random vectors of an estimate, for each sample.
        relative_error: Standard error, as a share of the trace, at which an estimate stops earlier.
        method: `auto`: packed where that is exact, Hutchinson elsewhere; `hutchinson`: that estimate of the Hessian for
            every tensor; `gauss-newton`: the Gauss-Newton matrix, labelled where it is not the Hessian.
        seconds: Most time for packing and probing, or None; what fits depends on the machine, and so do the numbers.
    """

    name: ClassVar[str] = "activation-trace"
    provides: ClassVar[AnnotationSet] = frozenset({ActivationTrace})
    samples: int = 256
    dtype: DTypeName = "float32"
    drop: float = 0.001
    pairs_per_sample: int = 10
    probes: int = 256
    relative_error: float = 0.05
    method: Literal["auto", "hutchinson", "gauss-newton"] = "auto"
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"pass {self.name}: samples is {self.samples}, allowed are 1 or more; try 256")
        self.packing(2**30, self.samples)  # both refuse options out of range
        self.stopping(self.seconds)

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Must hold calibration data, with labels where the Hessian is not a Gauss-Newton matrix.
        """
        result = trace_activations(program, context, self)
        for node in program.weighted_nodes:
            annotate(node, result.facts[name_of(node)])

    def packing(self, memory_bytes: int, samples: int) -> PackingOptions:
        """What the options mean for packed traces.

        Args:
            memory_bytes: Most memory for values that are held at once.
            samples: How many there are.

        Returns:
            The packing's own options.
        """
        return PackingOptions(
            drop=self.drop,
            max_pairs=self.pairs_per_sample * samples if self.drop else None,
            relative_error=self.relative_error or None,
            seconds=self.seconds,
            memory_bytes=memory_bytes,
        )

    def stopping(self, seconds: float | None) -> StoppingRule:
        """What the options mean for random vectors.

        Args:
            seconds: Time that is left for them; None if there is no limit.

        Returns:
            When to stop.
        """
        least = min(StoppingRule.min_probes, self.probes)
        return StoppingRule(
            relative_error=self.relative_error, min_probes=least, max_probes=self.probes, seconds=seconds
        )


@dataclass(frozen=True)
class ActivationTraceResult:
    """Facts of all nodes with a weight, and what they cost.

    Attributes:
        facts: By node name.
        passes_over_data: Forward and backward sweeps over all samples, each counted as one.
    """

    facts: Mapping[str, ActivationTrace]
    passes_over_data: float


def trace_activations(program: Program, context: PassContext, options: ActivationTracePass) -> ActivationTraceResult:
    """What the pass `activation-trace` finds, without touching the graph.

    Args:
        program: The network.
        context: Must hold calibration data, with labels where the Hessian is not a Gauss-Newton matrix.
        options: The pass with its options.

    Returns:
        The facts and their cost; none for a network without weights.

    Raises:
        InputError: Data or labels are missing, or a value is NaN or infinite.
    """
    nodes = program.weighted_nodes
    if not nodes:
        return ActivationTraceResult({}, 0.0)
    samples = all_samples(options.name, program, context, options.samples, DTYPES[options.dtype])
    work = _Work(GraphNetwork(program.graph, DTYPES[options.dtype]), samples, context, options)
    curved = {_value(n): gauss_newton_obstacle_of_value(_value(n), shift_invariant_loss=True) for n in nodes}
    packed = work.layers(nodes, curved)
    probed = [value for value in curved if value not in packed]
    if probed and options.method == "gauss-newton":
        raise InputError(
            f"pass {options.name}: method=gauss-newton, but the gradient in value {probed[0].name!r} cannot be packed; "
            f"use method=auto"
        )
    if probed:  # said before anything takes long
        why = curved[probed[0]] or "its gradient cannot be packed"
        labels_of(samples, f"pass {options.name}: value {probed[0].name!r}: {why}; its Hessian")
    began = time.monotonic()
    blocks, passes = work.packed(packed)
    left = None if options.seconds is None else max(options.seconds - (time.monotonic() - began), _LEAST_SECONDS)
    estimated, more = work.probed(probed, options.stopping(left))
    blocks |= estimated
    facts = {name_of(n): work.fact(_value(n), blocks[_value(n)], curved[_value(n)] is None) for n in nodes}
    return ActivationTraceResult(facts, passes + more)


def _value(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


@dataclass(frozen=True)
class _Work:
    """The ways to find traces, on one network and its samples."""

    network: GraphNetwork
    samples: Samples
    context: PassContext
    options: ActivationTracePass

    def layers(self, nodes: Sequence[ir.Node], curved: Mapping[ir.Value, str | None]) -> dict[ir.Value, str]:
        """Values whose Gauss-Newton trace is wanted and can be packed, and a layer that each enters."""
        if self.options.method == "hutchinson":
            return {}
        wanted = [node for node in nodes if curved[_value(node)] is None or self.options.method == "gauss-newton"]
        once = check_samples_apart(self.network, self.samples.images) if wanted else frozenset()
        return {_value(n): name_of(n) for n in wanted if name_of(n) in once and taps_the_input_itself(n)}

    def packed(self, layer_of: Mapping[ir.Value, str]) -> tuple[dict[ir.Value, BlockCurvature], float]:
        """Gauss-Newton traces, and the passes over the data that they took."""
        if not layer_of:
            return {}, 0.0
        result = gauss_newton_blocks(
            self.network,
            self.samples.images,
            [],
            options=self.options.packing(self.context.memory_bytes, len(self.samples.images)),
            seed=self.context.seed,
            progress=self.context.progress,
            shard=self.context.shard,
            activations=list(layer_of.values()),
        )
        return {value: result.activations[layer] for value, layer in layer_of.items()}, result.passes_over_data

    def probed(self, values: Sequence[ir.Value], rule: StoppingRule) -> tuple[dict[ir.Value, BlockCurvature], float]:
        """Traces of the Hessian by products with vectors, and the passes over the data that they took."""
        if not values:
            return {}, 0.0
        assert self.samples.labels is not None
        names = [value.name or "" for value in values]
        found = activation_traces(
            lambda inputs: self.network.with_activations(inputs, names),
            names,
            self.samples.images,
            self.samples.labels,
            rule=rule,
            seed=self.context.seed,
            progress=self.context.progress,
            shard=self.context.shard,
            samples_at_once=self._samples_at_once(names),
        )
        return {value: found.blocks[value.name or ""] for value in values}, found.passes_over_data

    def fact(self, value: ir.Value, block: BlockCurvature, is_linear: bool) -> ActivationTrace:
        """What is known of one value; the two matrices are the same where the network is piecewise linear in it."""
        is_hessian = is_linear or self.options.method != "gauss-newton"
        return ActivationTrace(
            value=value.name or "",
            elements=math.prod(static_shape(value) or ()),
            trace=block.trace,
            standard_error=block.standard_error,
            matrix="hessian" if is_hessian else "gauss-newton",
            exact=is_hessian and not block.draws,
            samples=len(self.samples.images),
        )

    def _samples_at_once(self, names: Sequence[str]) -> int:
        """How many samples' gradient graphs fit in memory, measured; products with vectors take as much again."""

        def gradients(some: Tensor) -> tuple[Tensor, ...]:
            outputs, found = self.network.with_activations(some, names)
            squares = outputs.square().sum()  # stands for any curved loss
            slopes = torch.autograd.grad(squares, list(found.values()), create_graph=True, allow_unused=True)
            return (outputs, *(slope for slope in slopes if slope is not None))

        fit = self.context.memory_bytes // (2 * activation_bytes_per_sample(gradients, self.samples.images))
        return max(1, min(len(self.samples.images), fit))
