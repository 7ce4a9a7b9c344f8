"""The pass `estimate-cost`: what each node costs on a target at each pair of widths."""

from dataclasses import dataclass
from typing import ClassVar

from codesign.cost.base import DEFAULT_BITS, CostModel
from codesign.cost.operators import check_operators
from codesign.cost.select import cost_model_for
from codesign.hardware.catalog import load_target, profile_of
from codesign.ir.annotation import annotate
from codesign.ir.annotations import CostAtBits, CostEstimate, Work
from codesign.ir.program import Program
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.plan.facts import NodeFacts
from codesign.plan.from_graph import facts_of
from codesign.quantization.scheme import BitWidths


@dataclass(frozen=True)
class EstimateCostPass(AnalysisPass):
    """Prices every node with the cost model of a target's profile; nothing is run.

    Nodes with a weight are priced at every pair of widths that the profile has a rate for, others at 8 bits.

    Attributes:
        target: Name of a target, or path of a target's TOML file.
    """

    name: ClassVar[str] = "estimate-cost"
    requires: ClassVar[AnnotationSet] = frozenset({Work})
    provides: ClassVar[AnnotationSet] = frozenset({CostEstimate})
    target: str = "host-cpu"

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node.

        Args:
            program: The network, with `Work` on its nodes.
            context: Not used.
        """
        target = load_target(self.target)
        model = cost_model_for(profile_of(target))
        facts = facts_of(program)
        check_operators(facts.nodes)
        for node, node_facts in zip(program.graph.graph, facts.nodes, strict=True):
            widths = model.profile.bit_widths if node_facts.weight_elements else (DEFAULT_BITS,)
            rows = tuple(_cost_at(model, node_facts, bits) for bits in widths)
            annotate(node, CostEstimate(target=target.name, provenance=model.provenance, by_bits=rows))


def _cost_at(model: CostModel, node: NodeFacts, bits: BitWidths) -> CostAtBits:
    cost = model.price_node(node, bits)
    return CostAtBits(
        weight_bits=bits.weight,
        activation_bits=bits.activation,
        latency_s=cost.latency_s,
        energy_j=cost.energy_j,
        bound=cost.bound,
    )
