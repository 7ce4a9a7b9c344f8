"""The pass `fold-batch-norm`: BatchNormalization becomes part of the convolution before it."""

from dataclasses import dataclass
from typing import ClassVar

from codesign.ir.batch_norm import fold_batch_norm
from codesign.ir.program import Program
from codesign.pass_manager.base import PassContext, TransformPass


@dataclass(frozen=True)
class FoldBatchNormPass(TransformPass):
    """Folds every BatchNormalization whose operand is a convolution that nothing else reads; leaves others alone."""

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, program: Program, context: PassContext) -> None:
        """Rewrites weights and biases of convolutions.

        Args:
            program: The network; its graph changes in place.
            context: Told how many were folded.
        """
        folded = fold_batch_norm(program.graph)
        context.progress.note(f"{folded} BatchNormalization folded")
