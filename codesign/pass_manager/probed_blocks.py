"""Curvature blocks of weights from products with vectors, for passes: the way where nothing exact is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.curvature.activation_memory import activation_bytes_per_sample
from codesign.curvature.block_traces import CurvatureMatrix, ProbingMethod, block_traces
from codesign.curvature.eigenpairs import top_eigenpairs
from codesign.curvature.gauss_newton_operator import GaussNewtonOperator
from codesign.curvature.hessian_operator import HessianOperator
from codesign.curvature.probing import StoppingRule
from codesign.curvature.tapped_network import BlockCurvature
from codesign.ir.program import name_of
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.calibration_samples import Samples
from codesign.pass_manager.curvature_source import CurvatureSource


@dataclass(frozen=True)
class ProbedBlocks:
    """Estimates of diagonal blocks of the mean cross-entropy's Hessian or Gauss-Newton matrix.

    Attributes:
        source: The network and its weights.
        samples: All samples; for the Hessian with labels.
        context: Seed, shard, memory limit and progress.
    """

    source: CurvatureSource
    samples: Samples
    context: PassContext

    def of(
        self,
        nodes: Sequence[ir.Node],
        matrix: CurvatureMatrix,
        method: ProbingMethod,
        rule: StoppingRule,
        eigenvalues: int = 0,
    ) -> tuple[dict[ir.Node, BlockCurvature], float]:
        """Blocks of the weights of some nodes; those that share a weight share its block.

        Args:
            nodes: Nodes with a constant weight.
            matrix: Which matrix.
            method: How the trace is estimated; blocks of few elements are multiplied with all unit vectors.
            rule: When an estimate is good enough.
            eigenvalues: How many eigenvalues of largest magnitude are found, by Lanczos.

        Returns:
            Node to block, and the passes over the data that all of them took.
        """
        weights = self.source.weights(nodes)
        if not weights:
            return {}, 0.0
        at_once = self._samples_at_once(weights)
        found = block_traces(
            self.source.with_weights,
            weights,
            self.samples.images,
            self._targets(),
            method=method,
            rule=rule,
            seed=self.context.seed,
            progress=self.context.progress,
            shard=self.context.shard,
            samples_at_once=at_once,
            curvature=matrix,
        )
        blocks, passes = dict(found.blocks), found.passes_over_data
        for name in weights if eigenvalues else ():
            operator = self._operator(matrix, name, at_once)
            pairs = top_eigenpairs(operator, eigenvalues, seed=self.context.seed, progress=self.context.progress)
            blocks[name] = replace(blocks[name], eigenvalues=tuple(pairs.values.tolist()))
            passes += operator.passes_over_data
        return {node: blocks[self.source.weight_of[name_of(node)]] for node in nodes}, passes

    def _operator(self, matrix: CurvatureMatrix, name: str, at_once: int) -> HessianOperator | GaussNewtonOperator:
        """One weight's block."""
        kind = HessianOperator if matrix == "hessian" else GaussNewtonOperator
        return kind(
            self.source.with_weights,
            {name: self.source.network.weights[name]},
            self.samples.images,
            self._targets(),
            samples_at_once=at_once,
            shard=self.context.shard,
        )

    def _targets(self) -> Tensor:
        """The labels; the network's own answers where there are none, for a Gauss-Newton matrix that needs none."""
        if self.samples.labels is not None:
            return self.samples.labels
        with torch.no_grad():
            parts = [self.source.network(x).argmax(-1) for x in torch.split(self.samples.images, self.samples.batch)]
        return torch.cat(parts)

    def _samples_at_once(self, weights: Mapping[str, Tensor]) -> int:
        """How many samples' gradient graphs fit in memory, measured; products with vectors take as much again."""

        def gradients(some: Tensor) -> tuple[Tensor, ...]:
            leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            outputs = self.source.with_weights(some, leaves)
            squares = outputs.square().sum()  # stands for any curved loss
            if not squares.requires_grad:
                return (outputs,)
            found = torch.autograd.grad(squares, list(leaves.values()), create_graph=True, allow_unused=True)
            return (outputs, *(gradient for gradient in found if gradient is not None))

        fit = self.context.memory_bytes // (2 * activation_bytes_per_sample(gradients, self.samples.images))
        return max(1, min(len(self.samples.images), fit))
