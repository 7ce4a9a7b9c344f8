"""The pass `quantization-error`: how far each weight moves at each width."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from codesign.ir.annotation import annotate
from codesign.ir.annotations import QuantizationError, WeightError
from codesign.ir.program import Program
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.quantization.layer import output_axis, weight_of
from codesign.quantization.quantizer import quantize_weight
from codesign.quantization.scheme import WEIGHT_BITS


@dataclass(frozen=True)
class QuantizationErrorPass(AnalysisPass):
    """Quantises every weight at every width and records the squared error.

    Attributes:
        bits: Widths to try.
    """

    name: ClassVar[str] = "quantization-error"
    provides: ClassVar[AnnotationSet] = frozenset({QuantizationError})
    bits: tuple[int, ...] = WEIGHT_BITS

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Not used.
        """
        for node in program.weighted_nodes:
            weight, axis = weight_of(node), output_axis(node)
            norm = float(np.square(weight, dtype=np.float64).sum())
            found = []
            for bits in self.bits:
                difference = quantize_weight(weight, bits, axis).dequantized() - weight
                error = float(np.square(difference, dtype=np.float64).sum())
                found.append(WeightError(bits=bits, squared_error=error, relative_error=error / norm if norm else 0.0))
            annotate(node, QuantizationError(by_bits=tuple(found)))
