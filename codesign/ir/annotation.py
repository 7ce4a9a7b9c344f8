"""Typed facts that passes attach to the nodes of a graph."""

import json
from typing import ClassVar, TypeVar

import onnx_ir as ir
from pydantic import ConfigDict

from codesign.config import StrictModel
from codesign.errors import PassError

METADATA_PREFIX = "codesign."


class Annotation(StrictModel):
    """Base of every fact about one node; subclasses hold JSON values only.

    Attributes:
        key: Kebab-case name, unique among annotations; `codesign.` is put before it on disk.
        derived_from: Annotations whose recomputation makes this one stale.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    key: ClassVar[str]
    derived_from: ClassVar[tuple[type["Annotation"], ...]] = ()

    @classmethod
    def applies_to(cls, node: ir.Node) -> bool:
        """Whether a completely annotated graph carries this fact on `node`.

        Args:
            node: A node of the graph.

        Returns:
            True where the fact is expected; by default on every node.
        """
        return bool(node.op_type)

    def __str__(self) -> str:
        fields = " ".join(f"{name}={_text(value)}" for name, value in self.model_dump(mode="json").items())
        return f"{self.key}{{{fields}}}"


AnnotationT = TypeVar("AnnotationT", bound=Annotation)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, separators=(",", ":"))


def annotate(node: ir.Node, annotation: Annotation) -> None:
    """Attaches a fact to a node, in place of an older one of the same kind.

    Args:
        node: Where it belongs.
        annotation: The fact.
    """
    node.meta[annotation.key] = annotation


def find(node: ir.Node, kind: type[AnnotationT]) -> AnnotationT | None:
    """The fact of one kind on a node, if it is there and not stale.

    Args:
        node: A node of the graph.
        kind: Which fact.

    Returns:
        The fact, or None.
    """
    value = node.meta.get(kind.key) if node.meta.is_valid(kind.key) else None
    return value if isinstance(value, kind) else None


def read(node: ir.Node, kind: type[AnnotationT]) -> AnnotationT:
    """The fact of one kind on a node.

    Args:
        node: A node of the graph.
        kind: Which fact.

    Returns:
        The fact.

    Raises:
        PassError: It is missing or stale.
    """
    value = find(node, kind)
    if value is None:
        state = "stale" if kind.key in node.meta else "missing"
        raise PassError(
            f"node {node.name!r} ({node.op_type}): annotation {kind.key!r} is {state}; "
            f"schedule a pass that provides it earlier in the pipeline"
        )
    return value


def annotations_of(node: ir.Node) -> tuple[Annotation, ...]:
    """All facts on a node that are not stale, by key.

    Args:
        node: A node of the graph.

    Returns:
        The facts in the order of their keys.
    """
    return tuple(v for k, v in sorted(node.meta.items()) if isinstance(v, Annotation) and node.meta.is_valid(k))


def is_stored_fact(key: str, text: str) -> bool:
    """Whether an entry of `metadata_props` is the stored form of a fact, known or not.

    Facts are JSON objects. Other entries with the prefix, such as `codesign.weight-bits`, are decisions: part of the
    graph, never stale.

    Args:
        key: Key of the entry.
        text: Its value.

    Returns:
        True for a fact.
    """
    return key.startswith(METADATA_PREFIX) and text.startswith("{")
