"""The pass `observe-activations`: ranges of activations and mean operands on calibration data."""

from dataclasses import dataclass
from typing import ClassVar

from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationRange, InputMean, is_weighted
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.quantization.observer import observe
from codesign.quantization.scheme import RangeRule


@dataclass(frozen=True)
class ObserveActivationsPass(AnalysisPass):
    """Runs the network over calibration data and records the range of every value and the mean operand of every weight.

    Attributes:
        rule: How ranges are chosen.
        percentile: Share of values, in percent, that rule `percentile` keeps.
    """

    name: ClassVar[str] = "observe-activations"
    provides: ClassVar[AnnotationSet] = frozenset({ActivationRange, InputMean})
    rule: RangeRule = "min-max"
    percentile: float = 99.99

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node.

        Args:
            program: The network.
            context: Must hold calibration data.

        Raises:
            InputError: There is no calibration data, or a value is not finite on it.
        """
        if context.calibration is None:
            raise InputError(f"pass {self.name} needs calibration data; name some with --data")
        images = context.calibration.images
        seen = observe(program.graph, images, self.rule, self.percentile, context.progress)
        for node in program.graph.graph:
            inputs = tuple(
                None if v is None or v.const_value is not None else seen.ranges.get(str(v.name)) for v in node.inputs
            )
            outputs = tuple(seen.ranges.get(str(v.name)) for v in node.outputs)
            annotate(node, ActivationRange(inputs=inputs, outputs=outputs, rule=self.rule, samples=seen.samples))
            if is_weighted(node):
                annotate(node, seen.input_means[name_of(node)])
