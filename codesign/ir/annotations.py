"""The kinds of facts that codesign's own passes attach to nodes."""

from typing import ClassVar, Literal

import onnx_ir as ir

from codesign.ir.annotation import Annotation

Provenance = Literal["exact", "estimated", "simulated", "calibrated", "measured"]
"""Where a number came from: a formula that is exact, an estimate, a simulator, a fitted model, or the real device."""

WEIGHTED_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})


def is_weighted(node: ir.Node) -> bool:
    """Whether a node multiplies its input with a constant weight, so that a bit width is chosen for it.

    Args:
        node: A node of the graph.

    Returns:
        True for Conv, Gemm and MatMul whose second input is an initialiser.
    """
    if node.op_type not in WEIGHTED_OPERATORS or len(node.inputs) < 2:
        return False
    weight = node.inputs[1]
    return weight is not None and weight.const_value is not None


class Work(Annotation):
    """What a node computes and moves, for one run of the graph, whatever the bit widths.

    Attributes:
        macs: Multiply-accumulate operations.
        weight_elements: Elements of constant operands with at least two dimensions.
        input_elements: Elements of all operands that are not constant.
        output_elements: Elements of all results.
        weight_bytes: Bytes of all constant operands as stored in the graph.
        input_bytes: Bytes of all operands that are not constant, as typed in the graph.
        output_bytes: Bytes of all results, as typed in the graph.
    """

    key: ClassVar[str] = "work"
    macs: int
    weight_elements: int
    input_elements: int
    output_elements: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int


class _OnWeightedNodes(Annotation):
    """Base of facts that only nodes with a constant weight carry."""

    key: ClassVar[str] = ""

    @classmethod
    def applies_to(cls, node: ir.Node) -> bool:
        """Only nodes whose weight is a constant.

        Args:
            node: A node of the graph.

        Returns:
            Whether the node has a constant weight.
        """
        return is_weighted(node)


class HessianTrace(_OnWeightedNodes):
    """Trace of the loss's Hessian block in a node's weight, mean over samples.

    Attributes:
        trace: Nats per squared unit of weight, summed over the block's diagonal; can be negative where not exact.
        standard_error: Of `trace`; 0 if nothing was sampled.
        top_eigenvalue: Largest eigenvalue of the block, or None if it was not computed.
        parameters: Number of weights, so that trace / parameters is HAWQ-V2's average trace.
        exact: Whether the block is the Hessian itself and not an approximation or a sampled estimate.
        method: How it was found.
        weights_of: `module`: weights as trained, BatchNorm apart; `folded`: weights that the graph holds.
        samples: How many data samples the mean runs over.
    """

    key: ClassVar[str] = "hessian-trace"
    trace: float
    standard_error: float
    top_eigenvalue: float | None
    parameters: int
    exact: bool
    method: Literal["packed-gauss-newton", "hutchinson"]
    weights_of: Literal["module", "folded"]
    samples: int


class WeightError(Annotation):
    """Error of one weight quantised to one width.

    Attributes:
        bits: Width of the weight.
        squared_error: Sum over the weight of (quantised - original)^2.
        relative_error: The same divided by the sum of squared weights; 0 for an all-zero weight.
    """

    key: ClassVar[str] = ""
    bits: int
    squared_error: float
    relative_error: float


class QuantizationError(_OnWeightedNodes):
    """Error of a node's weight at each width."""

    key: ClassVar[str] = "quantization-error"
    by_bits: tuple[WeightError, ...]


class LossAtBits(Annotation):
    """Expected loss increase from quantising one node to one pair of widths.

    Attributes:
        weight_bits: Width of the weight.
        activation_bits: Width of the activations that enter the node.
        loss_increase_nats: The estimate.
        standard_error_nats: Of the estimate, over samples.
        method: Which estimator.
    """

    key: ClassVar[str] = ""
    weight_bits: int
    activation_bits: int
    loss_increase_nats: float
    standard_error_nats: float
    method: Literal["kl", "hessian"]


class KlSensitivity(_OnWeightedNodes):
    """KL divergence of the outputs when only this node is quantised (ZeroQ), mean over samples."""

    key: ClassVar[str] = "kl-sensitivity"
    by_bits: tuple[LossAtBits, ...]


class Sensitivity(_OnWeightedNodes):
    """The table node x bits -> loss increase that the search reads."""

    key: ClassVar[str] = "sensitivity"
    derived_from: ClassVar[tuple[type[Annotation], ...]] = (KlSensitivity, HessianTrace, QuantizationError)
    by_bits: tuple[LossAtBits, ...]


class ActivationRange(Annotation):
    """Ranges of values seen on calibration data, after clipping by the chosen rule.

    Attributes:
        inputs: `(low, high)` of each operand in order, None for constants and absent operands.
        outputs: `(low, high)` of each result in order, None for integers.
        rule: How the range was chosen.
        samples: Calibration samples seen.
    """

    key: ClassVar[str] = "activation-range"
    inputs: tuple[tuple[float, float] | None, ...]
    outputs: tuple[tuple[float, float] | None, ...]
    rule: Literal["min-max", "percentile", "mse"]
    samples: int


class InputMean(_OnWeightedNodes):
    """Mean of the operand that each element of a weight multiplies, over samples and positions, padding included.

    Attributes:
        shape: Shape of the weight with its output channels reduced to one per group.
        values: The means in row-major order.
        samples: Calibration samples seen.
    """

    key: ClassVar[str] = "input-mean"
    shape: tuple[int, ...]
    values: tuple[float, ...]
    samples: int


class CostAtBits(Annotation):
    """Predicted cost of a node at one pair of widths.

    Attributes:
        weight_bits: Width of the weight; 8 for nodes without weight.
        activation_bits: Width of the activations.
        latency_s: Seconds for one run.
        energy_j: Joules for one run.
        bound: What limits the latency.
    """

    key: ClassVar[str] = ""
    weight_bits: int
    activation_bits: int
    latency_s: float
    energy_j: float
    bound: str


class CostEstimate(Annotation):
    """Predicted cost of a node on one target at each pair of widths."""

    key: ClassVar[str] = "cost-estimate"
    derived_from: ClassVar[tuple[type[Annotation], ...]] = (Work,)
    target: str
    provenance: Provenance
    by_bits: tuple[CostAtBits, ...]


ANNOTATION_KINDS: tuple[type[Annotation], ...] = (
    Work,
    HessianTrace,
    QuantizationError,
    KlSensitivity,
    Sensitivity,
    ActivationRange,
    InputMean,
    CostEstimate,
)
"""Kinds that are written to and read from files."""
