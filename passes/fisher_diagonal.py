"""The pass `fisher-diagonal`: squared gradients of every weight, which some methods take for its curvature."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from torch import Tensor

from codesign.curvature.fisher import fisher_diagonal
from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import FisherDiagonal
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.pass_manager.curvature_source import DTYPES, CurvatureSource, DTypeName, all_samples, labels_of


@dataclass(frozen=True)
class FisherDiagonalPass(AnalysisPass):
    """Mean over samples of squared gradients of each sample's cross-entropy in the weights that the graph holds.

    This is the diagonal of the empirical Fisher matrix. It is not that of the Hessian, not even at a minimum. Cost: two
    forward passes and one backward over the samples. A weight that several nodes share has one diagonal, which each of
    them carries.

    Attributes:
        samples: How many calibration samples to use, from the first.
        dtype: What the network is computed in; sums are in float64.
    """

    name: ClassVar[str] = "fisher-diagonal"
    provides: ClassVar[AnnotationSet] = frozenset({FisherDiagonal})
    samples: int = 256
    dtype: DTypeName = "float32"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"pass {self.name}: samples is {self.samples}, allowed are 1 or more; try 256")

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Must hold calibration data with labels.
        """
        nodes = program.weighted_nodes
        if not nodes:
            return
        dtype = DTYPES[self.dtype]
        source = CurvatureSource.of(program, "folded", dtype)
        samples = all_samples(self.name, program, context, self.samples, dtype)
        diagonals = fisher_diagonal(
            source.with_weights,
            source.weights(nodes),
            samples.images,
            labels_of(samples, f"pass {self.name}: the empirical Fisher matrix"),
            seed=context.seed,
            shard=context.shard,
            progress=context.progress,
        )
        for node in nodes:
            annotate(node, _fact(node, diagonals[source.weight_of[name_of(node)]], len(samples.images)))


def _fact(node: ir.Node, diagonal: Tensor, samples: int) -> FisherDiagonal:
    transposed = node.op_type == "Conv" or bool(node.attributes.get_int("transB", 0))
    channels = diagonal if transposed else diagonal.movedim(-1, 0)
    by_channel = channels.flatten(1).sum(1) if diagonal.ndim > 1 else diagonal.sum(0, keepdim=True)
    return FisherDiagonal(total=float(by_channel.sum()), by_output_channel=tuple(by_channel.tolist()), samples=samples)
