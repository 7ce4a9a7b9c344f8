"""The pass `hessian-trace`: trace and top eigenvalues of the loss's Hessian block in every weight."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir
from torch import Tensor

from codesign.curvature.block_traces import CurvatureMatrix, ProbingMethod
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_blocks
from codesign.curvature.probing import StoppingRule
from codesign.curvature.tapped_network import BlockCurvature
from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import HessianTrace
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.pass_manager.curvature_source import (
    DTYPES,
    CurvatureSource,
    DTypeName,
    WeightsOf,
    all_samples,
    labels_of,
)
from codesign.pass_manager.probed_blocks import ProbedBlocks

_LEAST_SECONDS = 1e-3
"""A time limit that is used up still lets the fewest probes run, for an estimate without error bar is worth nothing."""


@dataclass(frozen=True)
class HessianTracePass(AnalysisPass):
    """Traces of per-layer Hessian blocks of the mean cross-entropy on calibration data.

    Where the network is piecewise linear in a weight the block is its Gauss-Newton block, which needs no labels and is
    found from per-sample gradients (`codesign.curvature.packed_gauss_newton`). Elsewhere random probes estimate the
    trace of the true Hessian, with labels. A weight that several nodes share has one block, which each of them carries.

    Attributes:
        samples: How many calibration samples to use, from the first.
        weights_of: `folded`: the weights that the graph holds and that are quantised; `module`: the torch module's own
            parameters, BatchNorm apart.
        dtype: What the network is computed in; sums are in float64.
        drop: Share of the softmax Hessian's eigenvalues that is sampled instead of run; 0 makes the trace exact.
        pairs_per_sample: Most eigenvectors that are run, as a mean over samples; more are sampled, unless `drop` is 0.
            It bounds the cost for many classes and unsure networks.
        probes: Most random vectors of an estimate for one weight.
        relative_error: Standard error, as a share of the trace, at which an estimate stops earlier.
        method: `auto`: packed where that is exact, Hutchinson elsewhere; `hutchinson`, `hutch++`, `xtrace`: that
            estimate of the Hessian for every layer; `gauss-newton`: the Gauss-Newton matrix for every layer, packed
            where the layer runs once, and labelled where it is not the Hessian.
        eigenvalues: How many of each block's eigenvalues are found, the largest; by Lanczos where it is not packed.
        seconds: Most time for packing and probing, or None; what fits depends on the machine, and so do the numbers.
    """

    name: ClassVar[str] = "hessian-trace"
    provides: ClassVar[AnnotationSet] = frozenset({HessianTrace})
    samples: int = 256
    weights_of: WeightsOf = "folded"
    dtype: DTypeName = "float32"
    drop: float = 0.001
    pairs_per_sample: int = 10
    probes: int = 256
    relative_error: float = 0.05
    method: Literal["auto", "hutchinson", "hutch++", "xtrace", "gauss-newton"] = "auto"
    eigenvalues: int = 0
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"pass {self.name}: samples is {self.samples}, allowed are 1 or more; try 256")
        if self.eigenvalues < 0:
            raise InputError(f"pass {self.name}: eigenvalues is {self.eigenvalues}, allowed are 0 or more; try 1")
        self.packing(2**30, self.samples)  # both refuse options out of range
        self.stopping(self.seconds)

    @property
    def estimator(self) -> ProbingMethod:
        """How traces of blocks that are not packed are estimated."""
        match method := self.method:
            case "hutch++" | "xtrace":
                return method
            case _:
                return "hutchinson"

    def packing(self, memory_bytes: int, samples: int) -> PackingOptions:
        """What the options mean for packed blocks.

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
            eigenvalues=self.eigenvalues,
            seconds=self.seconds,
            memory_bytes=memory_bytes,
        )

    def stopping(self, seconds: float | None) -> StoppingRule:
        """What the options mean for random probes.

        Args:
            seconds: Time that is left for them; None if there is no limit.

        Returns:
            When to stop.
        """
        least = min(StoppingRule.min_probes, self.probes)
        return StoppingRule(
            relative_error=self.relative_error, min_probes=least, max_probes=self.probes, seconds=seconds
        )

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network; with `weights_of=module` it must come from a torch module.
            context: Must hold calibration data, with labels if some block is not Gauss-Newton.
        """
        result = trace_blocks(program, context, self)
        for node in program.weighted_nodes:
            annotate(node, result.facts[name_of(node)])


@dataclass(frozen=True)
class TraceResult:
    """Facts of all nodes with a weight, and what they cost.

    Attributes:
        facts: By node name.
        passes_over_data: Forward and backward sweeps over all samples, each counted as one.
    """

    facts: Mapping[str, HessianTrace]
    passes_over_data: float


def trace_blocks(program: Program, context: PassContext, options: HessianTracePass) -> TraceResult:
    """What the pass `hessian-trace` finds, without touching the graph.

    Args:
        program: The network; with `weights_of=module` it must come from a torch module.
        context: Must hold calibration data, with labels if some block is not Gauss-Newton.
        options: The pass with its options.

    Returns:
        The facts and their cost; none for a network without weights.

    Raises:
        InputError: Data, labels or the module are missing, or a value is NaN or infinite.
    """
    nodes = program.weighted_nodes
    if not nodes:
        return TraceResult({}, 0.0)
    dtype = DTYPES[options.dtype]
    source = CurvatureSource.of(program, options.weights_of, dtype)
    samples = all_samples(options.name, program, context, options.samples, dtype)
    curved = {node: source.obstacle(node) for node in nodes}
    packed = _packed(source, samples.images, curved, options.method)
    probed = [node for node in nodes if node not in packed]
    matrix: CurvatureMatrix = "gauss-newton" if options.method == "gauss-newton" else "hessian"
    if probed and matrix == "hessian":  # said before anything takes long
        why = curved[probed[0]] or "its gradients are not tapped"
        labels_of(samples, f"pass {options.name}: node {probed[0].name!r}: {why}; its Hessian")
    began = time.monotonic()
    blocks, passes = _packed_blocks(source, samples.images, packed, context, options)
    left = None if options.seconds is None else max(options.seconds - (time.monotonic() - began), _LEAST_SECONDS)
    products = ProbedBlocks(source, samples, context)
    estimated, more = products.of(probed, matrix, options.estimator, options.stopping(left), options.eigenvalues)
    blocks |= estimated
    # a module may use a parameter where neither its taps nor the graph, which holds constants, show it
    shown = {node for node in nodes if node in packed or options.weights_of == "folded"}
    hessian = {node for node in nodes if matrix == "hessian" or (curved[node] is None and node in shown)}
    facts = {
        name_of(node): _fact(node, blocks[node], node in hessian, node in packed, source, options, len(samples.images))
        for node in nodes
    }
    return TraceResult(facts, passes + more)


def _packed(
    source: CurvatureSource, images: Tensor, curved: Mapping[ir.Node, str | None], method: str
) -> dict[ir.Node, str]:
    """Nodes whose Gauss-Newton blocks are wanted and can be found from taps, and the layers to tap."""
    if method not in {"auto", "gauss-newton"}:
        return {}
    wanted = [node for node, obstacle in curved.items() if obstacle is None or method == "gauss-newton"]
    return source.tapped(wanted, images) if wanted else {}


def _packed_blocks(
    source: CurvatureSource,
    images: Tensor,
    layer_of: Mapping[ir.Node, str],
    context: PassContext,
    options: HessianTracePass,
) -> tuple[dict[ir.Node, BlockCurvature], float]:
    """Gauss-Newton blocks of layers that run once, and the passes over the data that they took."""
    if not layer_of:
        return {}, 0.0
    result = gauss_newton_blocks(
        source.network,
        images,
        list(layer_of.values()),
        options=options.packing(context.memory_bytes, len(images)),
        seed=context.seed,
        progress=context.progress,
        shard=context.shard,
    )
    return {node: result.blocks[layer] for node, layer in layer_of.items()}, result.passes_over_data


def _fact(
    node: ir.Node,
    block: BlockCurvature,
    is_hessian: bool,
    is_packed: bool,
    source: CurvatureSource,
    options: HessianTracePass,
    samples: int,
) -> HessianTrace:
    return HessianTrace(
        trace=block.trace,
        standard_error=block.standard_error,
        top_eigenvalues=block.eigenvalues,
        parameter=source.parameter_of[name_of(node)],
        parameters=source.weight(node).numel(),
        matrix="hessian" if is_hessian else "gauss-newton",
        exact=is_hessian and not block.draws,
        method="packed-gauss-newton" if is_packed else options.estimator if block.draws else "unit-vectors",
        weights_of=options.weights_of,
        samples=samples,
    )
