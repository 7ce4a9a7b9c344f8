"""Facts of a network that shall be measured, and its forms in float32 and in integers."""

from collections.abc import Mapping

import onnx_ir as ir

from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationRange
from codesign.ir.program import Program
from codesign.pass_manager.base import PassContext
from codesign.passes.count_work import CountWorkPass
from codesign.plan.facts import GraphFacts
from codesign.plan.from_graph import facts_of
from codesign.quantization.qdq import remove_unused_initializers, write_qdq
from codesign.quantization.scheme import BitWidths

RANGE = (-4.0, 4.0)
"""Range given to every activation: how long a kernel takes does not depend on values."""


def probe_facts(model: ir.Model) -> GraphFacts:
    """Facts of a network.

    Args:
        model: In float32, lowered; its nodes are annotated in place.

    Returns:
        The facts.
    """
    program = Program(model)
    CountWorkPass().run(program, PassContext())
    return facts_of(program)


def quantized_copy(model: ir.Model, bits: Mapping[str, BitWidths]) -> ir.Model:
    """The network in integers, with made-up ranges: it is measured, its outputs mean nothing.

    Args:
        model: In float32, lowered.
        bits: Widths of every node with a weight.

    Returns:
        A copy with QDQ nodes.
    """
    copy = model.clone()
    for node in copy.graph:
        inputs = tuple(RANGE if v is not None and v.const_value is None else None for v in node.inputs)
        outputs = tuple(RANGE for _ in node.outputs)
        annotate(node, ActivationRange(inputs=inputs, outputs=outputs, rule="min-max", samples=0))
    write_qdq(copy, bits, bias_correction=False)
    remove_unused_initializers(copy)
    return copy
