"""What every graph must obey between steps, as a table of rules; all violations are listed at once."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from codesign.errors import InputError
from codesign.ir.annotations import is_weighted
from codesign.ir.operator_legality import OPERATOR_RULES
from codesign.ir.shapes import shape_text, static_shape

MINIMUM_OPSET = 21
"""First ONNX opset with 4-bit types and quantisation by blocks."""
MINIMUM_IR_VERSION = 10
"""First ONNX file format with 4-bit types and metadata on nodes."""
KNOWN_TYPES = frozenset({
    *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.BOOL),
    *(ir.DataType.INT2, ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32),
    *(ir.DataType.UINT2, ir.DataType.UINT4, ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32),
    *(ir.DataType.INT64, ir.DataType.UINT64),
})
"""Element types that passes know."""


@dataclass(frozen=True)
class Violation:
    """One way in which a graph is not legal.

    Attributes:
        where: `node 'name' (Conv)`, `value 'name'` or `graph`.
        message: What was found against what is allowed.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


Rule = Callable[[ir.Model], Iterator[Violation]]


def violations(model: ir.Model, rules: Mapping[str, Rule] | None = None) -> tuple[Violation, ...]:
    """Applies rules to a graph.

    Args:
        model: The graph.
        rules: Which rules; by default `RULES`.

    Returns:
        Every violation, by rule and then in the order in which nodes run.
    """
    return tuple(found for rule in (RULES if rules is None else rules).values() for found in rule(model))


def verify(model: ir.Model, subject: str, rules: Mapping[str, Rule] | None = None) -> None:
    """Refuses a graph that is not legal.

    Args:
        model: The graph.
        subject: What the graph is, for the message; usually the file's path.
        rules: Which rules; by default `RULES`.

    Raises:
        InputError: The graph breaks a rule; every violation is listed.
    """
    found = violations(model, rules)
    if found:
        listed = "".join(f"\n  {violation}" for violation in found)
        raise InputError(f"{subject}: the graph is not legal; correct or lower it again:{listed}")


def _at(node: ir.Node, message: str) -> Violation:
    return Violation(f"node {node.name!r} ({node.op_type})", message)


def _one_input_and_output(model: ir.Model) -> Iterator[Violation]:
    inputs = [value.name for value in model.graph.inputs if value.name not in model.graph.initializers]
    outputs = [value.name for value in model.graph.outputs]
    for kind, names in (("input", inputs), ("output", outputs)):
        if len(names) != 1:
            yield Violation("graph", f"has {len(names)} {kind}s ({', '.join(map(str, names))}), allowed is one")


def _versions(model: ir.Model) -> Iterator[Violation]:
    opset = model.opset_imports.get("", 0)
    if opset < MINIMUM_OPSET:
        yield Violation("graph", f"opset is {opset}, allowed is {MINIMUM_OPSET} or later")
    if model.ir_version < MINIMUM_IR_VERSION:
        yield Violation("graph", f"IR version is {model.ir_version}, allowed is {MINIMUM_IR_VERSION} or later")


def _unique_names(model: ir.Model) -> Iterator[Violation]:
    for name, count in Counter(node.name for node in model.graph).items():
        if not name or count > 1:
            yield Violation(f"node {name!r}", f"{count} nodes have this name, every node needs its own")
    produced = [value.name for node in model.graph for value in node.outputs if value.name]
    given = [value.name for value in model.graph.inputs] + [
        name for name, value in model.graph.initializers.items() if not value.is_graph_input()
    ]
    for value_name, count in Counter(produced + given).items():
        if count > 1:
            yield Violation(f"value {value_name!r}", f"{count} values have this name, every value needs its own")


def _defined_before_use(model: ir.Model) -> Iterator[Violation]:
    known = {id(value) for value in model.graph.inputs} | {id(v) for v in model.graph.initializers.values()}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and id(value) not in known:
                state = "after this node" if value.producer() is not None else "nowhere"
                yield _at(node, f"input {value.name!r} is produced {state}; sort the nodes")
        known |= {id(value) for value in node.outputs}
    for value in model.graph.outputs:
        if id(value) not in known:
            yield Violation(f"value {value.name!r}", "is an output of the graph that no node produces")


def _constants_are_initializers(model: ir.Model) -> Iterator[Violation]:
    for node in model.graph:
        if node.op_type == "Constant":
            yield _at(node, "constants must be initialisers, so that passes see weights")
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            yield Violation(f"value {name!r}", "is an initialiser without contents")


def _known_types(model: ir.Model) -> Iterator[Violation]:
    given = [*model.graph.inputs, *model.graph.initializers.values()]
    produced = [value for node in model.graph for value in node.outputs if value.dtype is not None]
    for value in dict.fromkeys([*given, *produced]):
        if value.dtype not in KNOWN_TYPES:
            yield Violation(f"value {value.name!r}", f"type {value.dtype or 'unknown'} is not a known number type")


def _finite_weights(model: ir.Model) -> Iterator[Violation]:
    weights = {node.inputs[1].name: node for node in model.graph if is_weighted(node) and node.inputs[1] is not None}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in KNOWN_TYPES or not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        bad = np.isnan(array) if name not in weights else ~np.isfinite(array)
        if bad.any():
            readers = ", ".join(f"{user.name!r}" for user in value.consumers())
            kind = "are not finite" if name in weights else "are NaN"
            yield Violation(f"value {name!r}", f"{int(bad.sum())} of {array.size} elements {kind} (read by {readers})")


def _operators_fit_operands(model: ir.Model) -> Iterator[Violation]:
    for node in model.graph:
        rule = OPERATOR_RULES.get(node.op_type) if not node.domain else None
        if rule is None:
            continue
        try:
            yield from (_at(node, message) for message in rule(node))
        except TypeError as error:  # from onnx_ir's typed access to attributes
            yield _at(node, f"an attribute has the wrong type ({error})")


def _static_shapes(model: ir.Model) -> Iterator[Violation]:
    for value in model.graph.inputs:
        if static_shape(value) is None:
            yield Violation(f"value {value.name!r}", f"input has shape {shape_text(value)}, allowed are fixed sizes")
    for node in model.graph:
        for value in node.outputs:
            if value.name and (static_shape(value) is None or value.dtype is None):
                yield _at(node, f"result {value.name!r} has shape {shape_text(value)} and type {value.dtype}")


STRUCTURE_RULES: Mapping[str, Rule] = {
    "one-input-and-output": _one_input_and_output,
    "versions": _versions,
    "unique-names": _unique_names,
    "defined-before-use": _defined_before_use,
    "constants-are-initializers": _constants_are_initializers,
    "known-types": _known_types,
    "finite-weights": _finite_weights,
    "operators-fit-operands": _operators_fit_operands,
}
"""Rules that hold before shapes are inferred as well."""

RULES: Mapping[str, Rule] = {**STRUCTURE_RULES, "static-shapes": _static_shapes}
"""All rules."""

SHAPE_RULES: Mapping[str, Rule] = {"static-shapes": _static_shapes}
"""The rules that shape inference establishes."""
