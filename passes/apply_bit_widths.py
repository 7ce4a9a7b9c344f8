"""The pass `apply-bit-widths`: writes a choice of widths into the graph as QDQ nodes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from codesign.errors import InputError
from codesign.ir.annotations import ActivationRange, InputMean
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnnotationSet, PassContext, TransformPass
from codesign.plan.plan import plan_from_json
from codesign.quantization.qdq import remove_unused_initializers, write_qdq
from codesign.quantization.scheme import BitWidths


@dataclass(frozen=True)
class ApplyBitWidthsPass(TransformPass):
    """Quantises every node with a weight, to one width or as a plan says.

    Attributes:
        weight: Width of all weights; exclusive with `plan`.
        activation: Width of all activations.
        plan: Path of a plan's JSON file.
        bias_correction: Whether biases are corrected for the mean error of the weights.
    """

    name: ClassVar[str] = "apply-bit-widths"
    requires: ClassVar[AnnotationSet] = frozenset({ActivationRange, InputMean})
    weight: int | None = None
    activation: int = 8
    plan: str | None = None
    bias_correction: bool = True

    def run(self, program: Program, context: PassContext) -> None:
        """Rewrites the graph.

        Args:
            program: The network; its graph changes in place.
            context: Not used.
        """
        write_qdq(program.graph, self._bits(program), self.bias_correction)
        remove_unused_initializers(program.graph)

    def _bits(self, program: Program) -> Mapping[str, BitWidths]:
        if (self.plan is None) == (self.weight is None):
            raise InputError(f"pass {self.name}: give either weight=BITS or plan=FILE")
        if self.weight is not None:
            widths = BitWidths(self.weight, self.activation)
            return {name_of(node): widths for node in program.weighted_nodes}
        assert self.plan is not None
        try:
            return plan_from_json(json.loads(Path(self.plan).read_text(encoding="utf-8"))).bits_of
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise InputError(
                f"{self.plan}: is not a readable plan ({error}); use a file from plans/ of a run"
            ) from None
