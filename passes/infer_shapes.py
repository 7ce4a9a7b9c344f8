"""The pass `infer-shapes`: type and static shape of every value."""

from dataclasses import dataclass
from typing import ClassVar

from codesign.ir.program import Program
from codesign.ir.shape_inference import infer_shapes
from codesign.pass_manager.base import AnalysisPass, PassContext


@dataclass(frozen=True)
class InferShapesPass(AnalysisPass):
    """Derives the shape of every value from the input's; refuses a graph in which one stays open."""

    name: ClassVar[str] = "infer-shapes"

    def run(self, program: Program, context: PassContext) -> None:
        """Sets types and shapes.

        Args:
            program: The network.
            context: Not used.
        """
        infer_shapes(program.graph)
