"""All ONNX operators that networks may hold, and which of a graph's operators are not among them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir
from torch import Tensor

from codesign.errors import UnsupportedOperatorError
from codesign.ir.operators_elementwise import BROADCASTING, UNARY
from codesign.ir.operators_linear import LINEAR
from codesign.ir.operators_normalization import NORMALIZATION, REDUCTIONS
from codesign.ir.operators_pooling import POOLING
from codesign.ir.operators_quantization import QUANTIZATION
from codesign.ir.operators_shape import SHAPE

Compute = Callable[..., Tensor | tuple[Tensor, ...]]
"""Takes the node's attributes and one tensor (None where absent) per operand; only Split returns a tuple."""

OPERATORS: Mapping[str, Compute] = MappingProxyType({
    **UNARY,
    **BROADCASTING,
    **LINEAR,
    **POOLING,
    **NORMALIZATION,
    **REDUCTIONS,
    **SHAPE,
    **QUANTIZATION,
})
"""Operator to what it computes, from opset 13 on."""

SUPPORTED_OPERATORS: frozenset[str] = frozenset(OPERATORS)
"""Operators that a network may hold."""

OLDEST_OPSET = 13
"""Operators are read as defined from this opset on."""

_NODES_NAMED = 4
"""So many nodes of an operator are named in a message."""


def unsupported_operators(model: ir.Model, also_allowed: Iterable[str] = ()) -> tuple[str, ...]:
    """Operators of a graph that cannot be computed, each in words, sorted and without repeats.

    Args:
        model: Any ONNX model; functions are looked into.
        also_allowed: Further operators that the caller knows what to do with.

    Returns:
        Such as `Loop`, `com.microsoft.FusedConv` or `BatchNormalization in training mode`.
    """
    return tuple(sorted(_nodes_by_reason(model, also_allowed)))


def _nodes_by_reason(model: ir.Model, also_allowed: Iterable[str]) -> dict[str, list[str]]:
    """Names of the nodes that cannot be computed, empty where they have none."""
    known = SUPPORTED_OPERATORS | set(also_allowed)
    functions = {(function.domain, function.name) for function in model.functions.values()}
    graphs = (model.graph, *model.functions.values())
    found: dict[str, list[str]] = {}
    for node in (node for graph in graphs for node in graph if (node.domain, node.op_type) not in functions):
        for reason in _reasons(node, known):
            found.setdefault(reason, []).append(node.name or "")
    return found


def refuse_unsupported(model: ir.Model, source: str, also_allowed: Iterable[str] = ()) -> None:
    """Refuses a graph with operators that cannot be computed, naming all of them at once.

    Args:
        model: Any ONNX model.
        source: Where it came from, for the message.
        also_allowed: Further operators that the caller knows what to do with.

    Raises:
        UnsupportedOperatorError: There are any.
    """
    missing = sorted(_nodes_by_reason(model, also_allowed).items())
    if missing:
        listed = ", ".join(reason + _named(nodes) for reason, nodes in missing)
        raise UnsupportedOperatorError(
            f"{source}: unsupported operators: {listed}; replace them in the network with supported ones"
        )


def _named(nodes: Sequence[str]) -> str:
    names = [name for name in nodes if name]
    if not names:
        return ""
    more = [f"{len(nodes) - _NODES_NAMED} more"] if len(nodes) > _NODES_NAMED else []
    return f" ({', '.join([*names[:_NODES_NAMED], *more])})"


def _reasons(node: ir.Node, known: frozenset[str]) -> list[str]:
    if node.domain not in {"", "ai.onnx"}:
        return [f"{node.domain}.{node.op_type}"]
    if node.op_type not in known:
        return [node.op_type]
    reasons = []
    used = [output for output in node.outputs if output.name and (output.uses() or output.is_graph_output())]
    if node.op_type in {"MaxPool", "LayerNormalization", "Dropout", "Attention"} and any(
        output is not node.outputs[0] for output in used
    ):
        reasons.append(f"{node.op_type} with more than one result")
    training = node.attributes.get("training_mode")
    if node.op_type == "BatchNormalization" and training is not None and training.as_int():
        reasons.append("BatchNormalization in training mode")
    block = node.attributes.get("block_size")
    if block is not None and node.op_type in QUANTIZATION and block.as_int():
        reasons.append(f"{node.op_type} with block_size")
    if node.op_type == "Attention" and any(operand is not None for operand in node.inputs[4:]):
        reasons.append("Attention with a cache")
    return reasons
