"""Facts of a network as JSON values, and back."""

import dataclasses
import math
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from codesign.errors import InputError
from codesign.plan.facts import GraphFacts, NodeFacts, with_merged
from codesign.quantization.scheme import BitWidths

_STORED = tuple(field.name for field in dataclasses.fields(NodeFacts) if field.name != "merged")
"""Fields that are written; which nodes are merged follows from `fused_into`."""


def facts_to_json(facts: GraphFacts) -> dict[str, object]:
    """The facts as JSON values.

    Args:
        facts: The facts.

    Returns:
        A table with `digest` and `nodes`; `loss_increase_nats` is a list of `{weight, activation, nats}`.
    """
    return {"digest": facts.digest, "nodes": [_node_to_json(node) for node in facts.nodes]}


def facts_from_json(value: Mapping[str, object], source: str = "facts.json") -> GraphFacts:
    """The inverse of `facts_to_json`.

    Args:
        value: What `facts_to_json` returned.
        source: Where it comes from, for messages.

    Returns:
        The facts.

    Raises:
        InputError: A field is missing, unknown, of another type or not finite.
    """
    if set(value) != {"digest", "nodes"} or not isinstance(value["nodes"], list):
        raise InputError(f"{source}: needs the keys digest and nodes, got {sorted(value)}; annotate the network again")
    nodes = (_node_from_json(item, f"{source}: nodes.{i}") for i, item in enumerate(value["nodes"]))
    return GraphFacts(with_merged(nodes), str(value["digest"]))


def _node_to_json(node: NodeFacts) -> dict[str, object]:
    losses = [{"weight": b.weight, "activation": b.activation, "nats": x} for b, x in node.loss_increase_nats.items()]
    fields = {name: getattr(node, name) for name in _STORED}
    for name in ("geometry", "window"):
        fields[name] = None if fields[name] is None else dataclasses.asdict(fields[name])
    fields["network"] = dataclasses.asdict(node.network)
    return fields | {"loss_increase_nats": losses, "consumers": list(node.consumers)}


@dataclasses.dataclass(frozen=True)
class _Loss:
    weight: int
    activation: int
    nats: float


_LOSSES = TypeAdapter(tuple[_Loss, ...])
_NODE = TypeAdapter(NodeFacts)


def _node_from_json(value: object, source: str) -> NodeFacts:
    try:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise InputError(
                f"{source}: needs a table of facts, got {type(value).__name__}; annotate the network again"
            )
        unknown = sorted(value.keys() - set(_STORED))
        if unknown:
            raise InputError(f"{source}.{unknown[0]}: unknown key; annotate the network again")
        losses = _LOSSES.validate_python(value.get("loss_increase_nats"))
        node = _NODE.validate_python({**value, "loss_increase_nats": {}})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source}.{key}: {first['msg']}; annotate the network again") from None
    if not all(math.isfinite(row.nats) for row in losses):
        raise InputError(f"{source}.loss_increase_nats: holds a value that is not finite; annotate the network again")
    table = {BitWidths(row.weight, row.activation): row.nats for row in losses}
    return dataclasses.replace(node, loss_increase_nats=table)
