"""What kind of work each operator is, and how many bytes it moves."""

from collections.abc import Iterable
from typing import Literal

from codesign.errors import UnsupportedOperatorError
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import Widths

FREE = frozenset({
    "Constant", "Dropout", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze",
})  # fmt: skip
"""Operators whose result is their operand under another shape, or is known before the network runs."""

MEMORY_BOUND = frozenset({
    # element by element
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min",
    "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign",
    "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where",
    # pooling and reductions
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    # normalisation
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax",
    "RMSNormalization", "Softmax",
    # copies into another order or place
    "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Range",
    "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Trilu",
})  # fmt: skip
"""Operators that read each operand and write each result once, with little arithmetic."""

WorkKind = Literal["multiply", "move", "free"]


def kind_of(node: NodeFacts) -> WorkKind:
    """What kind of work a node is.

    Args:
        node: The node.

    Returns:
        `multiply` for convolutions and matrix products, `move` for nodes that are bound by memory, `free` for nodes
        that do nothing at run time.

    Raises:
        UnsupportedOperatorError: No cost model knows the operator.
    """
    if node.geometry is not None:
        return "multiply"
    if node.op_type in FREE:
        return "free"
    if node.op_type in MEMORY_BOUND:
        return "move" if moved_elements(node) else "free"
    raise UnsupportedOperatorError(_sentence([node]))


def check_operators(nodes: Iterable[NodeFacts]) -> None:
    """Refuses a network with operators that no cost model knows, all of them at once.

    Args:
        nodes: Nodes of the network.

    Raises:
        UnsupportedOperatorError: There are such operators.
    """
    unknown = [node for node in nodes if node.geometry is None and node.op_type not in FREE | MEMORY_BOUND]
    if unknown:
        raise UnsupportedOperatorError(_sentence(unknown))


def _sentence(nodes: list[NodeFacts]) -> str:
    listed = ", ".join(f"{node.op_type} (node {node.name!r})" for node in nodes)
    return f"no cost is known for {listed}; rewrite the network with other operators, or add a rule to cost/operators"


def moved_elements(node: NodeFacts) -> int:
    """Elements that a memory-bound node reads and writes.

    A node that is computed in the kernel before it (an activation function, a residual addition) finds one operand in
    registers and writes what that kernel would have written: only its further operands count.

    Args:
        node: The node.

    Returns:
        Elements.
    """
    if node.fused_into is not None:
        return max(node.input_elements - node.output_elements, 0)
    return node.input_elements + node.output_elements


def operand_widths(node: NodeFacts, bits: Widths) -> tuple[int, int]:
    """Widths of the two factors of a product; without a weight, both are activations.

    Args:
        node: A node that multiplies.
        bits: Its widths.

    Returns:
        Bits of the second factor (the weight) and of the first.
    """
    return (bits.weight if node.weight_elements else bits.activation), bits.activation
