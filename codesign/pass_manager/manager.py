"""Runs passes in order and holds each to its declaration."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from codesign.errors import CodesignError, PassError
from codesign.ir.annotation import Annotation, find
from codesign.ir.fingerprint import graph_digest
from codesign.ir.program import Program
from codesign.ir.serialization import restore_facts
from codesign.ir.verifier import RULES, SHAPE_RULES, STRUCTURE_RULES, verify, violations
from codesign.pass_manager.base import AnalysisPass, Pass, PassContext
from codesign.pass_manager.instruments import Instrument
from codesign.pass_manager.staleness import (
    Facts,
    drop_unknown_facts,
    facts_of,
    is_carried,
    make_stale,
    may_change_graph,
    stale_after,
)

LISTED_NODES = 5
"""How many nodes a message names."""


class PassManager:
    """Runs passes in order.

    Before anything runs the schedule is checked: each requirement must be provided by an earlier pass or carried by
    the graph. After each pass its declaration is checked, stale facts are marked and the graph is verified.

    Attributes:
        passes: What runs.
        instruments: Who watches.
        verify: Whether the verifier runs before the first pass and after each.
    """

    def __init__(self, passes: Sequence[Pass], instruments: Iterable[Instrument] = (), verify: bool = True) -> None:
        self.passes = tuple(passes)
        self.instruments = tuple(instruments)
        self.verify = verify

    def run(self, program: Program, context: PassContext) -> None:
        """Runs all passes on a program, in place; after an error the program is half done and must not be used.

        Errors of a pass that are no `CodesignError` become `PassError` with the pass and, where known, the node.

        Args:
            program: What to annotate or transform.
            context: Data, seed and progress for the passes.
        """
        model = program.graph
        if self.verify:
            verify(model, "input of the pipeline", STRUCTURE_RULES)
        restore_facts(model, {kind for pass_ in self.passes for kind in pass_.required() | pass_.provides})
        self._check_schedule(model)
        digest = graph_digest(model)
        for index, pass_ in enumerate(self.passes):
            digest = self._run_one(index, pass_, program, context, digest)

    def _run_one(self, index: int, pass_: Pass, program: Program, context: PassContext, digest_before: str) -> str:
        model = program.graph
        facts_before = facts_of(model)
        shapes_known = not violations(model, SHAPE_RULES)
        for instrument in self.instruments:
            instrument.before(index, pass_, program)
        seconds = _call(pass_, program, context)
        digest = graph_digest(model)
        changed = digest != digest_before
        make_stale(model, stale_after(pass_, frozenset(type(fact) for fact in facts_before.values()), changed))
        if changed:
            drop_unknown_facts(model)
        for instrument in self.instruments:
            instrument.after(index, pass_, program, seconds)
        _check_declaration(pass_, model, facts_before, changed)
        if self.verify:
            _verify_after(pass_, model, shapes_known)
        return digest

    def _check_schedule(self, model: ir.Model) -> None:
        wanted = {kind for pass_ in self.passes for kind in pass_.required()}
        available = frozenset({type(f) for f in facts_of(model).values()} | wanted)
        available = frozenset(kind for kind in available if is_carried(model, kind))
        culprit: dict[type[Annotation], Pass] = {}
        for pass_ in self.passes:
            missing = sorted(pass_.required() - available, key=lambda kind: kind.key)
            if missing:
                raise PassError(f"pass {pass_} requires {'; '.join(_missing(kind, culprit) for kind in missing)}")
            stale = stale_after(pass_, available, may_change_graph(pass_))
            culprit |= dict.fromkeys(stale, pass_)
            available = (available - stale) | pass_.provides


def _missing(kind: type[Annotation], culprit: dict[type[Annotation], Pass]) -> str:
    if kind in culprit:
        return f"{kind.key!r}, which {culprit[kind]} makes stale; schedule a pass that provides it after that"
    return (
        f"{kind.key!r}, which no earlier pass provides and the graph does not carry on every node; "
        f"schedule a pass that provides it before"
    )


def _call(pass_: Pass, program: Program, context: PassContext) -> float:
    started = time.perf_counter()
    try:
        pass_.run(program, context)
    except CodesignError:
        raise
    except Exception as error:  # whatever a pass raises by mistake
        node = _node_at(error)
        where = "" if node is None else f" at node {node.name!r} ({node.op_type})"
        raise PassError(
            f"pass {pass_} failed{where}: {type(error).__name__}: {error}; this is a mistake in the pass, report it"
        ) from error
    return time.perf_counter() - started


def _node_at(error: Exception) -> ir.Node | None:
    """The node that was being worked on: the innermost local variable called `node` on the error's way up."""
    found, trace = None, error.__traceback__
    while trace is not None:
        local = trace.tb_frame.f_locals.get("node")
        found = local if isinstance(local, ir.Node) else found
        trace = trace.tb_next
    return found


def _check_declaration(pass_: Pass, model: ir.Model, before: Facts, changed: bool) -> None:
    if isinstance(pass_, AnalysisPass):
        if changed:
            raise PassError(
                f"pass {pass_} is an AnalysisPass but changed nodes, edges, attributes or weights; "
                f"derive it from TransformPass or leave the graph alone"
            )
        for (node_name, key), fact in facts_of(model).items():
            if type(fact) not in pass_.provides and before.get((node_name, key)) is not fact:
                raise PassError(f"pass {pass_} wrote {key!r} on node {node_name!r} undeclared; add it to `provides`")
    for kind in sorted(pass_.provides, key=lambda kind: kind.key):
        _check_provided(pass_, kind, model)


def _check_provided(pass_: Pass, kind: type[Annotation], model: ir.Model) -> None:
    facts = [(node, find(node, kind)) for node in model.graph if kind.applies_to(node)]
    bare = [node for node, fact in facts if fact is None]
    if bare:
        raise PassError(f"pass {pass_} promised {kind.key!r} on {len(facts)} nodes but left out {_listed(bare)}")
    spoilt = [node for node, fact in facts if fact is not None and any(map(math.isnan, _floats(fact.model_dump())))]
    if spoilt:
        raise PassError(f"pass {pass_} wrote NaN into {kind.key!r} of {_listed(spoilt)}; look at its inputs there")


def _floats(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floats(item)


def _listed(nodes: Sequence[ir.Node]) -> str:
    names = ", ".join(f"{node.name!r} ({node.op_type})" for node in nodes[:LISTED_NODES])
    return f"{names} and {len(nodes) - LISTED_NODES} more" if len(nodes) > LISTED_NODES else names


def _verify_after(pass_: Pass, model: ir.Model, shapes_known: bool) -> None:
    found = violations(model, RULES if shapes_known else STRUCTURE_RULES)
    if found:
        listed = "".join(f"\n  {violation}" for violation in found)
        raise PassError(f"pass {pass_} left a graph that is not legal; this is a mistake in the pass:{listed}")
