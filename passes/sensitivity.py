"""The pass `sensitivity`: the table layer x bits -> loss increase that the search reads."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from codesign.ir.annotation import annotate, read
from codesign.ir.annotations import HessianTrace, KlSensitivity, LossAtBits, QuantizationError, Sensitivity
from codesign.ir.program import Program
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.quantization.scheme import ACTIVATION_BITS


@dataclass(frozen=True)
class SensitivityPass(AnalysisPass):
    """Gathers the estimates of earlier passes into one table.

    Attributes:
        method: `kl`: the measured divergence of one quantised layer (needs `kl-sensitivity`); `hessian`: HAWQ-V2's
            second-order model 1/2 (tr H / n) |Q(w) - w|^2 (needs `hessian-trace` and `quantization-error`).
    """

    name: ClassVar[str] = "sensitivity"
    provides: ClassVar[AnnotationSet] = frozenset({Sensitivity})
    method: Literal["kl", "hessian"] = "kl"

    def required(self) -> AnnotationSet:
        """What the method reads.

        Returns:
            Facts that an earlier pass must provide.
        """
        return frozenset((KlSensitivity,)) if self.method == "kl" else frozenset((HessianTrace, QuantizationError))

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Not used.
        """
        for node in program.weighted_nodes:
            entries = read(node, KlSensitivity).by_bits if self.method == "kl" else second_order(node)
            annotate(node, Sensitivity(by_bits=entries))


def second_order(node: ir.Node) -> tuple[LossAtBits, ...]:
    """HAWQ-V2's model of the loss increase: 1/2 (tr H / n) |Q(w) - w|^2, for an error without preferred direction.

    Args:
        node: A node with a Hessian trace and quantisation errors; a negative trace counts as zero.

    Returns:
        One entry for each width.
    """
    curvature = read(node, HessianTrace)
    return tuple(
        LossAtBits(
            weight_bits=entry.bits,
            activation_bits=ACTIVATION_BITS[-1],
            loss_increase_nats=max(curvature.trace, 0.0) / curvature.parameters * entry.squared_error / 2,
            standard_error_nats=curvature.standard_error / curvature.parameters * entry.squared_error / 2,
            method="hessian",
        )
        for entry in read(node, QuantizationError).by_bits
    )
