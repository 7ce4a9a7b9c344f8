"""The kinds of facts that codesign's own passes attach to nodes."""

from typing import ClassVar, Literal

import onnx_ir as ir

from codesign.ir.annotation import Annotation

Provenance = Literal["exact", "estimated", "simulated", "calibrated", "measured"]
"""Where a number came from: a formula that is exact, an estimate, a simulator, a fitted model, or the real device."""

TraceMethod = Literal["packed-gauss-newton", "unit-vectors", "hutchinson", "hutch++", "xtrace"]
"""How the trace of a block is found: `unit-vectors` is a product with each, the exact trace of a small block."""

LossMethod = Literal["auto", "kl", "hawq", "hawq-v2", "gauss-newton", "gradient-gauss-newton"]
"""How the loss increase of one quantised node is estimated; see the pass `sensitivity`."""

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
    """Trace and top eigenvalues of the loss's Hessian block in a node's weight, mean over samples.

    Attributes:
        trace: Nats per squared unit of weight, summed over the block's diagonal; can be negative for a Hessian that is
            no Gauss-Newton matrix.
        standard_error: Of `trace`; 0 if nothing was sampled.
        top_eigenvalues: Of the block, largest first (by magnitude where it is indefinite); empty if not asked for.
        parameter: Name of the weight.
        parameters: Number of weights, so that trace / parameters is HAWQ-V2's average trace.
        matrix: What the numbers belong to: the Hessian, or the Gauss-Newton matrix where that differs from it.
        exact: Whether `trace` is that of the Hessian itself, with nothing sampled.
        method: How it was found.
        weights_of: `module`: weights as trained, BatchNorm apart; `folded`: weights that the graph holds.
        samples: How many data samples the mean runs over.
    """

    key: ClassVar[str] = "hessian-trace"
    trace: float
    standard_error: float
    top_eigenvalues: tuple[float, ...]
    parameter: str
    parameters: int
    matrix: Literal["hessian", "gauss-newton"]
    exact: bool
    method: TraceMethod
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
        method: Which estimator; never `auto`, which is a choice among the others.
    """

    key: ClassVar[str] = ""
    weight_bits: int
    activation_bits: int
    loss_increase_nats: float
    standard_error_nats: float
    method: LossMethod


class KlSensitivity(_OnWeightedNodes):
    """KL divergence of the outputs when only this node is quantised (ZeroQ), mean over samples."""

    key: ClassVar[str] = "kl-sensitivity"
    by_bits: tuple[LossAtBits, ...]


class QuadraticLossAtBits(Annotation):
    """Second-order Taylor terms of the loss along the true error of one quantised weight.

    Attributes:
        weight_bits: Width of the weight.
        gauss_newton_nats: `1/2 d^T G d` with the error d of weight and corrected bias, G the Gauss-Newton matrix.
        gauss_newton_standard_error_nats: Over samples.
        gradient_nats: `g^T d`, the first-order term; None without labels.
        gradient_standard_error_nats: Over samples; None without labels.
    """

    key: ClassVar[str] = ""
    weight_bits: int
    gauss_newton_nats: float
    gauss_newton_standard_error_nats: float
    gradient_nats: float | None
    gradient_standard_error_nats: float | None


class QuadraticLoss(_OnWeightedNodes):
    """Quadratic model of the loss increase when only this node is quantised, mean over samples."""

    key: ClassVar[str] = "quadratic-loss"
    by_bits: tuple[QuadraticLossAtBits, ...]


class ActivationLossAtBits(Annotation):
    """What rounding one activation tensor does, at one width.

    Attributes:
        activation_bits: Width of the tensor.
        kl_nats: KL divergence of the outputs when only this tensor is rounded, mean over samples.
        kl_standard_error_nats: Over samples.
        squared_error: Sum over the tensor's elements of (rounded - original)^2, mean over samples.
    """

    key: ClassVar[str] = ""
    activation_bits: int
    kl_nats: float
    kl_standard_error_nats: float
    squared_error: float


class ActivationSensitivity(_OnWeightedNodes):
    """What rounding the tensor that enters this node, for all its readers, does to the outputs.

    Attributes:
        value: Name of the tensor.
        by_bits: One entry for each width.
    """

    key: ClassVar[str] = "activation-sensitivity"
    value: str
    by_bits: tuple[ActivationLossAtBits, ...]


class ActivationTrace(_OnWeightedNodes):
    """Trace of the loss's Hessian in the tensor that enters this node (HAWQ-V2), one sample at a time.

    Attributes:
        value: Name of the tensor.
        elements: Of the tensor, for one sample.
        trace: Mean over samples of the trace of the Hessian of one sample's loss, nats per squared unit.
        standard_error: Of `trace` over random draws; 0 if nothing was sampled.
        matrix: The Hessian, or the Gauss-Newton matrix where that differs from it.
        exact: Whether `trace` is that of the Hessian itself, with nothing sampled.
        samples: How many data samples the mean runs over.
    """

    key: ClassVar[str] = "activation-trace"
    value: str
    elements: int
    trace: float
    standard_error: float
    matrix: Literal["hessian", "gauss-newton"]
    exact: bool
    samples: int


class CrossLayerTerm(Annotation):
    """What quantising two nodes together adds beyond each alone (CLADO).

    Attributes:
        weight_bits: Width of this node's weight.
        other: Name of the other node, which runs later.
        other_weight_bits: Width of its weight.
        loss_increase_nats: KL of both minus the KL of each; often negative.
        standard_error_nats: Over samples.
    """

    key: ClassVar[str] = ""
    weight_bits: int
    other: str
    other_weight_bits: int
    loss_increase_nats: float
    standard_error_nats: float


class CrossLayerTerms(_OnWeightedNodes):
    """Terms of pairs of this node and later ones."""

    key: ClassVar[str] = "cross-layer-terms"
    terms: tuple[CrossLayerTerm, ...]


class FisherDiagonal(_OnWeightedNodes):
    """Mean over samples of squared gradients of the loss in a node's weight, on the data's labels.

    Attributes:
        total: Sum over the weight: the trace of the empirical Fisher matrix.
        by_output_channel: The same for each output channel.
        samples: How many data samples the mean runs over.
    """

    key: ClassVar[str] = "fisher-diagonal"
    total: float
    by_output_channel: tuple[float, ...]
    samples: int


class Sensitivity(_OnWeightedNodes):
    """The table node x bits -> loss increase that the search reads."""

    key: ClassVar[str] = "sensitivity"
    derived_from: ClassVar[tuple[type[Annotation], ...]] = (
        KlSensitivity,
        HessianTrace,
        QuantizationError,
        QuadraticLoss,
    )
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
    QuadraticLoss,
    ActivationSensitivity,
    ActivationTrace,
    CrossLayerTerms,
    FisherDiagonal,
    Sensitivity,
    ActivationRange,
    InputMean,
    CostEstimate,
)
"""Kinds that are written to and read from files."""
