"""Which facts a pass makes stale, and which a graph carries."""

from collections.abc import Mapping

import onnx_ir as ir

from codesign.ir.annotation import Annotation, annotations_of, find, is_stored_fact
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, Pass, TransformPass

Facts = Mapping[tuple[str, str], Annotation]
"""Node name and key to the fact."""


def stale_after(pass_: Pass, present: AnnotationSet, graph_changed: bool) -> AnnotationSet:
    """Kinds of facts that are no longer true once a pass has run.

    A changed graph loses all that the pass neither preserves nor provides. What is derived, directly or not, from a
    lost fact or from one that the pass recomputed is lost too, unless the pass provides it.

    Args:
        pass_: The pass.
        present: Kinds that were there before it ran.
        graph_changed: Whether it changed the graph.

    Returns:
        The kinds that are stale.
    """
    preserved = pass_.preserves if isinstance(pass_, TransformPass) else frozenset[type[Annotation]]()
    lost = present - preserved - pass_.provides if graph_changed else frozenset[type[Annotation]]()
    sources = lost | pass_.provides
    return lost | {kind for kind in present - pass_.provides if _derives_from(kind, sources)}


def may_change_graph(pass_: Pass) -> bool:
    """Whether a pass is allowed to change the graph.

    Args:
        pass_: The pass.

    Returns:
        False for analyses.
    """
    return not isinstance(pass_, AnalysisPass)


def facts_of(model: ir.Model) -> Facts:
    """All facts of a graph that are not stale.

    Args:
        model: The graph.

    Returns:
        Facts by node name and key.
    """
    return {(str(node.name), fact.key): fact for node in model.graph for fact in annotations_of(node)}


def is_carried(model: ir.Model, kind: type[Annotation]) -> bool:
    """Whether every node that a kind of fact applies to has it.

    Args:
        model: The graph.
        kind: Which fact.

    Returns:
        True if none is missing or stale.
    """
    return all(find(node, kind) is not None for node in model.graph if kind.applies_to(node))


def make_stale(model: ir.Model, kinds: AnnotationSet) -> None:
    """Marks facts stale; they are neither read nor written to files any more.

    Args:
        model: The graph.
        kinds: Which facts.
    """
    for node in model.graph:
        for fact in annotations_of(node):
            if type(fact) in kinds:
                node.meta.invalidate(fact.key)


def drop_unknown_facts(model: ir.Model) -> None:
    """Removes stored facts of kinds that are unknown here, since nobody can tell whether they are still true.

    Args:
        model: A graph that has been changed.
    """
    for node in model.graph:
        for key in [key for key, text in node.metadata_props.items() if is_stored_fact(key, text)]:
            del node.metadata_props[key]


def _derives_from(kind: type[Annotation], sources: AnnotationSet) -> bool:
    return any(source in sources or _derives_from(source, sources) for source in kind.derived_from)
